//! A running CommServer, its routes, and what stands behind the Kernel.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use isms_commserver::{CONCURRENCY, Config, RunError, run};
use isms_http::{
    hash_token,
    test_support::{Client, FakeCall, FakeKernel, Response, soon},
};
use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Header, Kind, Message, PrincipalId, ProjectId, Service,
    commserver::{self, Auth, HttpRoute, ProjectRoutes},
    doer::{Invocation, InvocationReply},
    encode,
    resadmin::{Authenticate, Operation, Principal, ProjectSummary, Projects, Right},
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);
pub(crate) const VERSION: DoeeVersion = DoeeVersion::from_bytes([2; 16]);
pub(crate) const BODY_LEN_MAX: u64 = 128 << 20;

/// What Resadmin knows.
#[derive(Default)]
pub(crate) struct Resadmin {
    pub(crate) routes: Mutex<Vec<ProjectRoutes>>,
    pub(crate) tokens: Mutex<Vec<(&'static str, Principal)>>,
    pub(crate) authentications: AtomicUsize,
}

/// A running CommServer.
pub(crate) struct Edge {
    pub(crate) kernel: FakeKernel,
    pub(crate) resadmin: Arc<Resadmin>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) task: JoinHandle<Result<(), RunError>>,
}

impl Edge {
    /// Serves the project `p` with these routes (`METHOD PATH`, open to everybody); `doer` answers
    /// its calls.
    pub(crate) async fn start<F, Fut>(patterns: &[&str], doer: F) -> Edge
    where
        F: Fn(FakeCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Edge::with_routes(patterns.iter().map(|pattern| route(pattern)).collect(), doer).await
    }

    pub(crate) async fn with_routes<F, Fut>(routes: Vec<HttpRoute>, doer: F) -> Edge
    where
        F: Fn(FakeCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let resadmin = Arc::new(Resadmin::default());
        resadmin.routes.lock().unwrap().push(project_routes(1, routes));
        let (doer, known) = (Arc::new(doer), resadmin.clone());
        let kernel = FakeKernel::start(Service::Commserver, move |call| {
            let (doer, known) = (doer.clone(), known.clone());
            async move {
                match call.message.header.target {
                    Service::Resadmin => known.answer(&call),
                    _ => doer(call).await,
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let link = kernel.link_options(CONCURRENCY);
        let task = tokio::spawn(run(Config::default(), listener, link, stopped));
        let edge = Edge {
            kernel,
            resadmin,
            address,
            stop,
            task,
        };
        edge.serves().await;
        edge
    }

    /// Waits until the routes are there.
    pub(crate) async fn serves(&self) {
        let probe = async { while self.fetch("GET /no-such-project/").await.status == 503 {} };
        soon("the routes", probe).await;
    }

    pub(crate) async fn fetch(&self, request: &str) -> Response {
        Client::fetch(self.address, request, &[], b"").await
    }

    pub(crate) async fn fetch_with(&self, request: &str, fields: &[(&str, &str)]) -> Response {
        Client::fetch(self.address, request, fields, b"").await
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Deploys routes, as Resadmin would.
    pub(crate) async fn set_routes(&self, routes: &ProjectRoutes) -> Message {
        let header = Header {
            operation: commserver::Operation::SetRoutes as u16,
            project: PROJECT,
            ..Header::new(Kind::Request, Service::Resadmin, Service::Commserver)
        };
        self.kernel
            .request(Message::bare(header).with_raw(encode(routes)))
            .await
    }
}

impl Resadmin {
    fn answer(&self, call: &FakeCall) {
        let header = &call.message.header;
        match Operation::from_u16(header.operation).unwrap() {
            Operation::Projects => {
                let routes = self.routes.lock().unwrap();
                let summary = |routes: &ProjectRoutes| ProjectSummary {
                    id: routes.project,
                    name: routes.name.clone(),
                    revision: routes.revision,
                };
                call.reply(
                    &Projects {
                        projects: routes.iter().map(summary).collect(),
                    },
                    "",
                );
            }
            Operation::Routes => {
                let routes = self.routes.lock().unwrap();
                let routes = routes
                    .iter()
                    .find(|routes| routes.project == header.project)
                    .unwrap();
                call.reply(&(), encode(routes));
            }
            Operation::Authenticate => {
                self.authentications.fetch_add(1, Ordering::Relaxed);
                let asked: Authenticate = call.message.decode_body().unwrap();
                let tokens = self.tokens.lock().unwrap();
                match tokens
                    .iter()
                    .find(|(token, _)| hash_token(token.as_bytes()) == asked.token)
                {
                    Some((_, principal)) => call.reply(principal, ""),
                    None => call.fail(ErrorCode::Unauthenticated, "unknown token"),
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) fn add_token(
        &self,
        token: &'static str,
        project: Option<ProjectId>,
        rights: &[Right],
    ) -> PrincipalId {
        let id = PrincipalId::generate();
        let principal = Principal {
            id,
            name: token.to_owned(),
            project,
            rights: rights.to_vec(),
            expires_at_s: None,
        };
        self.tokens.lock().unwrap().push((token, principal));
        id
    }
}

pub(crate) fn route(pattern: &str) -> HttpRoute {
    let (method, path) = pattern.split_once(' ').unwrap();
    HttpRoute {
        method: method.into(),
        path: path.into(),
        auth: Auth::None,
        doee: "d".into(),
        version: VERSION,
        class: Class::High,
        deadline_ms: 8_000,
        body_len_max: BODY_LEN_MAX,
    }
}

pub(crate) fn project_routes(revision: u64, routes: Vec<HttpRoute>) -> ProjectRoutes {
    ProjectRoutes {
        project: PROJECT,
        name: "p".into(),
        revision,
        routes,
    }
}

/// A reply's head.
pub(crate) fn replies(status: u16, headers: &[(&str, &str)]) -> InvocationReply {
    let headers = headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    InvocationReply {
        status,
        headers,
        payload_len: None,
    }
}

/// A Doee that tells what it was called with.
pub(crate) async fn tell(call: FakeCall) {
    let invocation: Invocation = call.message.decode_body().unwrap();
    let parameters: Vec<_> = invocation
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let text = format!(
        "{} {} {} [{}] ?{} <{}> {:?}",
        invocation.method,
        invocation.path,
        invocation.route,
        parameters.join(","),
        invocation.query,
        invocation.principal,
        invocation.payload_len,
    );
    call.reply(&replies(200, &[("content-type", "text/plain")]), text);
}
