//! Numbers and names on the wire, spelled out: a renumbered variant fails here.

use isms_protocol::{
    Class, ContentHash, DoeeVersion, ErrorCode, Flags, HEADER_LEN, Kind, ProcessId, ProjectId, Service,
    VERSION, commserver, dbriver, doer, encode, gate, kernel, limits, resadmin, worker,
};

#[test]
fn error_codes_keep_their_numbers_and_http_statuses() {
    let expected = [
        (1, "Internal", 500),
        (2, "Invalid", 400),
        (3, "Unauthenticated", 401),
        (4, "Forbidden", 403),
        (5, "NotFound", 404),
        (6, "Conflict", 409),
        (7, "TooLarge", 413),
        (8, "Busy", 503),
        (9, "Unavailable", 503),
        (10, "Expired", 504),
        (11, "TimedOut", 504),
        (12, "Crashed", 502),
        (13, "DoeeFailed", 500),
        (14, "Cancelled", 499),
        (15, "Fenced", 409),
        (16, "ConditionFailed", 412),
        (17, "LimitReached", 507),
        (18, "Database", 400),
        (19, "BuildFailed", 422),
        (20, "RateLimited", 429),
    ];
    let actual: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| (u16::from(*code), code.name(), code.http_status()))
        .collect();
    assert_eq!(actual, expected);
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from(u16::from(*code)), *code);
        assert!(!code.title().is_empty());
    }
}

#[test]
fn an_error_code_of_a_newer_peer_reads_as_internal() {
    assert_eq!(ErrorCode::from(0), ErrorCode::Internal);
    assert_eq!(ErrorCode::from(21), ErrorCode::Internal);
    assert_eq!(ErrorCode::from(u16::MAX), ErrorCode::Internal);
}

#[test]
fn services_keep_their_numbers_and_names() {
    let expected = [
        "kernel",
        "doer",
        "dbriver",
        "commserver",
        "resadmin",
        "gate",
        "worker",
    ];
    for (number, name) in (0_u8..).zip(expected) {
        let service = Service::from_u8(number).unwrap();
        assert_eq!((service as u8, service.name()), (number, name));
    }
    assert_eq!(Service::from_u8(7), None);
    assert!(!Service::REGISTERED.contains(&Service::Kernel));
    assert!(!Service::REGISTERED.contains(&Service::Worker));
}

#[test]
fn kinds_keep_their_numbers() {
    let expected = [
        Kind::Register,
        Kind::Heartbeat,
        Kind::Request,
        Kind::Reply,
        Kind::Error,
        Kind::Event,
        Kind::Cancel,
        Kind::Credit,
        Kind::StreamChunk,
        Kind::StreamEnd,
        Kind::Slots,
        Kind::Demand,
        Kind::Begun,
    ];
    for (number, kind) in (1_u8..).zip(expected) {
        assert_eq!((kind as u8, Kind::from_u8(number)), (number, Some(kind)));
    }
    assert_eq!(
        (Kind::from_u8(0), Kind::from_u8(14), Kind::from_u8(255)),
        (None, None, None)
    );
}

#[test]
fn classes_keep_their_numbers_and_a_child_is_capped_by_its_parent() {
    for (number, class) in (0_u8..).zip(Class::ALL) {
        assert_eq!((class as u8, Class::from_u8(number)), (number, Some(class)));
    }
    assert_eq!(Class::from_u8(4), None);
    assert_eq!(Class::Realtime.capped_by(Class::Normal), Class::Normal);
    assert_eq!(Class::Batch.capped_by(Class::High), Class::Batch);
}

#[test]
fn flags_keep_their_bits_and_the_protocol_its_version() {
    assert_eq!((Flags::STREAM.0, Flags::TO_CALLER.0, Flags::ABORTED.0), (1, 2, 4));
    assert_eq!(
        (Flags::ASYNC.0, Flags::DURABLE.0, Flags::KEYED.0, Flags::LATER.0),
        (8, 16, 32, 64)
    );
    assert_eq!(Flags::TRACED.0, 128);
    assert_eq!((VERSION, HEADER_LEN), (1, 160));
}

