//! The management API: checks that every request passes, and the asking of other services.

mod calls;
mod dead;
mod deploy;
mod images;
mod invoke;
mod logs;
mod platform;
mod process;
mod projects;
mod tokens;
mod traces;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use isms_http::{Authenticator, Body, Incoming, Problem, TraceIds, check_right};
use isms_ipc::Link;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProjectId, Service, TraceContext,
    resadmin::{self, DescribeProject, Principal, Project},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, watch};

use crate::{
    Config,
    host::HostPolicy,
    log_store::LogStore,
    names::NameCache,
    otlp::Counts,
    page,
    routes::{self, Access, Action, Match},
    trace_store::TraceStore,
};

/// How long a service may take for what is not a call or a deployment.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// All that requests share.
pub(crate) struct Gate {
    config: Config,
    link: Link,
    authenticator: Authenticator,
    logs: Arc<LogStore>,
    traces: Arc<TraceStore>,
    names: Arc<NameCache>,
    exported: Option<Arc<Counts>>,
    followers: Arc<Semaphore>,
    hosts: HostPolicy,
    trace_ids: TraceIds,
    shutdown: watch::Receiver<bool>,
}

/// What Gate keeps in memory, and what it has passed on.
pub(crate) struct Stores {
    pub(crate) logs: Arc<LogStore>,
    pub(crate) traces: Arc<TraceStore>,
    pub(crate) names: Arc<NameCache>,
    /// Of traces, where they are passed on.
    pub(crate) exported: Option<Arc<Counts>>,
}

/// One request of an authenticated caller.
struct Call<'a> {
    gate: &'a Gate,
    caller: Arc<Principal>,
    parts: &'a Parts,
    /// Values of the route's parameters.
    parameters: Vec<&'a str>,
}

type Answer = Result<Response<Body>, Problem>;

/// Answers a request, with a problem if need be.
pub(crate) async fn handle(gate: Arc<Gate>, request: Request<Incoming>) -> Response<Body> {
    let mut response = gate.answer(request).await.unwrap_or_else(Problem::into_response);
    secure(response.headers_mut());
    response
}

/// Says to browsers that nothing here is for other origins, for frames, or for keeping.
fn secure(headers: &mut HeaderMap) {
    let fields = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = header::CONTENT_SECURITY_POLICY;
    headers.entry(policy).or_insert(HeaderValue::from_static(
        "default-src 'none'; frame-ancestors 'none'; sandbox",
    ));
}

impl Gate {
    /// Makes the API of a link and of stores that are kept elsewhere.
    pub(crate) fn new(
        config: Config,
        link: Link,
        stores: Stores,
        hosts: HostPolicy,
        shutdown: watch::Receiver<bool>,
    ) -> Gate {
        Gate {
            authenticator: Authenticator::new(link.clone(), Service::Gate),
            followers: Arc::new(Semaphore::new(config.logs.followers_max)),
            trace_ids: TraceIds::default(),
            config,
            link,
            logs: stores.logs,
            traces: stores.traces,
            names: stores.names,
            exported: stores.exported,
            hosts,
            shutdown,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.hosts.check(&request)?;
        let (parts, body) = request.into_parts();
        let (spec, parameters) = match routes::find(&parts.method, parts.uri.path()) {
            Match::Found(spec, parameters) => (spec, parameters),
            Match::OtherMethods(allow) => return other_method(&parts.method, &allow),
            Match::Nothing => return Err(Problem::new(ErrorCode::NotFound, "there is no such route")),
        };
        let Access::Right(right) = spec.access else {
            return Ok(page::respond(spec.action));
        };
        if !self.link.is_registered() {
            return Err(Problem::new(
                ErrorCode::Unavailable,
                "the kernel is not there; it is being restarted",
            ));
        }
        let caller = self.authenticator.authenticate(&parts.headers).await?;
        check_right(&caller, right, None)?;
        let call = Call {
            gate: self,
            caller,
            parts: &parts,
            parameters,
        };
        call.run(spec.action, body).await
    }
}

fn other_method(method: &Method, allow: &str) -> Answer {
    let allow = HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static("GET"));
    if *method != Method::OPTIONS {
        let detail = "the path has no route for this method; `allow` names those that it has";
        return Err(Problem::http(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, allow));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, allow);
    Ok(response)
}

