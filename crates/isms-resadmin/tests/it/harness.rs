//! A Resadmin in a folder of its own, with the test in the place of Gate, Doer, DBriver and CommServer.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Kind, PrincipalId, ProcessId, ProjectId, Service as Role,
    TokenHash, WireError, commserver,
    commserver::ProjectRoutes,
    dbriver::{self, Prepare, Prepared},
    decode,
    doer::{self, Build, BuildReply, Environment},
    encode,
    kernel::{self, Progress, ProjectSettings},
    resadmin::{Authenticate, Deploy, DeployEvent, DescribeProject, Operation, Principal, Project},
};
use isms_resadmin::{Config, PeerAnswer, PeerRequest, Reply, Service};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::sync::{Notify, mpsc};

pub(crate) const ADMIN: TokenHash = TokenHash([7; 32]);

/// What the other services were asked for, in order, as text.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// How the other services answer.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    pub(crate) asked: Asked,
    pub(crate) routes: Arc<Mutex<Vec<ProjectRoutes>>>,
    /// The error with which an operation is answered, by the first word of what was asked.
    pub(crate) failing: Arc<Mutex<Vec<(&'static str, WireError)>>>,
    /// What the compiler says; the build fails when it is not empty.
    pub(crate) compiler: Arc<Mutex<String>>,
    /// When set, a build waits for it.
    pub(crate) gate: Arc<Mutex<Option<Arc<Notify>>>>,
    /// The calls for later that the Kernel knows, by key.
    pub(crate) later: Arc<Mutex<Vec<Later>>>,
}

/// A call for later, as the Kernel keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    pub(crate) key: Vec<u8>,
    pub(crate) at_s: u64,
    pub(crate) version: DoeeVersion,
    pub(crate) invocation: doer::Invocation,
    pub(crate) progress: Progress,
}

pub(crate) struct Harness {
    pub(crate) service: Service,
    pub(crate) peers: Peers,
    pub(crate) now: Arc<AtomicU64>,
}

impl Harness {
    pub(crate) async fn open(directory: &Path) -> Harness {
        Harness::open_with(Config::new(directory, ADMIN)).await
    }

    pub(crate) async fn open_with(config: Config) -> Harness {
        let peers = Peers::default();
        let (requests, asked) = mpsc::channel(8);
        tokio::spawn(peers.clone().answer(asked));
        let now = Arc::new(AtomicU64::new(1_000));
        let clock = now.clone();
        let clock = Arc::new(move || clock.load(Ordering::Relaxed));
        let service = Service::open(config, requests, clock).await.expect("opens");
        Harness { service, peers, now }
    }

    /// The principal of the administrator.
    pub(crate) async fn admin(&self) -> PrincipalId {
        let header = header(Role::Gate, Operation::Authenticate);
        let principal: Principal = self
            .body(&header, &Authenticate { token: ADMIN })
            .await
            .expect("is known");
        principal.id
    }

    pub(crate) async fn body<B: Serialize, R: DeserializeOwned>(
        &self,
        header: &Header,
        body: &B,
    ) -> Result<R, WireError> {
        match self.service.handle(header, &encode(body), Bytes::new()).await? {
            Reply::Body(bytes) => Ok(decode(&bytes).expect("decodes")),
            other => panic!("a body, not {other:?}"),
        }
    }

    pub(crate) async fn empty<B: Serialize>(&self, header: &Header, body: &B) -> Result<(), WireError> {
        match self.service.handle(header, &encode(body), Bytes::new()).await? {
            Reply::Body(bytes) if bytes.is_empty() => Ok(()),
            other => panic!("nothing, not {other:?}"),
        }
    }

    pub(crate) async fn payload(&self, header: &Header) -> Result<Bytes, WireError> {
        match self.service.handle(header, &[], Bytes::new()).await? {
            Reply::Payload(bytes) => Ok(bytes),
            other => panic!("a payload, not {other:?}"),
        }
    }

