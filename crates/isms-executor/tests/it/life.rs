//! From empty to terminated, and every way in which that fails.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use isms_executor::{EXIT_CHANNEL, EXIT_FAILED};
use isms_protocol::doer::Parameter;
use isms_protocol::encode;
use isms_protocol::worker::{Assignment, Control, Report, Stage};
use isms_sandbox::linux::seqpacket;

use crate::worker::{Worker, compile, kitchen};

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;

/// A C Doee of which one function is replaced.
fn doee(replaced: &str, with: &str) -> Vec<u8> {
    let mut source = String::from(
        "#include <isms_doee.h>\n#include <stdlib.h>\n\
         static int object;\n\
         static isms_text text(const char *s) { size_t n = 0; while (s[n]) n++; return (isms_text){s, n}; }\n",
    );
    let functions = [
        (
            "create",
            "static void *create(isms_call *call) { (void)call; return &object; }",
        ),
        ("destroy", "static void destroy(void *doee) { (void)doee; }"),
        (
            "initialize",
            "static isms_result initialize(void *d, isms_call *call) { (void)d; (void)call; return 0; }",
        ),
        (
            "execute",
            "static isms_result execute(void *d, isms_call *call) { (void)d; (void)call; return 0; }",
        ),
        (
            "terminate",
            "static void terminate(void *d, isms_call *call) { (void)d; (void)call; }",
        ),
        (
            "table",
            "static const isms_doee_table T = {sizeof T, 1, 0, create, destroy, initialize, execute, terminate};",
        ),
        (
            "entry",
            "const isms_doee_table *isms_doee_v1(void) { return &T; }",
        ),
    ];
    for (name, function) in functions {
        source.push_str(if name == replaced { with } else { function });
        source.push('\n');
    }
    source.push_str("isms_text unused(void) { return text(\"\"); }\n");
    compile("doee.c", &source)
}

fn check_start_fails(binary: &[u8], stage: Stage, message: &str) {
    let (mut worker, report) = Worker::assign(binary, Vec::new());
    let Report::Failed {
        stage: reported,
        message: said,
    } = report
    else {
        panic!("{report:?}")
    };
    assert_eq!(reported, stage);
    assert!(said.contains(message), "{said}");
    assert_eq!(worker.wait().0.code(), Some(EXIT_FAILED));
}

fn check_crash(binary: &[u8], signal: i32) {
    let mut worker = Worker::empty();
    worker.send_assignment(binary, Vec::new());
    worker.connect();
    let (status, stderr) = worker.wait();
    assert_eq!(status.signal(), Some(signal), "{stderr}");
}

#[test]
fn a_worker_starts_answers_drains_and_terminates() {
    let mut worker = Worker::start(&kitchen());
    assert_eq!(worker.log_line().text, "initialized");
    assert_eq!(worker.get("/hello"), "hello");
    assert_eq!(worker.get("/hello"), "hello");
    worker.drain();
    assert_eq!(worker.report(), Report::Terminated);
    assert_eq!(worker.log_line().text, "terminated");
    assert_eq!(worker.wait().0.code(), Some(0));
}

#[test]
fn an_empty_worker_drains_as_well() {
    let mut worker = Worker::empty();
    worker.drain();
    worker.connect();
    assert_eq!(worker.report(), Report::Terminated);
    assert_eq!(worker.wait().0.code(), Some(0));
}