impl Call<'_> {
    async fn run(&self, action: Action, body: Incoming) -> Answer {
        match action {
            Action::Page | Action::OpenApi => Ok(page::respond(action)),
            Action::Status => self.status().await,
            Action::Processes => self.processes().await,
            Action::Workers => self.workers().await,
            Action::Isolation => self.isolation().await,
            Action::Calls => self.calls().await,
            Action::Metrics => self.metrics().await,
            Action::ListProjects => self.list_projects().await,
            Action::ShowProject => self.show_project().await,
            Action::ChangeProject => self.change_project(body).await,
            Action::DeleteProject => self.delete_project().await,
            Action::Deploy => self.deploy(body).await,
            Action::ShowImage => self.show_image().await,
            Action::UploadImage => self.upload_image(body).await,
            Action::Invoke => self.invoke(body).await,
            Action::ShowProcess => self.show_process().await,
            Action::ProcessResult => self.process_result().await,
            Action::CancelProcess => self.cancel_process().await,
            Action::ListDead => self.list_dead().await,
            Action::ReplayDead => self.replay_dead().await,
            Action::DiscardDead => self.discard_dead().await,
            Action::Logs => self.logs().await,
            Action::ListTraces => self.list_traces(None).await,
            Action::ListTracesOfProject => self.list_traces(Some(self.parameter(0))).await,
            Action::ShowTrace => self.show_trace(None, self.parameter(0)).await,
            Action::ShowTraceOfProject => self.show_trace(Some(self.parameter(0)), self.parameter(1)).await,
            Action::ListTokens => self.list_tokens().await,
            Action::CreateToken => self.create_token(body).await,
            Action::RevokeToken => self.revoke_token().await,
        }
    }

    /// The value of a route's parameter; the route table says how many there are.
    fn parameter(&self, index: usize) -> &str {
        self.parameters.get(index).copied().unwrap_or_default()
    }

    /// True when the caller may see this project.
    fn sees(&self, project: ProjectId) -> bool {
        self.caller.project.is_none_or(|own| own == project)
    }

    /// The header of a request to another service, in the caller's name.
    fn header(&self, target: Service, operation: u16, project: ProjectId, within: Duration) -> Header {
        Header {
            operation,
            project,
            principal: self.caller.id,
            remaining_us: within.as_micros() as u64,
            trace: self.trace().0,
            ..Header::new(Kind::Request, Service::Gate, target)
        }
    }

    /// The caller's trace, and whether he wants to see it.
    fn trace(&self) -> (TraceContext, Flags) {
        let mut traceparents = self.parts.headers.get_all("traceparent").iter();
        let traceparent = traceparents.next().filter(|_| traceparents.next().is_none());
        self.gate
            .trace_ids
            .context(traceparent.map(HeaderValue::as_bytes))
    }

    /// Asks another service and decodes its answer.
    async fn ask<T: DeserializeOwned>(&self, header: Header, body: &impl Serialize) -> Result<T, Problem> {
        self.ask_message(Message::with_body(header, body)).await
    }

    /// Asks for what needs no request body.
    async fn ask_bare<T: DeserializeOwned>(&self, header: Header) -> Result<T, Problem> {
        self.ask_message(Message::bare(header)).await
    }

    async fn ask_message<T: DeserializeOwned>(&self, message: Message) -> Result<T, Problem> {
        let target = message.header.target;
        let answer = self.gate.link.call(message).await?;
        answer.message.decode_body().map_err(|error| {
            tracing::error!(%target, %error, "a service gave a malformed answer");
            Problem::new(ErrorCode::Internal, format!("{target} gave a malformed answer"))
        })
    }

    /// Asks for what has no answer but that it is done.
    async fn tell(&self, header: Header, body: &impl Serialize) -> Result<(), Problem> {
        self.gate.link.call(Message::with_body(header, body)).await?;
        Ok(())
    }

    /// The project that the route names. One that the caller may not see does not exist for it.
    async fn project(&self, name: &str) -> Result<Project, Problem> {
        let unknown = || Problem::new(ErrorCode::NotFound, "there is no such project");
        let operation = resadmin::Operation::DescribeProject as u16;
        let header = self.header(Service::Resadmin, operation, ProjectId::NONE, ASK_TIMEOUT);
        let described: Result<Project, Problem> = self
            .ask(
                header,
                &DescribeProject {
                    name: name.to_owned(),
                },
            )
            .await;
        match described {
            Ok(project) if self.sees(project.id) => Ok(project),
            Err(problem) if problem.status() != StatusCode::NOT_FOUND => Err(problem),
            _ => Err(unknown()),
        }
    }
}

/// Reads a body that is one object of ours. What a name stands for that is there twice is for nobody to guess, so
/// that is refused, as is a list of the values without their names.
fn object<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, Problem> {
    let invalid = |why: String| Problem::new(ErrorCode::Invalid, format!("the body is not {what}: {why}"));
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("it is no JSON object".into()));
    }
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value)
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("the answer is no json: {error}")))?;
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn ndjson(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}

fn no_content() -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