    /// Starts a deployment as the administrator.
    pub(crate) async fn begin_deploy(&self, files: &[(&str, &[u8])]) -> mpsc::Receiver<DeployEvent> {
        let admin = self.admin().await;
        self.begin_deploy_as(admin, None, files).await.expect("begins")
    }

    pub(crate) async fn begin_deploy_as(
        &self,
        principal: PrincipalId,
        only: Option<ProjectId>,
        files: &[(&str, &[u8])],
    ) -> Result<mpsc::Receiver<DeployEvent>, WireError> {
        let header = Header {
            principal,
            ..header(Role::Gate, Operation::Deploy)
        };
        match self
            .service
            .handle(&header, &encode(&Deploy { only }), tar(files))
            .await?
        {
            Reply::Events(events) => Ok(events),
            other => panic!("events, not {other:?}"),
        }
    }

    /// Deploys as the administrator; returns all events.
    pub(crate) async fn deploy(&self, files: &[(&str, &[u8])]) -> Vec<DeployEvent> {
        all(self.begin_deploy(files).await).await
    }

    /// Deploys and expects success; returns the revision.
    pub(crate) async fn deploy_well(&self, files: &[(&str, &[u8])]) -> u64 {
        match self.deploy(files).await.pop() {
            Some(DeployEvent::Deployed { revision, .. }) => revision,
            other => panic!("not deployed: {other:?}"),
        }
    }

    /// Deploys and expects failure; returns code and message.
    pub(crate) async fn deploy_badly(&self, files: &[(&str, &[u8])]) -> (String, String) {
        match self.deploy(files).await.pop() {
            Some(DeployEvent::Failed { code, message }) => (code, message),
            other => panic!("did not fail: {other:?}"),
        }
    }

    pub(crate) async fn describe(&self, name: &str) -> Result<Project, WireError> {
        self.body(
            &header(Role::Gate, Operation::DescribeProject),
            &DescribeProject { name: name.into() },
        )
        .await
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.peers.asked.lock().expect("not poisoned"))
    }

    pub(crate) fn fail(&self, operation: &'static str, code: ErrorCode) {
        let error = WireError::new(code, "the test says so");
        self.peers
            .failing
            .lock()
            .expect("not poisoned")
            .push((operation, error));
    }

    pub(crate) fn heal(&self) {
        self.peers.failing.lock().expect("not poisoned").clear();
    }
}

impl Peers {
    async fn answer(self, mut requests: mpsc::Receiver<PeerRequest>) {
        while let Some(request) = requests.recv().await {
            let peers = self.clone();
            tokio::spawn(async move {
                let answer = peers.answer_one(&request).await;
                request.answer.send(answer).ok();
            });
        }
    }

