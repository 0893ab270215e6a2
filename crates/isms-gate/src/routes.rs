//! The route table: every route of this listener with what it needs. The OpenAPI document describes
//! exactly these (a test compares the two).

use http::Method;
use isms_protocol::resadmin::Right;

/// One route.
#[derive(Debug)]
pub(crate) struct RouteSpec {
    pub(crate) method: Method,
    /// Pattern; `{name}` stands for one segment that is not empty.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) action: Action,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// A token with this right.
    Right(Right),
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Page,
    OpenApi,
    Status,
    Processes,
    Workers,
    Isolation,
    Calls,
    Metrics,
    ListProjects,
    ShowProject,
    ChangeProject,
    DeleteProject,
    Deploy,
    ShowImage,
    UploadImage,
    Invoke,
    ShowProcess,
    ProcessResult,
    CancelProcess,
    ListDead,
    ReplayDead,
    DiscardDead,
    Logs,
    ListTraces,
    ShowTrace,
    ListTracesOfProject,
    ShowTraceOfProject,
    ListTokens,
    CreateToken,
    RevokeToken,
}

const fn route(method: Method, path: &'static str, access: Access, action: Action) -> RouteSpec {
    RouteSpec {
        method,
        path,
        access,
        action,
    }
}

const READ: Access = Access::Right(Right::Read);
const INVOKE: Access = Access::Right(Right::Invoke);
const DEPLOY: Access = Access::Right(Right::Deploy);
const ADMIN: Access = Access::Right(Right::Admin);

/// All routes.
pub(crate) const ROUTES: &[RouteSpec] = &[
    route(Method::GET, "/", Access::Open, Action::Page),
    route(Method::GET, "/api/v1/openapi.json", Access::Open, Action::OpenApi),
    route(Method::GET, "/api/v1/status", READ, Action::Status),
    route(Method::GET, "/api/v1/processes", READ, Action::Processes),
    route(Method::GET, "/api/v1/workers", READ, Action::Workers),
    route(Method::GET, "/api/v1/isolation", READ, Action::Isolation),
    route(Method::GET, "/api/v1/calls", READ, Action::Calls),
    route(Method::GET, "/metrics", READ, Action::Metrics),
    route(Method::GET, "/api/v1/projects", READ, Action::ListProjects),
    route(
        Method::GET,
        "/api/v1/projects/{project}",
        READ,
        Action::ShowProject,
    ),
    route(
        Method::PATCH,
        "/api/v1/projects/{project}",
        ADMIN,
        Action::ChangeProject,
    ),
    route(
        Method::DELETE,
        "/api/v1/projects/{project}",
        DEPLOY,
        Action::DeleteProject,
    ),
    route(Method::POST, "/api/v1/deployments", DEPLOY, Action::Deploy),
    route(
        Method::GET,
        "/api/v1/projects/{project}/images/{image}",
        DEPLOY,
        Action::ShowImage,
    ),
    route(
        Method::PATCH,
        "/api/v1/projects/{project}/images/{image}",
        DEPLOY,
        Action::UploadImage,
    ),
    route(
        Method::POST,
        "/api/v1/projects/{project}/doees/{doee}/invoke",
        INVOKE,
        Action::Invoke,
    ),
    route(Method::GET, "/api/v1/processes/{id}", INVOKE, Action::ShowProcess),
    route(
        Method::GET,
        "/api/v1/processes/{id}/result",
        INVOKE,
        Action::ProcessResult,
    ),
    route(
        Method::DELETE,
        "/api/v1/processes/{id}",
        INVOKE,
        Action::CancelProcess,
    ),
    route(
        Method::GET,
        "/api/v1/projects/{project}/dead",
        READ,
        Action::ListDead,
    ),
    route(
        Method::POST,
        "/api/v1/projects/{project}/dead/{id}/replay",
        INVOKE,
        Action::ReplayDead,
    ),
    route(
        Method::DELETE,
        "/api/v1/projects/{project}/dead/{id}",
        INVOKE,
        Action::DiscardDead,
    ),
    route(
        Method::GET,
        "/api/v1/projects/{project}/doees/{doee}/logs",
        READ,
        Action::Logs,
    ),
    route(Method::GET, "/api/v1/traces", READ, Action::ListTraces),
    route(Method::GET, "/api/v1/traces/{id}", READ, Action::ShowTrace),
    route(
        Method::GET,
        "/api/v1/projects/{project}/traces",
        READ,
        Action::ListTracesOfProject,
    ),
    route(
        Method::GET,
        "/api/v1/projects/{project}/traces/{id}",
        READ,
        Action::ShowTraceOfProject,
    ),
    route(Method::GET, "/api/v1/tokens", ADMIN, Action::ListTokens),
    route(Method::POST, "/api/v1/tokens", ADMIN, Action::CreateToken),
    route(Method::DELETE, "/api/v1/tokens/{id}", ADMIN, Action::RevokeToken),
];

