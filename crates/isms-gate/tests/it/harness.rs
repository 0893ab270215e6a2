//! A running Gate, and the services behind the Kernel with two projects, `a` and `b`.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use isms_gate::{CONCURRENCY, Config, RunError, run};
use isms_http::{
    hash_token,
    test_support::{Client, FakeCall, FakeKernel, Response},
};
use isms_protocol::{
    Class, ContentHash, DoeeVersion, ErrorCode, Message, PrincipalId, ProcessId, ProjectId, Service,
    doer::{self, Isolation, IsolationLayer, WorkerStatus, Workers, WorkersAfter},
    kernel::{self, CallsAfter, ProcessStatus, Processes, ServiceStatus, Status},
    resadmin::{
        Authenticate, ChangeProject, CreatedToken, DescribeProject, DoeeSummary, Operation, Principal,
        Project, ProjectSummary, Projects, Right, Tokens,
    },
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const A: ProjectId = ProjectId::from_bytes([0xa; 16]);
pub(crate) const B: ProjectId = ProjectId::from_bytes([0xb; 16]);
pub(crate) const VERSION: DoeeVersion = DoeeVersion::from_bytes([2; 16]);
/// The only asynchronous call that there is.
pub(crate) const PROCESS: &str = "0c0c0c0c-0c0c-0c0c-0c0c-0c0c0c0c0c0c";

/// Every token that the tests use: its text is its name.
const TOKENS: [(&str, Option<ProjectId>, Right); 6] = [
    ("admin", None, Right::Admin),
    ("reader", None, Right::Read),
    ("admin-a", Some(A), Right::Admin),
    ("reader-a", Some(A), Right::Read),
    ("invoker-a", Some(A), Right::Invoke),
    ("deployer-a", Some(A), Right::Deploy),
];

/// What reached the services.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Requests, `Authenticate` apart.
    pub(crate) requests: Arc<Mutex<Vec<Message>>>,
    pub(crate) authentications: Arc<AtomicUsize>,
}

/// A running Gate.
pub(crate) struct Gate {
    pub(crate) kernel: FakeKernel,
    pub(crate) seen: Seen,
    pub(crate) address: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) task: JoinHandle<Result<(), RunError>>,
}

impl Gate {
    /// Starts one whose calls and deployments nobody answers.
    pub(crate) async fn start() -> Gate {
        Gate::with(Config::default(), |call| async move {
            panic!("unexpected {:?}", call.message.header)
        })
        .await
    }

