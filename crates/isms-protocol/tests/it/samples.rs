//! One value of every body and datagram that crosses a process boundary, with all fields set.

mod durable;
mod measures;

use isms_protocol::{
    Class, ContentHash, DecodeError, DoeeVersion, ErrorCode, Flags, Header, Incarnation, Kind, PrincipalId,
    ProcessId, ProjectId, Secret, Service, SpanId, TokenHash, TraceContext, TraceId, WireError, commserver,
    dbriver, decode, doer, encode, gate, kernel, resadmin, supervisor, worker,
};
use serde::{Serialize, de::DeserializeOwned};

/// A body with its encoding, and its decoder: bytes in, the decoded value's encoding out.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) recode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Sample {
    Sample {
        name,
        bytes: encode(value),
        recode: |bytes| decode::<T>(bytes).map(|value| encode(&value)),
    }
}

/// A header with every field set to a value of its own.
pub(crate) fn header(kind: Kind) -> Header {
    Header {
        kind,
        flags: Flags::STREAM.with(Flags::TO_CALLER).with(Flags::ABORTED),
        class: Class::Batch,
        sender: Service::Gate,
        target: Service::Doer,
        operation: 0x0a0b,
        attempt: 0x0c0d_0e0f,
        sender_generation: Incarnation(0x1011_1213),
        target_generation: Incarnation(0x1415_1617),
        call: 0x1819_1a1b_1c1d_1e1f,
        remaining_us: 0x2021_2223_2425_2627,
        process: ProcessId::from_bytes([0x31; 16]),
        parent: ProcessId::from_bytes([0x32; 16]),
        project: project(),
        calling_doee: DoeeVersion::from_bytes([0x34; 16]),
        target_doee: version(),
        principal: principal_id(),
        trace: TraceContext {
            trace: TraceId([0x37; 16]),
            span: SpanId([0x38; 8]),
        },
    }
}

/// Every sample, in the order of the modules and of the operations in them.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = kernel_bodies();
    samples.extend(measures::bodies());
    samples.extend(durable::bodies());
    samples.extend(doer_bodies());
    samples.extend(dbriver_bodies());
    samples.extend(commserver_and_gate_bodies());
    samples.extend(resadmin_questions());
    samples.extend(resadmin_answers());
    samples.extend(supervisor_datagrams());
    samples.extend(worker_datagrams());
    samples
}

fn project() -> ProjectId {
    ProjectId::from_bytes([0x33; 16])
}

fn version() -> DoeeVersion {
    DoeeVersion::from_bytes([0x35; 16])
}

fn principal_id() -> PrincipalId {
    PrincipalId::from_bytes([0x36; 16])
}

fn text(value: &str) -> String {
    value.to_owned()
}

fn kernel_bodies() -> Vec<Sample> {
    let service = kernel::ServiceStatus {
        service: Service::Dbriver,
        generation: Incarnation(3),
        up: true,
        running: 4,
        queued: 5,
    };
    let process = kernel::ProcessStatus {
        process: ProcessId::from_bytes([0x31; 16]),
        parent: ProcessId::NONE,
        project: project(),
        target: Service::Doer,
        target_doee: version(),
        class: Class::High,
        queued: true,
        age_us: 70_000,
    };
    vec![
        sample("error", &WireError::new(ErrorCode::Busy, "the queue is full")),
        sample(
            "kernel/register",
            &kernel::Register {
                service: Service::Commserver,
                incarnation: Incarnation(7),
                secret: Secret([0x5e; 32]),
                concurrency: 64,
            },
        ),
        sample(
            "kernel/registered",
            &kernel::Registered {
                generation: Incarnation(7),
                request_credit: 16_384,
            },
        ),
        sample(
            "kernel/slots",
            &kernel::Slots {
                capacity: 300,
                lower: [300, 299, 1],
            },
        ),
        sample(
            "kernel/demand",
            &kernel::Demand {
                queued: 9,
                oldest_us: 1_500_000,
            },
        ),
        sample("kernel/stream-credit", &kernel::StreamCredit { bytes: 262_144 }),
        sample(
            "kernel/status",
            &kernel::Status {
                services: vec![service],
                ready: 1,
                running: 2,
                ended: [10, 20, 30, 40],
                events_dropped: 6,
            },
        ),
        sample(
            "kernel/processes",
            &kernel::Processes {
                processes: vec![process],
                omitted: 8,
            },
        ),
        sample(
            "kernel/project-settings",
            &kernel::ProjectSettings {
                weight: 300,
                rate_max: 50,
                concurrency_max: 8,
            },
        ),
        sample(
            "kernel/process-question",
            &kernel::ProcessQuestion {
                process: ProcessId::from_bytes([0x31; 16]),
                wait_ms: 30_000,
                any_principal: false,
            },
        ),
        sample(
            "kernel/process-question-of-an-administrator",
            &kernel::ProcessQuestion {
                process: ProcessId::from_bytes([0x31; 16]),
                wait_ms: 0,
                any_principal: true,
            },
        ),
        sample(
            "kernel/process-state",
            &kernel::ProcessState {
                process: ProcessId::from_bytes([0x31; 16]),
                progress: kernel::Progress::Done,
                age_us: 70_000,
                queued_us: 20_000,
                ran_us: 40_000,
                kept_us: 300_000_000,
                failures: 2,
                retry_us: 1_500_000,
            },
        ),
    ]
}