/// Pins a module's operations: number, variant, name; and that no other number is one.
macro_rules! assert_operations {
    ($module:ident: $($number:literal $variant:ident $name:literal),+ $(,)?) => {{
        let expected = [$(($number, $module::Operation::$variant, $name)),+];
        let actual: Vec<_> = $module::Operation::ALL.iter().map(|it| (*it as u16, *it, it.name())).collect();
        assert_eq!(actual, expected, "operations of {}", stringify!($module));
        for number in 0..=u16::MAX {
            let known = expected.iter().find(|it| it.0 == number).map(|it| it.1);
            assert_eq!($module::Operation::from_u16(number), known);
        }
    }};
}

#[test]
fn operations_keep_their_numbers_and_names() {
    assert_operations!(kernel: 1 Status "status", 2 Processes "processes", 3 SetProject "set-project",
        4 Process "process", 5 Result "result", 6 Cancel "cancel",
        16 Calls "calls", 17 SetRates "set-rates", 18 ForgetProject "forget-project",
        20 SetRetries "set-retries", 21 Resume "resume", 22 Dead "dead", 23 Replay "replay", 24 Discard "discard");
    assert_operations!(doer: 1 Invoke "invoke", 2 Build "build", 3 Workers "workers", 4 Retire "retire",
        5 Isolation "isolation", 6 TryEnvironment "try-environment", 7 Keep "keep", 8 Deployed "deployed");
    assert_operations!(dbriver: 1 Transaction "transaction", 2 Prepare "prepare", 3 Drop "drop");
    assert_operations!(commserver: 1 SetRoutes "set-routes", 2 Fetch "fetch");
    assert_operations!(gate: 1 Log "log", 2 Spans "spans", 3 Runs "runs");
    assert_operations!(worker: 1 Log "log", 2 Call "call");
    assert_operations!(resadmin: 1 Authenticate "authenticate", 2 Projects "projects", 3 Routes "routes",
        4 Doee "doee", 5 Binary "binary", 6 Grants "grants", 7 Deploy "deploy",
        8 DeleteProject "delete-project", 9 DescribeProject "describe-project",
        10 CreateToken "create-token", 11 ListTokens "list-tokens", 12 RevokeToken "revoke-token",
        13 Image "image", 14 UploadImage "upload-image",
        15 ChangeProject "change-project", 16 NameDoees "name-doees", 17 Kept "kept", 18 Callee "callee");
}

#[test]
fn backends_keep_their_numbers_and_names() {
    for (number, backend, name) in [
        (0, doer::Backend::Native, "native"),
        (1, doer::Backend::Apptainer, "apptainer"),
    ] {
        assert_eq!(doer::Backend::try_from(number).unwrap(), backend);
        assert_eq!((u8::from(backend), backend.name()), (number, name));
    }
    assert!(doer::Backend::try_from(2).is_err());
}

#[test]
fn outcomes_and_starts_keep_their_numbers_and_names() {
    let names = |all: &[gate::Outcome]| all.iter().map(|outcome| outcome.name()).collect::<Vec<_>>();
    let metrics = kernel::Outcomes::default().named().map(|(name, _)| name);
    assert_eq!(names(gate::Outcome::ALL), metrics);
    for (number, &outcome) in (0_u8..).zip(gate::Outcome::ALL) {
        assert_eq!(
            (u8::from(outcome), gate::Outcome::try_from(number).unwrap()),
            (number, outcome)
        );
    }
    for (number, start) in (0_u8..).zip([gate::Start::Cold, gate::Start::Pooled, gate::Start::Warm]) {
        assert_eq!(
            (u8::from(start), gate::Start::try_from(number).unwrap()),
            (number, start)
        );
    }
    assert!(gate::Outcome::try_from(9).is_err() && gate::Start::try_from(3).is_err());
}