#[test]
fn the_handshake_may_come_before_the_assignment() {
    let mut worker = Worker::empty();
    worker.connect();
    worker.send_assignment(&kitchen(), Vec::new());
    assert_eq!(worker.report(), Report::Initialized);
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn parameters_arrive_typed_and_in_order() {
    let params = vec![
        ("window".to_owned(), Parameter::Integer(288)),
        ("alpha".to_owned(), Parameter::Real(0.25)),
        ("on".to_owned(), Parameter::Boolean(true)),
        ("unit".to_owned(), Parameter::Text("°C".into())),
    ];
    let (mut worker, report) = Worker::assign(&kitchen(), params);
    assert_eq!(report, Report::Initialized);
    assert_eq!(worker.get("/params"), "window=i288;alpha=r0.25;on=b1;unit=t°C;");
}

#[test]
fn what_is_no_shared_object_fails_to_load() {
    check_start_fails(b"hello", Stage::Load, "the binary");
}

#[test]
fn a_binary_without_the_symbol_fails_at_the_abi() {
    check_start_fails(
        &compile("none.c", "int nothing;"),
        Stage::Abi,
        "does not export isms_doee_v1",
    );
}

#[test]
fn a_table_of_another_abi_or_too_small_or_absent_fails_at_the_abi() {
    let table = |size: &str, abi: &str| {
        format!(
            "static const isms_doee_table T = {{{size}, {abi}, 0, create, destroy, initialize, execute, terminate}};"
        )
    };
    check_start_fails(
        &doee("table", &table("sizeof T", "2")),
        Stage::Abi,
        "speaks ABI 2, this executor speaks 1",
    );
    check_start_fails(
        &doee("table", &table("24", "1")),
        Stage::Abi,
        "the Doee's table has 24 bytes",
    );
    let missing =
        "static const isms_doee_table T = {sizeof T, 1, 0, create, destroy, initialize, 0, terminate};";
    check_start_fails(&doee("table", missing), Stage::Abi, "has no execute");
    let null = "const isms_doee_table *isms_doee_v1(void) { (void)T; return 0; }";
    check_start_fails(&doee("entry", null), Stage::Abi, "no table");
}

#[test]
fn create_and_initialize_say_why_they_fail() {
    let create = "static void *create(isms_call *c) { isms_fail(c, text(\"no luck\")); return 0; }";
    check_start_fails(&doee("create", create), Stage::Create, "no luck");
    let silent = "static void *create(isms_call *c) { (void)c; return 0; }";
    check_start_fails(&doee("create", silent), Stage::Create, "create returned NULL");
    let initialize = "static isms_result initialize(void *d, isms_call *c) { (void)d; (void)c; return 12; }";
    check_start_fails(&doee("initialize", initialize), Stage::Initialize, "code 12");
}

#[test]
fn host_calls_of_execute_are_invalid_in_initialize() {
    let initialize = "static isms_result initialize(void *d, isms_call *c) { const isms_request *r; (void)d;\
                      if (isms_request_get(c, &r) != ISMS_INVALID || isms_check(c) != ISMS_INVALID) return 0;\
                      return isms_fail(c, isms_error(c)), ISMS_FAILED; }";
    check_start_fails(
        &doee("initialize", initialize),
        Stage::Initialize,
        "only execute may do this",
    );
}

#[test]
fn a_crash_ends_the_process_with_its_signal_wherever_it_happens() {
    check_crash(
        &doee(
            "entry",
            "const isms_doee_table *isms_doee_v1(void) { (void)T; abort(); }",
        ),
        SIGABRT,
    );
    check_crash(
        &doee(
            "create",
            "static void *create(isms_call *c) { *(volatile int *)8 = 1; return c; }",
        ),
        SIGSEGV,
    );
    let constructor = "const isms_doee_table *isms_doee_v1(void) { return &T; }\n\
                       __attribute__((constructor)) static void early(void) { abort(); }";
    check_crash(&doee("entry", constructor), SIGABRT);
    let initialize = "static isms_result initialize(void *d, isms_call *c) { (void)d; (void)c; abort(); }";
    check_crash(&doee("initialize", initialize), SIGABRT);
}

#[test]
fn a_crash_in_execute_and_in_terminate_ends_the_process_with_its_signal() {
    for (path, signal) in [("/abort", SIGABRT), ("/segv", SIGSEGV)] {
        let mut worker = Worker::start(&kitchen());
        worker.begin(path, b"");
        assert_eq!(worker.wait().0.signal(), Some(signal));
    }
    let terminate = "static void terminate(void *d, isms_call *c) { (void)d; (void)c; abort(); }";
    let mut worker = Worker::start(&doee("terminate", terminate));
    worker.drain();
    assert_eq!(worker.wait().0.signal(), Some(SIGABRT));
}

#[test]
fn a_doee_cannot_execute_a_program() {
    let initialize = "#include <unistd.h>\n#include <errno.h>\n\
        static isms_result initialize(void *d, isms_call *c) { (void)d; char *none[] = {0};\
        execve(\"/bin/true\", none, none); return isms_fail(c, text(\"still here\")), ISMS_FAILED; }";
    let mut worker = Worker::empty();
    worker.send_assignment(&doee("initialize", initialize), Vec::new());
    worker.connect();
    // Refused with an error, or killed for trying: both will do, running on as another program will not.
    let (status, _) = worker.wait();
    assert!(
        status.code() == Some(EXIT_FAILED) || status.signal().is_some(),
        "{status}"
    );
}

#[test]
fn an_unsealed_or_missing_binary_ends_the_executor() {
    let assignment = Assignment {
        project: "p".into(),
        doee: "d".into(),
        version: isms_protocol::DoeeVersion::NONE,
        params: Vec::new(),
    };
    let order = encode(&Control::Assign(assignment));
    let mut worker = Worker::empty();
    let file = tempfile::tempfile().unwrap();
    let descriptors = [file.as_fd(), worker.page_memory.as_fd()];
    seqpacket::send(worker.control.as_fd(), &order, &descriptors).unwrap();
    let (status, stderr) = worker.wait();
    assert_eq!(status.code(), Some(EXIT_CHANNEL));
    assert!(stderr.contains("sealed"), "{stderr}");

    let mut worker = Worker::empty();
    seqpacket::send(worker.control.as_fd(), &order, &[]).unwrap();
    assert_eq!(worker.wait().0.code(), Some(EXIT_CHANNEL));
}

#[test]
fn the_end_of_either_channel_ends_the_executor() {
    let mut worker = Worker::start(&kitchen());
    worker.connection = None;
    assert_eq!(worker.wait().0.code(), Some(EXIT_CHANNEL));
    let mut worker = Worker::start(&kitchen());
    worker.control = seqpacket::pair().unwrap().0;
    assert_eq!(worker.wait().0.code(), Some(EXIT_CHANNEL));
}