fn doer_bodies() -> Vec<Sample> {
    let worker = doer::WorkerStatus {
        worker: 1,
        pid: 4242,
        state: text("busy"),
        project: project(),
        project_name: text("demo"),
        doee: text("echo"),
        version: version(),
        process: ProcessId::from_bytes([0x31; 16]),
        calls: 12,
        age_ms: 900,
        backend: doer::Backend::Apptainer,
        image: Some(ContentHash([0x1a; 32])),
    };
    vec![
        sample(
            "doer/invocation",
            &doer::Invocation {
                trigger: doer::Trigger::Http,
                method: text("GET"),
                path: text("/machines/m1"),
                route: text("/machines/{id}"),
                parameters: vec![(text("id"), text("m1"))],
                query: text("a=b"),
                headers: vec![(text("x-raw"), serde_bytes::ByteBuf::from(vec![0xff]))],
                principal: text("ann"),
                payload_len: Some(5),
            },
        ),
        sample(
            "doer/invocation-direct",
            &doer::Invocation {
                trigger: doer::Trigger::Direct,
                ..doer::Invocation::default()
            },
        ),
        sample(
            "doer/invocation-call",
            &doer::Invocation {
                trigger: doer::Trigger::Call,
                path: text("/"),
                payload_len: Some(3),
                ..doer::Invocation::default()
            },
        ),
        sample(
            "doer/invocation-schedule",
            &doer::Invocation {
                trigger: doer::Trigger::Schedule,
                path: text("/"),
                headers: vec![(
                    text("isms-planned"),
                    serde_bytes::ByteBuf::from("2026-03-29T01:00:00Z"),
                )],
                payload_len: Some(0),
                ..doer::Invocation::default()
            },
        ),
        sample(
            "doer/invocation-reply",
            &doer::InvocationReply {
                status: 201,
                headers: vec![(text("content-type"), text("application/json"))],
                payload_len: Some(70_000),
            },
        ),
        sample(
            "doer/build-c",
            &doer::Build {
                doee: text("echo"),
                language: doer::Language::C,
                folder: String::new(),
                network: false,
            },
        ),
        sample(
            "doer/build-cpp",
            &doer::Build {
                doee: text("echo"),
                language: doer::Language::Cpp,
                folder: text("doees/echo"),
                network: true,
            },
        ),
        sample(
            "doer/build-reply",
            &doer::BuildReply {
                built: true,
                log: text("ok"),
                duration_ms: 1_234,
            },
        ),
        sample(
            "doer/workers",
            &doer::Workers {
                workers: vec![worker],
                waiting: 1,
                ready: 2,
                running: 3,
                more: true,
            },
        ),
        sample("doer/workers-after", &doer::WorkersAfter { worker: 129 }),
        sample("doer/spec", &doee_spec()),
        sample("doer/isolation", &isolation()),
        sample("doer/environment", &environment()),
        sample("doer/environment-common", &doer::Environment::default()),
    ]
}

