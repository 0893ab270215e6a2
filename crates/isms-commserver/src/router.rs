//! The routes of one project: a tree over path segments.
//!
//! A literal segment beats a parameter, and when the literal branch leads nowhere the parameter is
//! tried. A pattern's parameter is a whole segment and never empty. Each node is visited at most
//! once, so a match costs at most as much as the project has routes, however the path is made.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use http::Method;
use isms_protocol::{
    Class, DoeeVersion, ProjectId,
    commserver::{Auth, HttpRoute, ProjectRoutes},
    limits::STREAM_LEN_MAX,
};

/// Routes of one project.
const ROUTES_MAX: usize = 1024;
/// Bytes of one pattern.
const PATTERN_LEN_MAX: usize = 1024;

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) project: ProjectId,
    pub(crate) method: Method,
    pub(crate) pattern: String,
    /// Names of the parameters and the segments that hold them.
    pub(crate) parameters: Vec<(String, usize)>,
    pub(crate) auth: Auth,
    pub(crate) version: DoeeVersion,
    pub(crate) class: Class,
    pub(crate) deadline: Duration,
    pub(crate) body_len_max: u64,
}

/// What a project has for a path and a method.
#[derive(Debug)]
pub(crate) enum Match {
    /// A route.
    Found(Arc<Route>),
    /// Routes for other methods only: the value of `Allow`.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

/// Why routes are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouterError {
    #[error("{count} routes are more than {ROUTES_MAX}")]
    Count { count: usize },
    #[error("route `{route}` is malformed: expected METHOD /literal/{{parameter}}")]
    Malformed { route: String },
    #[error("route `{route}` has a deadline or body limit that is not possible")]
    Limits { route: String },
    #[error("route `{route}` is there twice")]
    Duplicate { route: String },
}

/// The routes of one project.
#[derive(Debug, Default)]
pub(crate) struct Router {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    routes: Vec<Arc<Route>>,
}

impl Router {
    /// Builds the tree; refuses routes that could never be told apart.
    pub(crate) fn build(routes: &ProjectRoutes) -> Result<Router, RouterError> {
        if routes.routes.len() > ROUTES_MAX {
            return Err(RouterError::Count {
                count: routes.routes.len(),
            });
        }
        let mut router = Router::default();
        for route in &routes.routes {
            router.insert(routes.project, route)?;
        }
        Ok(router)
    }

    /// Finds the route for a path. `HEAD` takes the route of `GET` unless it has its own.
    pub(crate) fn find(&self, method: &Method, segments: &[Cow<'_, str>]) -> Match {
        let mut others = Vec::new();
        if let Some(route) = self.root.find(method, segments, &mut others) {
            return Match::Found(route.clone());
        }
        let get = (*method == Method::HEAD).then(|| others.iter().find(|route| route.method == Method::GET));
        match get.flatten() {
            Some(route) => Match::Found((*route).clone()),
            None if others.is_empty() => Match::Nothing,
            None => Match::OtherMethods(allow(&others)),
        }
    }

    fn insert(&mut self, project: ProjectId, route: &HttpRoute) -> Result<(), RouterError> {
        let name = || format!("{} {}", route.method, route.path.escape_debug());
        let malformed = || RouterError::Malformed { route: name() };
        let method = parse_method(&route.method).ok_or_else(malformed)?;
        if route.deadline_ms == 0 || route.body_len_max > STREAM_LEN_MAX {
            return Err(RouterError::Limits { route: name() });
        }
        let mut parameters = Vec::new();
        let mut node = &mut self.root;
        for (index, segment) in pattern_segments(&route.path).ok_or_else(malformed)?.enumerate() {
            node = match parse_segment(segment).ok_or_else(malformed)? {
                Segment::Literal(literal) => node.literals.entry(literal.to_owned()).or_default(),
                Segment::Parameter(name) => {
                    parameters.push((name.to_owned(), index));
                    node.parameter.get_or_insert_default()
                }
            };
        }
        if node.routes.iter().any(|other| other.method == method) {
            return Err(RouterError::Duplicate { route: name() });
        }
        node.routes.push(Arc::new(Route {
            project,
            method,
            pattern: route.path.clone(),
            parameters,
            auth: route.auth,
            version: route.version,
            class: route.class,
            deadline: Duration::from_millis(route.deadline_ms.into()),
            body_len_max: route.body_len_max,
        }));
        Ok(())
    }
}

impl Node {
    fn find<'a>(
        &'a self,
        method: &Method,
        segments: &[Cow<'_, str>],
        others: &mut Vec<&'a Arc<Route>>,
    ) -> Option<&'a Arc<Route>> {
        let Some((first, rest)) = segments.split_first() else {
            let found = self.routes.iter().find(|route| route.method == *method);
            if found.is_none() {
                others.extend(&self.routes);
            }
            return found;
        };
        let literal = self
            .literals
            .get(&**first)
            .and_then(|node| node.find(method, rest, others));
        literal.or_else(|| {
            let parameter = self.parameter.as_ref().filter(|_| !first.is_empty())?;
            parameter.find(method, rest, others)
        })
    }
}

enum Segment<'a> {
    Literal(&'a str),
    Parameter(&'a str),
}

/// The methods that a manifest may name.
fn parse_method(method: &str) -> Option<Method> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    known.into_iter().find(|known| known.as_str() == method)
}

