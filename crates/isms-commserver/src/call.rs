//! One request of a client: route, authenticate, call, respond.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts, uri::PathAndQuery,
};
use isms_http::{
    Authenticator, Body, IdempotencyKey, Incoming, KeyScope, Lowered, Preferences, Problem, TraceIds, Upload,
    accepted, check_right,
};
use isms_ipc::Link;
use isms_protocol::{
    Class, ErrorCode, Flags, Header, Kind, Message, PrincipalId, Service, TraceContext,
    commserver::Auth,
    doer::{Operation, Trigger},
    limits::ASYNC_BODY_LEN_MAX,
    resadmin::{Principal, Right},
};
use tokio::time::Instant;

use crate::{
    invocation::{Authorization, InvocationRef, visible_fields},
    path::RequestPath,
    process,
    response::respond,
    router::{Match, Route},
    table::{Lookup, ProjectEntry, RouteTable},
};

/// All that requests share.
pub(crate) struct Edge {
    pub(crate) link: Link,
    pub(crate) table: Arc<RouteTable>,
    pub(crate) authenticator: Authenticator,
    pub(crate) trace_ids: TraceIds,
}

/// Answers a request, with a problem if need be.
pub(crate) async fn handle(edge: Arc<Edge>, request: Request<Incoming>) -> Response<Body> {
    edge.answer(request).await.unwrap_or_else(Problem::into_response)
}

impl Edge {
    /// Makes the edge of a link and a table that is kept elsewhere.
    pub(crate) fn new(link: Link, table: Arc<RouteTable>) -> Edge {
        let authenticator = Authenticator::new(link.clone(), Service::Commserver);
        Edge {
            link,
            table,
            authenticator,
            trace_ids: TraceIds::default(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let received = Instant::now();
        let (parts, body) = request.into_parts();
        let path = RequestPath::parse(parts.uri.path())
            .map_err(|error| Problem::new(ErrorCode::Invalid, error.to_string()))?;
        if process::is_meant(&path) {
            return self.about_process(&parts, &path).await;
        }
        let route = match self.find(&parts.method, &path)? {
            Match::Found(route) => route,
            Match::OtherMethods(allow) => {
                let detail = "the path has no route for this method; `allow` names those that it has";
                return other_method(&parts.method, &allow, detail);
            }
            Match::Nothing => {
                return Err(Problem::new(
                    ErrorCode::NotFound,
                    "the project has no route for this path",
                ));
            }
        };
        self.check_kernel()?;
        let principal = self.authenticate(&route, &parts.headers).await?;
        let lowered = Lowered::of(&parts.headers)?;
        let deadline = received + lowered.deadline(route.deadline);
        let Preferences { respond_async, .. } = Preferences::of(&parts.headers);
        let (kept, len_max) = match respond_async {
            true => (
                Flags::ASYNC.with(Flags::DURABLE),
                route.body_len_max.min(ASYNC_BODY_LEN_MAX as u64),
            ),
            false => (Flags::NONE, route.body_len_max),
        };
        let key = IdempotencyKey::of(&parts.headers, respond_async)?;
        let upload = Upload {
            body,
            len_max,
            deadline,
        };
        let (trace, asked) = self.trace_ids.context(traceparent(&parts));
        let call = Call {
            trace,
            parts: &parts,
            path: &path,
            route: &route,
            principal: principal.as_deref(),
            class: lowered.class(route.class),
            deadline,
            meant: kept.with(asked),
            key,
        };
        let exchange = upload
            .call(&self.link, |len| call.message(len))
            .await
            .map_err(|problem| problem.in_trace(trace.trace))?;
        if respond_async {
            let process = exchange.message().header.process;
            return Ok(accepted(process, &process::location(&path, process)));
        }
        respond(exchange)
    }

    pub(crate) fn check_kernel(&self) -> Result<(), Problem> {
        if self.link.is_registered() {
            return Ok(());
        }
        Err(Problem::new(
            ErrorCode::Unavailable,
            "the kernel is not there; it is being restarted",
        ))
    }

    fn find(&self, method: &Method, path: &RequestPath<'_>) -> Result<Match, Problem> {
        Ok(self.project(path)?.router.find(method, &path.segments))
    }

    pub(crate) fn project(&self, path: &RequestPath<'_>) -> Result<Arc<ProjectEntry>, Problem> {
        match self.table.lookup(&path.project) {
            Lookup::Project(entry) => Ok(entry),
            Lookup::Unknown => Err(Problem::new(ErrorCode::NotFound, "there is no such project")),
            Lookup::NotLoaded => Err(Problem::new(
                ErrorCode::Unavailable,
                "the routes have not been loaded yet; try again",
            )),
        }
    }

    async fn authenticate(
        &self,
        route: &Route,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Principal>>, Problem> {
        match route.auth {
            Auth::None => Ok(None),
            Auth::Token => {
                let principal = self.authenticator.authenticate(headers).await?;
                check_right(&principal, Right::Invoke, Some(route.project))?;
                Ok(Some(principal))
            }
        }
    }
}

/// A known path under a method that has no route; `detail` says so.
pub(crate) fn other_method(method: &Method, allow: &str, detail: &str) -> Result<Response<Body>, Problem> {
    let allow = HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static("OPTIONS"));
    if *method != Method::OPTIONS {
        return Err(Problem::http(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, allow));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, allow);
    Ok(response)
}

struct Call<'a> {
    trace: TraceContext,
    parts: &'a Parts,
    path: &'a RequestPath<'a>,
    route: &'a Route,
    principal: Option<&'a Principal>,
    class: Class,
    deadline: Instant,
    /// Says whether the Kernel is to keep the call, and to trace it.
    meant: Flags,
    key: Option<IdempotencyKey>,
}

impl Call<'_> {
    fn message(&self, payload_len: Option<u64>) -> Result<Message, Problem> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let header = Header {
            operation: Operation::Invoke as u16,
            flags: self.meant,
            class: self.class,
            // 0 would mean "no deadline".
            remaining_us: (remaining.as_micros() as u64).max(1),
            project: self.route.project,
            target_doee: self.route.version,
            principal: self.principal.map_or(PrincipalId::NONE, |principal| principal.id),
            trace: self.trace,
            ..Header::new(Kind::Request, Service::Commserver, Service::Doer)
        };
        let authorization = match self.route.auth {
            Auth::None => Authorization::PassOn,
            Auth::Token => Authorization::Strip,
        };
        let path = self.path.below_project();
        let segment = |index: usize| self.path.segments.get(index).map_or("", Cow::as_ref);
        let parameters = self
            .route
            .parameters
            .iter()
            .map(|(name, index)| (&**name, segment(*index)));
        let invocation = InvocationRef {
            trigger: Trigger::Http,
            method: self.route.method.as_str(),
            path: &path,
            route: &self.route.pattern,
            parameters: parameters.collect(),
            query: self.parts.uri.query().unwrap_or_default(),
            headers: visible_fields(&self.parts.headers, authorization),
            principal: self.principal.map_or("", |principal| &principal.name),
            payload_len,
        };
        let message = Message::with_body(header, &invocation);
        let scope = KeyScope::Route {
            method: self.route.method.as_str(),
            target: self.parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
        };
        Ok(match &self.key {
            Some(key) => key.put_on(message, scope),
            None => message,
        })
    }
}

/// The field's value if it is there exactly once.
pub(crate) fn traceparent(parts: &Parts) -> Option<&[u8]> {
    let mut values = parts.headers.get_all("traceparent").iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}