pub(crate) fn doee_spec() -> doer::DoeeSpec {
    doer::DoeeSpec {
        version: version(),
        project: project(),
        project_name: text("demo"),
        name: text("echo"),
        class: Class::Realtime,
        memory_mb: 64,
        timeout_ms: 500,
        workers_min: 0,
        workers_max: 8,
        params: parameters(),
        binary: ContentHash([0xb1; 32]),
        binary_len: 20_480,
        environment: environment(),
        concurrency: 4,
        reserved: [1, 0, 2],
        calls: Vec::new(),
    }
}

fn environment() -> doer::Environment {
    doer::Environment {
        backend: doer::Backend::Apptainer,
        image: Some(ContentHash([0x1a; 32])),
        device_nodes: vec![text("/dev/ttyUSB0")],
        directories: vec![text("/srv/maps")],
    }
}

fn parameters() -> Vec<(String, doer::Parameter)> {
    vec![
        (text("window"), doer::Parameter::Integer(-288)),
        (text("alpha"), doer::Parameter::Real(0.5)),
        (text("strict"), doer::Parameter::Boolean(true)),
        (text("unit"), doer::Parameter::Text(text("C"))),
    ]
}

fn isolation() -> doer::Isolation {
    doer::Isolation {
        layers: vec![doer::IsolationLayer {
            name: text("seccomp"),
            proven: true,
            detail: text("socket was refused"),
            required: true,
        }],
        sufficient: true,
    }
}

fn dbriver_bodies() -> Vec<Sample> {
    let values = vec![
        dbriver::Value::Null,
        dbriver::Value::Integer(i64::MIN),
        dbriver::Value::Integer(i64::MAX),
        dbriver::Value::Real(73.97),
        dbriver::Value::Text(text("m1")),
        dbriver::Value::Blob(vec![0, 0xff]),
    ];
    let statement = dbriver::Statement {
        sql: text("SELECT ?"),
        parameters: values.clone(),
        rows_demanded: Some(1),
    };
    let result = dbriver::StatementResult {
        columns: vec![text("mean")],
        rows: vec![values],
        rows_changed: 2,
    };
    vec![
        sample(
            "dbriver/transaction",
            &dbriver::Transaction {
                database: text("readings"),
                statements: vec![statement],
            },
        ),
        sample(
            "dbriver/sequence",
            &dbriver::Sequence {
                number: 7,
                settled: 5,
            },
        ),
        sample(
            "dbriver/results",
            &dbriver::Results {
                results: vec![result],
            },
        ),
        sample(
            "dbriver/prepare",
            &dbriver::Prepare {
                database: text("readings"),
                disk_mb: 512,
                migrations: vec![dbriver::Migration {
                    name: text("1.sql"),
                    sql: text("CREATE TABLE t(a)"),
                }],
            },
        ),
        sample(
            "dbriver/prepared",
            &dbriver::Prepared {
                created: true,
                applied: 2,
            },
        ),
        sample(
            "dbriver/grants",
            &dbriver::Grants {
                databases: vec![text("readings")],
                http: Vec::new(),
            },
        ),
        sample(
            "dbriver/grants-with-http",
            &dbriver::Grants {
                databases: vec![text("readings")],
                http: vec![text("api.example.com:443")],
            },
        ),
    ]
}