#[test]
fn a_full_batch_of_spans_fits_a_message() {
    let sample = |name: &str| {
        let sample = crate::samples::all()
            .into_iter()
            .find(|sample| sample.name == name);
        sample.unwrap().bytes
    };
    let spans: gate::Spans = isms_protocol::decode(&sample("gate/spans")).unwrap();
    let span = gate::Span {
        attempt: u32::MAX,
        parent_attempt: u32::MAX,
        operation: u16::MAX,
        target: Service::Commserver,
        queued_us: u64::MAX,
        dispatched_us: Some(u64::MAX),
        replied_us: u64::MAX,
        ended_us: u64::MAX,
        omitted: u32::MAX,
        class: Class::Realtime,
        ..spans.spans[0].clone()
    };
    let full = gate::Spans {
        spans: vec![span; limits::SPANS_MAX],
        dropped: u64::MAX,
    };
    assert!(HEADER_LEN + encode(&full).len() <= limits::MESSAGE_LEN_MAX);
    let runs: gate::Runs = isms_protocol::decode(&sample("gate/runs")).unwrap();
    let full = gate::Runs {
        runs: vec![runs.runs[0].clone(); limits::SPANS_MAX],
    };
    assert!(HEADER_LEN + encode(&full).len() <= limits::MESSAGE_LEN_MAX);
}

#[test]
fn the_span_of_an_attempt_is_its_own() {
    let process = ProcessId::generate();
    let span = isms_protocol::SpanId::of;
    assert_eq!(span(process, 1), span(process, 1));
    assert_ne!(span(process, 1), span(process, 2));
    assert_ne!(span(process, 1), span(ProcessId::generate(), 1));
    assert!(!span(ProcessId::NONE, 0).is_none());
}

#[test]
fn a_full_part_of_the_list_of_workers_fits_a_message() {
    let name = "n".repeat(limits::NAME_LEN_MAX);
    let worker = doer::WorkerStatus {
        worker: u32::MAX.into(),
        pid: u32::MAX,
        state: "draining".to_owned(),
        project: ProjectId::generate(),
        project_name: name.clone(),
        doee: name,
        version: DoeeVersion::generate(),
        process: ProcessId::generate(),
        calls: u32::MAX.into(),
        age_ms: u32::MAX.into(),
        backend: doer::Backend::Apptainer,
        image: Some(ContentHash([0xff; 32])),
    };
    let workers = doer::Workers {
        workers: vec![worker; limits::WORKERS_LISTED_MAX],
        waiting: u32::MAX,
        ready: u32::MAX,
        running: u32::MAX,
        more: true,
    };
    assert!(HEADER_LEN + encode(&workers).len() <= limits::MESSAGE_LEN_MAX);
}

#[test]
fn full_parts_of_the_lists_of_calls_and_of_names_fit_a_message() {
    let most = u64::MAX;
    let histogram = kernel::Histogram {
        counts: vec![most; kernel::BUCKETS_US.len() + 1],
        sum_us: most,
    };
    let class = kernel::ClassCalls {
        class: Class::Realtime,
        outcomes: kernel::Outcomes {
            done: most,
            failed: most,
            crashed: most,
            unavailable: most,
            refused: most,
            rate_limited: most,
            cancelled: most,
            expired: most,
            timed_out: most,
        },
        deadlines_met: most,
        deadlines_missed: most,
        waited: histogram.clone(),
        ran: histogram,
    };
    let doee = kernel::DoeeCalls {
        doee: DoeeVersion::generate(),
        project: ProjectId::generate(),
        queued: u32::MAX,
        running: u32::MAX,
        classes: vec![class],
    };
    let calls = kernel::Calls {
        doees: vec![doee; limits::CALLS_LISTED_MAX],
        next: u32::MAX,
    };
    assert!(HEADER_LEN + encode(&calls).len() <= limits::MESSAGE_LEN_MAX);

    let name = "n".repeat(limits::NAME_LEN_MAX);
    let named = resadmin::NamedDoee {
        version: DoeeVersion::generate(),
        project: name.clone(),
        doee: name,
    };
    let names = resadmin::NamedDoees {
        doees: vec![named; limits::NAMED_DOEES_MAX],
    };
    assert!(HEADER_LEN + encode(&names).len() <= limits::MESSAGE_LEN_MAX);
}