/// What the table has for a request.
#[derive(Debug)]
pub(crate) enum Match<'a> {
    /// A route, and its parameters in the pattern's order.
    Found(&'static RouteSpec, Vec<&'a str>),
    /// The path under other methods only: the value of `Allow`.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

/// Finds the route of a request; `HEAD` takes that of `GET`.
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Match<'a> {
    let wanted = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut others = Vec::new();
    for spec in ROUTES {
        let Some(parameters) = parameters(spec.path, path) else {
            continue;
        };
        if spec.method == *wanted {
            return Match::Found(spec, parameters);
        }
        others.push(spec.method.as_str());
    }
    if others.is_empty() {
        return Match::Nothing;
    }
    if others.contains(&"GET") {
        others.push("HEAD");
    }
    others.sort_unstable();
    Match::OtherMethods(others.join(", "))
}

/// The parameters of a path that fits a pattern.
fn parameters<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut parameters = Vec::new();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected.starts_with('{') && !segment.is_empty() {
            parameters.push(segment);
        } else if expected != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, expected: &str) {
        let (method, path) = request.split_once(' ').expect("METHOD PATH");
        let found = match find(&method.parse().expect("a method"), path) {
            Match::Found(spec, parameters) => format!("{:?} {}", spec.action, parameters.join(" ")),
            Match::OtherMethods(allow) => format!("allow {allow}"),
            Match::Nothing => "nothing".into(),
        };
        assert_eq!(found.trim_end(), expected, "{request}");
    }

    #[test]
    fn routes_are_found_by_method_and_path() {
        check("GET /", "Page");
        check("HEAD /api/v1/status", "Status");
        check("GET /api/v1/projects/p", "ShowProject p");
        check("PATCH /api/v1/projects/p", "ChangeProject p");
        check("DELETE /api/v1/projects/p", "DeleteProject p");
        check("POST /api/v1/projects/p/doees/d/invoke", "Invoke p d");
        check("GET /api/v1/processes/i", "ShowProcess i");
        check("GET /api/v1/processes/i/result", "ProcessResult i");
        check("POST /api/v1/processes/i", "allow DELETE, GET, HEAD");
        check("GET /api/v1/projects/p/dead", "ListDead p");
        check("POST /api/v1/projects/p/dead/i/replay", "ReplayDead p i");
        check("DELETE /api/v1/projects/p/dead/i", "DiscardDead p i");
        check("HEAD /api/v1/projects/p/images/i", "ShowImage p i");
        check("PATCH /api/v1/projects/p/images/i", "UploadImage p i");
        check("PUT /api/v1/projects/p", "allow DELETE, GET, HEAD, PATCH");
        check("OPTIONS /api/v1/deployments", "allow POST");
    }

    #[test]
    fn other_paths_are_nothing() {
        for path in [
            "",
            "*",
            "/api",
            "/api/v1/status/",
            "//api/v1/status",
            "/api/v1/projects/",
            "/api/v1/%73tatus",
        ] {
            check(&format!("GET {path}"), "nothing");
        }
    }

    #[test]
    fn only_the_page_and_the_document_are_open() {
        let open: Vec<_> = ROUTES
            .iter()
            .filter(|spec| spec.access == Access::Open)
            .map(|spec| spec.path)
            .collect();
        assert_eq!(open, ["/", "/api/v1/openapi.json"]);
    }
}