fn commserver_and_gate_bodies() -> Vec<Sample> {
    let route = |auth| commserver::HttpRoute {
        method: text("GET"),
        path: text("/m/{id}"),
        auth,
        doee: text("echo"),
        version: version(),
        class: Class::Normal,
        deadline_ms: 2_000,
        body_len_max: 16_777_216,
    };
    let record = gate::LogRecord {
        project: project(),
        project_name: text("demo"),
        doee: text("echo"),
        version: version(),
        process: ProcessId::NONE,
        at_us: 1_700_000_000_000_000,
        level: worker::LogLevel::Warn,
        text: text("hot"),
    };
    vec![
        sample(
            "commserver/project-routes",
            &commserver::ProjectRoutes {
                project: project(),
                name: text("demo"),
                revision: 2,
                routes: vec![route(commserver::Auth::None), route(commserver::Auth::Token)],
            },
        ),
        sample(
            "commserver/fetch",
            &commserver::Fetch {
                method: text("POST"),
                url: text("https://api.example.com/v1"),
                headers: vec![(text("accept"), serde_bytes::ByteBuf::from(vec![0x2a]))],
                body_len: 70_000,
                timeout_ms: 1_500,
                redirects_max: 3,
            },
        ),
        sample(
            "commserver/fetch-reply",
            &commserver::FetchReply {
                status: 201,
                headers: vec![(text("x-raw"), serde_bytes::ByteBuf::from(vec![0xff]))],
                body_len: Some(5),
                url: text("https://api.example.com/v2"),
            },
        ),
        sample(
            "gate/log-records",
            &gate::LogRecords {
                records: vec![record],
            },
        ),
        sample(
            "gate/spans",
            &gate::Spans {
                spans: vec![span()],
                dropped: 3,
            },
        ),
        sample(
            "gate/runs",
            &gate::Runs {
                runs: vec![gate::Run {
                    process: ProcessId::from_bytes([0x21; 16]),
                    attempt: 1,
                    trace: TraceId([0x22; 16]),
                    project: project(),
                    doee: version(),
                    begun_at_us: 1_700_000_000_000_150,
                    ran_us: 700,
                    start: gate::Start::Pooled,
                }],
            },
        ),
    ]
}

fn span() -> gate::Span {
    gate::Span {
        process: ProcessId::from_bytes([0x21; 16]),
        attempt: 1,
        parent: ProcessId::NONE,
        parent_attempt: 0,
        root: ProcessId::from_bytes([0x21; 16]),
        trace: TraceId([0x22; 16]),
        client: SpanId([0x23; 8]),
        project: project(),
        target: Service::Doer,
        operation: doer::Operation::Invoke as u16,
        doee: version(),
        class: Class::High,
        asynchronous: true,
        durable: false,
        at_us: 1_700_000_000_000_000,
        queued_us: 40,
        dispatched_us: Some(120),
        replied_us: 900,
        ended_us: 950,
        outcome: gate::Outcome::Failed,
        omitted: 2,
    }
}

fn resadmin_questions() -> Vec<Sample> {
    vec![
        sample(
            "resadmin/authenticate",
            &resadmin::Authenticate {
                token: TokenHash([0x70; 32]),
            },
        ),
        sample(
            "resadmin/deploy",
            &resadmin::Deploy {
                only: Some(project()),
            },
        ),
        sample(
            "resadmin/describe-project",
            &resadmin::DescribeProject { name: text("demo") },
        ),
        sample(
            "resadmin/create-token",
            &resadmin::CreateToken {
                name: text("ci"),
                project: Some(text("demo")),
                rights: vec![resadmin::Right::Read],
                expires_in_s: Some(3_600),
            },
        ),
        sample(
            "resadmin/revoke-token",
            &resadmin::RevokeToken { id: principal_id() },
        ),
        sample(
            "resadmin/image",
            &resadmin::Image {
                project: text("demo"),
                image: ContentHash([0x1a; 32]),
            },
        ),
        sample(
            "resadmin/upload-image",
            &resadmin::UploadImage {
                project: text("demo"),
                image: ContentHash([0x1a; 32]),
                len: 4_096_000,
                offset: 65_536,
            },
        ),
        sample(
            "resadmin/change-project",
            &resadmin::ChangeProject {
                weight: Some(300),
                rate_max: Some(50),
                concurrency_max: Some(8),
            },
        ),
    ]
}