/// The segments of a pattern; none for `/`.
fn pattern_segments(pattern: &str) -> Option<impl Iterator<Item = &str>> {
    let below = pattern
        .strip_prefix('/')
        .filter(|below| below.len() < PATTERN_LEN_MAX)?;
    Some(
        below
            .split('/')
            .take(if below.is_empty() { 0 } else { usize::MAX }),
    )
}

fn parse_segment(segment: &str) -> Option<Segment<'_>> {
    let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let name = parameter.unwrap_or(segment);
    let is_plain = !name.contains(['{', '}']) && !name.chars().any(char::is_control);
    match parameter {
        Some(name) if is_plain && !name.is_empty() => Some(Segment::Parameter(name)),
        None if is_plain => Some(Segment::Literal(segment)),
        _ => None,
    }
}

fn allow(routes: &[&Arc<Route>]) -> String {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.sort_unstable();
    methods.dedup();
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(patterns: &[&str]) -> ProjectRoutes {
        let routes = patterns.iter().map(|pattern| {
            let (method, path) = pattern.split_once(' ').expect("METHOD PATH");
            HttpRoute {
                method: method.into(),
                path: path.into(),
                auth: Auth::None,
                doee: "d".into(),
                version: DoeeVersion::generate(),
                class: Class::Normal,
                deadline_ms: 1000,
                body_len_max: 10,
            }
        });
        ProjectRoutes {
            project: ProjectId::generate(),
            name: "p".into(),
            revision: 1,
            routes: routes.collect(),
        }
    }

    fn find(patterns: &[&str], request: &str) -> String {
        let router = Router::build(&routes(patterns)).expect("valid routes");
        let (method, path) = request.split_once(" /").expect("METHOD PATH");
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let segments: Vec<_> = match path {
            "" => vec![],
            path => path.split('/').map(Cow::Borrowed).collect(),
        };
        match router.find(&method, &segments) {
            Match::Found(route) => {
                let parameters = route.parameters.iter();
                let parameters: String = parameters
                    .map(|(name, index)| format!(" {name}={}", segments[*index]))
                    .collect();
                format!("{} {}{parameters}", route.method, route.pattern)
            }
            Match::OtherMethods(allow) => format!("allow {allow}"),
            Match::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn a_literal_beats_a_parameter_wherever_it_is_declared() {
        let patterns = ["GET /m/{id}", "GET /m/all", "GET /{a}/all"];
        assert_eq!(find(&patterns, "GET /m/all"), "GET /m/all");
        assert_eq!(find(&patterns, "GET /m/7"), "GET /m/{id} id=7");
        assert_eq!(find(&patterns, "GET /x/all"), "GET /{a}/all a=x");
        assert_eq!(find(&patterns, "GET /x/y"), "nothing");
    }

    #[test]
    fn a_parameter_is_tried_when_the_literal_leads_nowhere() {
        let patterns = ["GET /a/b/c", "GET /{x}/b/d", "POST /a/{y}/d"];
        assert_eq!(find(&patterns, "GET /a/b/d"), "GET /{x}/b/d x=a");
        assert_eq!(find(&patterns, "POST /a/b/d"), "POST /a/{y}/d y=b");
        assert_eq!(find(&patterns, "PUT /a/b/d"), "allow GET, HEAD, OPTIONS, POST");
    }

    #[test]
    fn root_empty_segments_and_trailing_slashes_are_told_apart() {
        let patterns = ["GET /", "GET /a", "GET /a/{b}", "GET /c/"];
        assert_eq!(find(&patterns, "GET /"), "GET /");
        assert_eq!(find(&patterns, "GET /a"), "GET /a");
        assert_eq!(find(&patterns, "GET /a/"), "nothing");
        assert_eq!(find(&patterns, "GET /c"), "nothing");
        assert_eq!(find(&patterns, "GET /c/"), "GET /c/");
    }

    #[test]
    fn head_takes_the_route_of_get_unless_it_has_its_own() {
        assert_eq!(find(&["GET /a"], "HEAD /a"), "GET /a");
        assert_eq!(find(&["GET /a", "HEAD /a"], "HEAD /a"), "HEAD /a");
        assert_eq!(find(&["POST /a"], "HEAD /a"), "allow OPTIONS, POST");
    }

    #[test]
    fn other_methods_are_listed_once() {
        let patterns = ["GET /a", "POST /a", "GET /{x}", "DELETE /{x}"];
        assert_eq!(
            find(&patterns, "PUT /a"),
            "allow DELETE, GET, HEAD, OPTIONS, POST"
        );
    }

    #[test]
    fn routes_that_cannot_work_are_refused() {
        let refused = |patterns: &[&str]| Router::build(&routes(patterns)).expect_err("refused");
        for pattern in [
            "get /a",
            "BREW /a",
            "OPTIONS /a",
            "GET a",
            "GET /{}",
            "GET /a{b}",
            "GET /{a",
            "GET /a\n",
        ] {
            let expected = RouterError::Malformed {
                route: pattern.escape_debug().to_string(),
            };
            assert_eq!(refused(&[pattern]), expected);
        }
        let duplicate = RouterError::Duplicate {
            route: "GET /{b}".into(),
        };
        assert_eq!(refused(&["GET /{a}", "GET /{b}"]), duplicate);
        let many: Vec<_> = (0..=ROUTES_MAX).map(|number| format!("GET /{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(
            refused(&many),
            RouterError::Count {
                count: ROUTES_MAX + 1
            }
        );
    }
}