    async fn answer_one(&self, request: &PeerRequest) -> Result<PeerAnswer, WireError> {
        let header = &request.message.header;
        assert_eq!((header.kind, header.sender), (Kind::Request, Role::Resadmin));
        let is_later = header.flags.contains(Flags::LATER);
        assert!((header.remaining_us > 0) != is_later && !header.project.is_none());
        let (text, answer) = match (header.target, header.operation) {
            (Role::Doer, number) if number == doer::Operation::Build as u16 => self.build(request).await,
            (Role::Doer, number) if number == doer::Operation::Invoke as u16 => self.invoke(request),
            (Role::Kernel, number) if number == kernel::Operation::Process as u16 => {
                self.state_of(request, false)
            }
            (Role::Kernel, number) if number == kernel::Operation::Cancel as u16 => {
                self.state_of(request, true)
            }
            (Role::Doer, number) if number == doer::Operation::Retire as u16 => {
                (format!("retire {}", header.target_doee), PeerAnswer::default())
            }
            (Role::Doer, number) if number == doer::Operation::Deployed as u16 => {
                ("deployed".to_owned(), PeerAnswer::default())
            }
            (Role::Doer, number) if number == doer::Operation::Keep as u16 => {
                (format!("keep {}", header.target_doee), PeerAnswer::default())
            }
            (Role::Doer, number) if number == doer::Operation::TryEnvironment as u16 => {
                let environment: Environment = request.message.decode_body().expect("decodes");
                let text = format!("try {} {environment:?}", environment.backend.name());
                (text, PeerAnswer::default())
            }
            (Role::Dbriver, number) if number == dbriver::Operation::Prepare as u16 => {
                let prepare: Prepare = decode(&request.payload).expect("decodes");
                let names: Vec<_> = prepare
                    .migrations
                    .iter()
                    .map(|migration| migration.name.as_str())
                    .collect();
                let text = format!(
                    "prepare {} {} MB {}",
                    prepare.database,
                    prepare.disk_mb,
                    names.join(" ")
                );
                let prepared = Prepared {
                    created: true,
                    applied: names.len() as u32,
                };
                let answer = PeerAnswer {
                    payload: encode(&prepared).into(),
                    ..PeerAnswer::default()
                };
                (text, answer)
            }
            (Role::Dbriver, number) if number == dbriver::Operation::Drop as u16 => {
                ("drop".to_owned(), PeerAnswer::default())
            }
            (Role::Commserver, number) if number == commserver::Operation::SetRoutes as u16 => {
                let routes: ProjectRoutes = decode(&request.payload).expect("decodes");
                let text = format!(
                    "routes {} r{} {}",
                    routes.name,
                    routes.revision,
                    routes.routes.len()
                );
                self.routes.lock().expect("not poisoned").push(routes);
                (text, PeerAnswer::default())
            }
            (Role::Kernel, number) if number == kernel::Operation::SetProject as u16 => {
                let settings: ProjectSettings = request.message.decode_body().expect("decodes");
                (format!("set-project {}", settings.weight), PeerAnswer::default())
            }
            (Role::Kernel, number) if number == kernel::Operation::SetRetries as u16 => {
                let retries: kernel::DoeeRetries = request.message.decode_body().expect("decodes");
                let told = retries.doees.iter().map(|doee| match doee.durability {
                    kernel::Durability::Volatile => " volatile".to_owned(),
                    kernel::Durability::Durable(retry) => format!(" {}x{}", retry.attempts, retry.backoff_ms),
                });
                let told: String = told.collect();
                (format!("set-retries{told}"), PeerAnswer::default())
            }
            (Role::Kernel, number) if number == kernel::Operation::SetRates as u16 => {
                let rates: kernel::DoeeRates = request.message.decode_body().expect("decodes");
                let rates: Vec<_> = rates
                    .doees
                    .iter()
                    .map(|doee| format!(" {}/{}", doee.rate.per_s, doee.rate.burst))
                    .collect();
                (format!("set-rates{}", rates.concat()), PeerAnswer::default())
            }
            (Role::Kernel, number) if number == kernel::Operation::ForgetProject as u16 => {
                ("forget-project".to_owned(), PeerAnswer::default())
            }
            other => panic!("nobody asks for {other:?}"),
        };
        let failing = self.failing.lock().expect("not poisoned");
        let failure = failing
            .iter()
            .find(|(operation, _)| text.starts_with(operation))
            .map(|(_, error)| error.clone());
        self.asked.lock().expect("not poisoned").push(text);
        failure.map_or(Ok(answer), Err)
    }

    /// Keeps a call for later, or finds it by its key. The number of its process is its place.
    fn invoke(&self, request: &PeerRequest) -> (String, PeerAnswer) {
        let header = &request.message.header;
        let all = [Flags::ASYNC, Flags::DURABLE, Flags::KEYED, Flags::LATER];
        assert!(all.into_iter().all(|flag| header.flags.contains(flag)));
        let (key, at_us) = request.payload.split_at(32);
        let at_us = u64::from_le_bytes(at_us.try_into().expect("a time and no body"));
        let call = Later {
            key: key.to_vec(),
            at_s: at_us / 1_000_000,
            version: header.target_doee,
            invocation: request.message.decode_body().expect("decodes"),
            progress: Progress::Queued,
        };
        let text = format!("invoke at {}", call.at_s);
        let failing = self.failing.lock().expect("not poisoned");
        let mut later = self.later.lock().expect("not poisoned");
        let known = later.iter().position(|known| known.key == key);
        let place = known.unwrap_or(later.len());
        // A request that fails is lost before the Kernel has it, an answer that is lost after.
        if known.is_none() && !failing.iter().any(|(operation, _)| *operation == "invoke") {
            later.push(call);
        }
        let process = ProcessId::from_bytes([place as u8 + 1; 16]);
        let answer = PeerAnswer {
            process,
            ..PeerAnswer::default()
        };
        (text, answer)
    }