fn resadmin_answers() -> Vec<Sample> {
    let principal = resadmin::Principal {
        id: principal_id(),
        name: text("ci"),
        project: None,
        rights: vec![
            resadmin::Right::Invoke,
            resadmin::Right::Read,
            resadmin::Right::Deploy,
            resadmin::Right::Admin,
        ],
        expires_at_s: None,
    };
    let doee = resadmin::DoeeSummary {
        name: text("echo"),
        version: version(),
        binary: ContentHash([0xb1; 32]),
        deadline_ms: 2_000,
        class: Class::Batch,
    };
    let summary = resadmin::ProjectSummary {
        id: project(),
        name: text("demo"),
        revision: 2,
    };
    vec![
        sample("resadmin/principal", &principal),
        sample(
            "resadmin/projects",
            &resadmin::Projects {
                projects: vec![summary],
            },
        ),
        sample(
            "resadmin/project",
            &resadmin::Project {
                id: project(),
                name: text("demo"),
                revision: 2,
                doees: vec![doee],
                databases: vec![text("readings")],
                routes: vec![text("GET /m/{id}")],
                settings: kernel::ProjectSettings {
                    weight: 300,
                    rate_max: 50,
                    concurrency_max: 8,
                },
            },
        ),
        sample(
            "resadmin/created-token",
            &resadmin::CreatedToken {
                id: principal_id(),
                token: text("isms_x"),
            },
        ),
        sample(
            "resadmin/tokens",
            &resadmin::Tokens {
                tokens: vec![principal],
            },
        ),
        sample(
            "resadmin/find-callee",
            &resadmin::FindCallee { doee: text("other") },
        ),
        sample(
            "resadmin/callee",
            &resadmin::Callee {
                version: version(),
                class: Class::High,
                deadline_ms: 2_000,
                is_durable: true,
            },
        ),
        sample(
            "resadmin/image-state",
            &resadmin::ImageState {
                offset: 65_536,
                complete: false,
            },
        ),
    ]
}

fn supervisor_datagrams() -> Vec<Sample> {
    let (service, incarnation) = (Service::Resadmin, Incarnation(9));
    vec![
        sample(
            "supervisor/bootstrap",
            &supervisor::Bootstrap {
                service: Service::Kernel,
                incarnation,
                secret: Secret([0x5e; 32]),
                user: Some((70_001, 70_002)),
                kernel_socket: text("run/kernel.sock"),
                config: vec![0xc0],
                descriptors: vec![
                    supervisor::DescriptorKind::KernelListener,
                    supervisor::DescriptorKind::HttpListener,
                    supervisor::DescriptorKind::Spawner,
                ],
            },
        ),
        sample(
            "supervisor/announce",
            &supervisor::ToRole::Announce {
                service,
                incarnation,
                secret_hash: [0x7f; 32],
            },
        ),
        sample("supervisor/stop", &supervisor::ToRole::Stop),
        sample("supervisor/heartbeat", &supervisor::FromRole::Heartbeat),
        sample(
            "supervisor/registered",
            &supervisor::FromRole::Registered { service, incarnation },
        ),
        sample(
            "supervisor/lost",
            &supervisor::FromRole::Lost { service, incarnation },
        ),
    ]
}

fn worker_datagrams() -> Vec<Sample> {
    let assignment = worker::Assignment {
        project: text("demo"),
        doee: text("echo"),
        version: version(),
        params: parameters(),
    };
    let failed = |stage| worker::Report::Failed {
        stage,
        message: text("no symbol"),
    };
    let line = |level| worker::LogLine {
        level,
        text: text("hot"),
    };
    vec![
        sample("worker/assign", &worker::Control::Assign(assignment)),
        sample("worker/drain", &worker::Control::Drain),
        sample("worker/empty", &worker::Report::Empty { abi: 1 }),
        sample("worker/initialized", &worker::Report::Initialized),
        sample("worker/failed-load", &failed(worker::Stage::Load)),
        sample("worker/failed-abi", &failed(worker::Stage::Abi)),
        sample("worker/failed-create", &failed(worker::Stage::Create)),
        sample("worker/failed-initialize", &failed(worker::Stage::Initialize)),
        sample("worker/terminated", &worker::Report::Terminated),
        sample(
            "worker/call",
            &worker::DoeeCall {
                doee: text("other"),
                headers: vec![(text("x-mine"), serde_bytes::ByteBuf::from(vec![0xff]))],
                body_len: 3,
                class: Some(Class::Batch),
                deadline_ms: 250,
                is_async: true,
            },
        ),
        sample(
            "worker/call-accepted",
            &worker::CallAccepted {
                process: ProcessId::from_bytes([0x31; 16]),
            },
        ),
        sample("worker/log-debug", &line(worker::LogLevel::Debug)),
        sample("worker/log-info", &line(worker::LogLevel::Info)),
        sample("worker/log-warn", &line(worker::LogLevel::Warn)),
        sample("worker/log-error", &line(worker::LogLevel::Error)),
    ]
}