#[test]
fn full_lists_about_durable_calls_fit_a_message() {
    let fits = |body: Vec<u8>| HEADER_LEN + body.len() <= limits::MESSAGE_LEN_MAX;
    let call = kernel::ResumedCall {
        process: ProcessId::generate(),
        attempt: u32::MAX,
    };
    let resume = kernel::Resume {
        calls: vec![call; limits::RESUMED_MAX],
        more: true,
    };
    assert!(fits(encode(&resume)));
    let resumed = kernel::Resumed {
        calls: vec![u64::MAX; limits::RESUMED_MAX],
    };
    assert!(fits(encode(&resumed)));

    let letter = kernel::DeadLetter {
        process: ProcessId::generate(),
        project: ProjectId::generate(),
        doee: DoeeVersion::generate(),
        age_us: u64::MAX,
        dead_us: u64::MAX,
        kept_us: u64::MAX,
        failures: u32::MAX,
        request_len: u64::MAX,
        code: ErrorCode::DoeeFailed,
        reason: "r".repeat(limits::DEAD_REASON_LEN_MAX),
    };
    let letters = kernel::DeadLetters {
        letters: vec![letter; limits::DEAD_LISTED_MAX],
        more: true,
    };
    assert!(fits(encode(&letters)));
}

#[test]
fn a_list_of_resumed_calls_that_is_too_long_is_refused() {
    let call = kernel::ResumedCall {
        process: ProcessId::NONE,
        attempt: 1,
    };
    let list = |len: usize| kernel::Resume {
        calls: vec![call; len],
        more: false,
    };
    list(limits::RESUMED_MAX).check().unwrap();
    let error = list(limits::RESUMED_MAX + 1).check().unwrap_err();
    assert_eq!(error.to_string(), "resumed calls is 1001, which is not defined");
}

#[test]
fn a_hash_has_one_spelling() {
    let hash = ContentHash(std::array::from_fn(|index| index as u8 * 7));
    assert_eq!(hash.to_string().parse(), Ok(hash));
    let text = hash.to_string();
    for wrong in [
        "",
        &text[1..],
        &format!("{text}0"),
        &text.to_uppercase(),
        &text.replace('0', "/"),
        &format!("+{}", &text[1..]),
        &"é".repeat(32),
    ] {
        assert!(wrong.parse::<ContentHash>().is_err(), "{wrong}");
    }
}

#[test]
fn what_must_fit_a_message_fits() {
    const BODY_LEN_MAX: usize = 15 * 1024;
    const {
        assert!(HEADER_LEN + BODY_LEN_MAX + limits::INLINE_LEN_MAX <= limits::MESSAGE_LEN_MAX);
        assert!(HEADER_LEN + limits::CHUNK_LEN_MAX <= limits::MESSAGE_LEN_MAX);
        assert!(limits::CHUNK_LEN_MAX <= limits::STREAM_WINDOW as usize);
        assert!(limits::MESSAGE_LEN_MAX <= limits::CONNECTION_UNREAD_MAX);
        assert!(limits::ERROR_MESSAGE_LEN_MAX < BODY_LEN_MAX);
        assert!(limits::LOG_LINE_LEN_MAX <= limits::LOG_LEN_MAX);
    };
    assert!(limits::HEARTBEAT_INTERVAL < limits::HEARTBEAT_TIMEOUT);
}

#[test]
fn every_error_code_has_its_paragraph_in_the_documentation() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let page = std::fs::read_to_string(page).unwrap();
    for code in ErrorCode::ALL {
        let (number, name) = (u16::from(*code), code.name());
        let heading = format!("\n## {name} ({number}, HTTP {})\n", code.http_status());
        assert!(page.contains(&heading), "docs/errors.md lacks {heading:?}");
    }
    assert_eq!(page.matches("\n## ").count(), ErrorCode::ALL.len());
}