    fn state_of(&self, request: &PeerRequest, cancel: bool) -> (String, PeerAnswer) {
        let question: kernel::ProcessQuestion = request.message.decode_body().expect("decodes");
        let place = usize::from(question.process.to_bytes()[0]) - 1;
        let mut later = self.later.lock().expect("not poisoned");
        if cancel {
            later[place].progress = Progress::Cancelled;
        }
        let state = kernel::ProcessState {
            process: question.process,
            progress: later[place].progress,
            age_us: 0,
            queued_us: 0,
            ran_us: 0,
            kept_us: 0,
            failures: 0,
            retry_us: u64::from(later[place].progress == Progress::Queued),
        };
        let answer = PeerAnswer {
            body: encode(&state).into(),
            ..PeerAnswer::default()
        };
        let what = if cancel { "cancel" } else { "process" };
        (format!("{what} {}", later[place].at_s), answer)
    }

    async fn build(&self, request: &PeerRequest) -> (String, PeerAnswer) {
        let build: Build = request.message.decode_body().expect("decodes");
        let files: Vec<(String, ByteBuf)> = decode(&request.payload).expect("decodes");
        let gate = self.gate.lock().expect("not poisoned").clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let log = self.compiler.lock().expect("not poisoned").clone();
        let reply = BuildReply {
            built: log.is_empty(),
            log,
            duration_ms: 1,
        };
        let names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let source: Vec<u8> = files.iter().flat_map(|(_, content)| content.to_vec()).collect();
        let payload = if reply.built {
            shared_object(&source)
        } else {
            Bytes::new()
        };
        let network = if build.network { " with network" } else { "" };
        let text = format!(
            "build {} {:?} in {}{network}: {}",
            build.doee,
            build.language,
            build.folder,
            names.join(" ")
        );
        (
            text,
            PeerAnswer {
                body: encode(&reply).into(),
                payload,
                ..PeerAnswer::default()
            },
        )
    }
}

pub(crate) fn header(sender: Role, operation: Operation) -> Header {
    let mut header = Header::new(Kind::Request, sender, Role::Resadmin);
    header.operation = operation as u16;
    header
}

pub(crate) fn of_version(
    sender: Role,
    operation: Operation,
    project: ProjectId,
    version: DoeeVersion,
) -> Header {
    Header {
        project,
        target_doee: version,
        ..header(sender, operation)
    }
}

pub(crate) async fn all(mut events: mpsc::Receiver<DeployEvent>) -> Vec<DeployEvent> {
    let mut all = Vec::new();
    while let Some(event) = events.recv().await {
        all.push(event);
    }
    all
}

/// The smallest shared object that passes for a Doee, with bytes of its own.
pub(crate) fn shared_object(content: &[u8]) -> Bytes {
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let mut file = vec![0; 64 + 2 * 56];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16] = 3;
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    (file[32], file[54], file[56], file[64], file[120]) = (64, 56, 2, 1, 2);
    file.extend_from_slice(b"isms_doee_v1\0");
    file.extend_from_slice(content);
    file.into()
}

/// An archive as `tar --format=ustar` makes it.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Bytes {
    let mut archive = Vec::new();
    for (path, content) in files {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive.into()
}

/// The code and message of a failure.
pub(crate) fn failure<T>(result: Result<T, WireError>) -> (ErrorCode, String) {
    let error = result.err().expect("must fail");
    (error.code, error.message)
}