    /// Starts one; `streamed` answers calls of Doees and deployments.
    pub(crate) async fn with<F, Fut>(config: Config, streamed: F) -> Gate
    where
        F: Fn(FakeCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (streamed, seen) = (Arc::new(streamed), Seen::default());
        let see = seen.clone();
        let kernel = FakeKernel::start(Service::Gate, move |call| {
            let (streamed, see) = (streamed.clone(), see.clone());
            async move {
                if answer(&call, &see) == Answered::No {
                    streamed(call).await;
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(config, listener, kernel.link_options(CONCURRENCY), stopped));
        kernel.registered().await;
        let gate = Gate {
            kernel,
            seen,
            address,
            stop,
            task,
        };
        // The Kernel has sent its answer; wait until Gate has read it.
        while gate.fetch("admin", "GET /api/v1/projects").await.status == 503 {}
        gate.seen.requests.lock().unwrap().clear();
        gate
    }

    pub(crate) async fn fetch(&self, token: &str, request: &str) -> Response {
        self.send(token, request, b"").await
    }

    pub(crate) async fn send(&self, token: &str, request: &str, body: &[u8]) -> Response {
        let authorization = format!("Bearer {token}");
        let fields = [("authorization", &*authorization)];
        Client::fetch(
            self.address,
            request,
            if token.is_empty() { &[] } else { &fields },
            body,
        )
        .await
    }

    /// Sends the head of a request without a body and leaves the rest to the caller.
    pub(crate) async fn open(&self, token: &str, request: &str) -> Client {
        let mut client = Client::connect(self.address).await;
        let host = self.address;
        client
            .send(format!(
                "{request} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n"
            ))
            .await;
        client
    }

    /// What reached a service since the start.
    pub(crate) fn operations(&self, target: Service) -> Vec<u16> {
        let seen = self.seen.requests.lock().unwrap();
        seen.iter()
            .map(|message| message.header)
            .filter(|header| header.target == target)
            .map(|header| header.operation)
            .collect()
    }
}

#[derive(PartialEq, Eq)]
enum Answered {
    Yes,
    No,
}

fn answer(call: &FakeCall, seen: &Seen) -> Answered {
    let header = &call.message.header;
    let authenticates =
        header.target == Service::Resadmin && header.operation == Operation::Authenticate as u16;
    if authenticates {
        seen.authentications.fetch_add(1, Ordering::Relaxed);
    } else {
        seen.requests.lock().unwrap().push(call.message.clone());
    }
    match header.target {
        Service::Kernel => answer_kernel(call),
        Service::Doer => return answer_doer(call),
        _ => return answer_resadmin(call),
    }
    Answered::Yes
}

fn answer_kernel(call: &FakeCall) {
    match kernel::Operation::from_u16(call.message.header.operation).unwrap() {
        kernel::Operation::Calls => {
            // In two parts, the first of which ends with row 1.
            let after: CallsAfter = call.message.decode_body().unwrap();
            call.reply(&crate::calls::part(after), "");
        }
        kernel::Operation::SetProject
        | kernel::Operation::SetRates
        | kernel::Operation::SetRetries
        | kernel::Operation::ForgetProject => {
            panic!("only Resadmin says what becomes of a project")
        }
        kernel::Operation::Resume => panic!("only the Doer has calls of its own"),
        kernel::Operation::Dead | kernel::Operation::Replay | kernel::Operation::Discard => {
            crate::dead::answer(call);
        }
        kernel::Operation::Status => {
            let service = ServiceStatus {
                service: Service::Doer,
                generation: isms_protocol::Incarnation(3),
                up: true,
                running: 1,
                queued: 2,
            };
            let status = Status {
                services: vec![service],
                ready: 4,
                running: 5,
                ended: [6, 7, 8, 9],
                events_dropped: 10,
            };
            call.reply(&status, "");
        }
        kernel::Operation::Processes => {
            let process = |project| ProcessStatus {
                process: ProcessId::from_bytes([7; 16]),
                parent: ProcessId::NONE,
                project,
                target: Service::Doer,
                target_doee: VERSION,
                class: Class::High,
                queued: true,
                age_us: 12,
            };
            call.reply(
                &Processes {
                    processes: vec![process(A), process(B)],
                    omitted: 3,
                },
                "",
            );
        }
        kernel::Operation::Process | kernel::Operation::Result | kernel::Operation::Cancel => {
            answer_about_process(call);
        }
    }
}

/// The kernel knows one asynchronous call, which ends as soon as somebody waits for it.
fn answer_about_process(call: &FakeCall) {
    let question: kernel::ProcessQuestion = call.message.decode_body().unwrap();
    if question.process.to_string() != PROCESS {
        return call.fail(ErrorCode::NotFound, "there is no such process");
    }
    if call.message.header.operation == kernel::Operation::Result as u16 {
        let reply = doer::InvocationReply {
            status: 418,
            ..doer::InvocationReply::default()
        };
        return call.reply(&reply, "made");
    }
    let state = kernel::ProcessState {
        process: question.process,
        progress: match question.wait_ms {
            0 => kernel::Progress::Running,
            _ => kernel::Progress::Done,
        },
        age_us: 3,
        queued_us: 1,
        ran_us: 2,
        kept_us: 4,
        failures: 3,
        retry_us: u64::from(question.wait_ms == 0),
    };
    call.reply(&state, "");
}

fn answer_doer(call: &FakeCall) -> Answered {
    match doer::Operation::from_u16(call.message.header.operation).unwrap() {
        doer::Operation::Workers => {
            let worker = |number, project, project_name: &str| WorkerStatus {
                worker: number,
                pid: 2,
                state: "idle".into(),
                project,
                project_name: project_name.into(),
                doee: "d".into(),
                version: VERSION,
                process: ProcessId::NONE,
                calls: 3,
                age_ms: 4,
                backend: doer::Backend::Apptainer,
                image: Some(ContentHash([0x1a; 32])),
            };
            // In two parts, of which the first ends with number 1.
            let after: WorkersAfter = call.message.decode_body().unwrap();
            let workers = match after.worker {
                0 => vec![worker(1, A, "a")],
                _ => vec![worker(2, B, "b"), worker(3, ProjectId::NONE, "")],
            };
            call.reply(
                &Workers {
                    more: after.worker == 0,
                    workers,
                    waiting: 1,
                    ready: 2,
                    running: 3,
                },
                "",
            );
        }
        doer::Operation::Isolation => {
            let layer = IsolationLayer {
                name: "seccomp".into(),
                proven: true,
                detail: "socket".into(),
                required: true,
            };
            call.reply(
                &Isolation {
                    layers: vec![layer],
                    sufficient: true,
                },
                "",
            );
        }
        _ => return Answered::No,
    }
    Answered::Yes
}

fn answer_resadmin(call: &FakeCall) -> Answered {
    match Operation::from_u16(call.message.header.operation).unwrap() {
        Operation::Authenticate => {
            let asked: Authenticate = call.message.decode_body().unwrap();
            match principals()
                .into_iter()
                .find(|principal| hash_token(principal.name.as_bytes()) == asked.token)
            {
                Some(principal) => call.reply(&principal, ""),
                None => call.fail(ErrorCode::Unauthenticated, "unknown token"),
            }
        }
        Operation::Projects => {
            let summary = |id, name: &str| ProjectSummary {
                id,
                name: name.into(),
                revision: 1,
            };
            call.reply(
                &Projects {
                    projects: vec![summary(A, "a"), summary(B, "b")],
                },
                "",
            );
        }
        Operation::DescribeProject => {
            let asked: DescribeProject = call.message.decode_body().unwrap();
            match &*asked.name {
                "a" => call.reply(&project(A, "a"), ""),
                "b" => call.reply(&project(B, "b"), ""),
                _ => call.fail(ErrorCode::NotFound, "no project of this name"),
            }
        }
        Operation::ChangeProject => {
            let asked: ChangeProject = call.message.decode_body().unwrap();
            let weight = asked.weight.unwrap_or(100);
            let rate_max = asked.rate_max.unwrap_or(0);
            let concurrency_max = asked.concurrency_max.unwrap_or(0);
            let settings = kernel::ProjectSettings {
                weight,
                rate_max,
                concurrency_max,
            };
            call.reply(&settings, "");
        }
        Operation::NameDoees => call.reply(&crate::calls::names(&call.message.decode_body().unwrap()), ""),
        Operation::ListTokens => call.reply(&Tokens { tokens: principals() }, ""),
        Operation::CreateToken => {
            call.reply(
                &CreatedToken {
                    id: PrincipalId::from_bytes([9; 16]),
                    token: "secret".into(),
                },
                "",
            );
        }
        Operation::DeleteProject | Operation::RevokeToken => call.reply(&(), ""),
        _ => return Answered::No,
    }
    Answered::Yes
}

pub(crate) fn principals() -> Vec<Principal> {
    let principal = |(number, (name, project, right)): (usize, (&str, Option<ProjectId>, Right))| Principal {
        id: PrincipalId::from_bytes([number as u8 + 1; 16]),
        name: name.into(),
        project,
        rights: vec![right],
        expires_at_s: None,
    };
    TOKENS.into_iter().enumerate().map(principal).collect()
}

fn project(id: ProjectId, name: &str) -> Project {
    let doee = DoeeSummary {
        name: "d".into(),
        version: VERSION,
        binary: ContentHash([0xcd; 32]),
        deadline_ms: 5_000,
        class: Class::High,
    };
    Project {
        id,
        name: name.into(),
        revision: 1,
        doees: vec![doee],
        databases: vec!["readings".into()],
        routes: vec!["GET /".into()],
        settings: kernel::ProjectSettings {
            weight: 300,
            rate_max: 0,
            concurrency_max: 4,
        },
    }
}
