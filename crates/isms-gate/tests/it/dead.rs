//! Dead letters: listed with names, run again as the version that serves, discarded.

use isms_http::test_support::FakeCall;
use isms_protocol::{
    DoeeVersion, ErrorCode, ProcessId, Service,
    kernel::{DeadAfter, DeadLetter, DeadLetters, DeadQuestion, Operation, ProcessState, Progress},
};
use serde_json::{Value, json};

use crate::harness::{A, Gate, VERSION};

/// An older version of `d`, another project's function and one whose project is gone; as `calls::names` knows them.
const OLD: DoeeVersion = DoeeVersion::from_bytes([5; 16]);
const NOT_THERE: DoeeVersion = DoeeVersion::from_bytes([3; 16]);
const GONE: DoeeVersion = DoeeVersion::from_bytes([4; 16]);

const VERSIONS: [DoeeVersion; 4] = [VERSION, OLD, NOT_THERE, GONE];

fn letter_id(number: u8) -> ProcessId {
    ProcessId::from_bytes([number; 16])
}

/// What the Kernel says: of project A it has four letters.
pub(crate) fn answer(call: &FakeCall) {
    let header = call.message.header;
    assert_eq!(header.project, A, "letters are asked for by project");
    assert!(!header.principal.is_none());
    if header.operation == Operation::Dead as u16 {
        let after: DeadAfter = call.message.decode_body().unwrap();
        let all = VERSIONS
            .iter()
            .zip(1..)
            .map(|(&doee, number)| letter(number, doee));
        let mut letters: Vec<_> = all.filter(|letter| letter.process > after.process).collect();
        let more = letters.len() > after.count as usize;
        letters.truncate(after.count as usize);
        return call.reply(&DeadLetters { letters, more }, "");
    }
    let question: DeadQuestion = call.message.decode_body().unwrap();
    if !(1..=4).any(|number| letter_id(number) == question.process) {
        return call.fail(ErrorCode::NotFound, "there is no such dead letter");
    }
    if header.operation == Operation::Discard as u16 {
        return call.reply(&(), "");
    }
    let state = ProcessState {
        process: question.process,
        progress: Progress::Queued,
        age_us: 9,
        queued_us: 0,
        ran_us: 0,
        kept_us: 0,
        failures: 0,
        retry_us: 0,
    };
    call.reply(&state, "");
}

fn letter(number: u8, doee: DoeeVersion) -> DeadLetter {
    DeadLetter {
        process: letter_id(number),
        project: A,
        doee,
        age_us: 30,
        dead_us: 20,
        kept_us: 10,
        failures: 5,
        request_len: 7,
        code: ErrorCode::DoeeFailed,
        reason: "it threw".into(),
    }
}

fn questions(gate: &Gate, operation: Operation) -> Vec<DeadQuestion> {
    let requests = gate.seen.requests.lock().unwrap();
    let asked = requests.iter().filter(|message| {
        message.header.target == Service::Kernel && message.header.operation == operation as u16
    });
    asked.map(|message| message.decode_body().unwrap()).collect()
}

#[tokio::test]
async fn letters_are_listed_in_parts_and_with_the_names_of_their_doees() {
    let gate = Gate::start().await;
    let list = "GET /api/v1/projects/a/dead";
    let all = gate.fetch("reader-a", list).await;
    assert_eq!(all.status, 200);
    let all = all.json();
    let first = json!({
        "process": letter_id(1),
        "doee": "d",
        "version": VERSION,
        "age_us": 30,
        "dead_us": 20,
        "kept_us": 10,
        "failures": 5,
        "request_len": 7,
        "code": "DoeeFailed",
        "reason": "it threw",
    });
    assert_eq!((&all["letters"][0], &all["more"]), (&first, &false.into()));
    let names: Vec<&Value> = all["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| &letter["doee"])
        .collect();
    assert_eq!(names, [&json!("d"), &json!("d"), &json!("e"), &Value::Null]);

    let part = format!("{list}?after={}&count=2", letter_id(1));
    let part = gate.fetch("reader-a", &part).await.json();
    let ids: Vec<&Value> = part["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| &letter["process"])
        .collect();
    assert_eq!(ids, [&json!(letter_id(2)), &json!(letter_id(3))]);
    assert_eq!(part["more"], true);
    assert_eq!(
        gate.fetch("reader-a", &format!("{list}?count=0")).await.status,
        400
    );
}

#[tokio::test]
async fn a_letter_runs_again_as_the_version_that_serves_now() {
    let gate = Gate::start().await;
    for number in [1, 2] {
        let id = letter_id(number);
        let request = format!("POST /api/v1/projects/a/dead/{id}/replay");
        let response = gate.fetch("invoker-a", &request).await;
        assert_eq!(
            (response.status, &response.json()["state"]),
            (202, &"queued".into())
        );
        assert_eq!(response.header("location"), format!("/api/v1/processes/{id}"));
    }
    let replayed = questions(&gate, Operation::Replay);
    let of = |number| DeadQuestion {
        process: letter_id(number),
        doee: VERSION,
    };
    assert_eq!(replayed, [of(1), of(2)]);
}

#[tokio::test]
async fn a_letter_whose_doee_is_gone_is_not_run_and_says_so() {
    let gate = Gate::start().await;
    for (number, detail) in [
        (3, "the project no longer has the function `e`"),
        (4, "it is not known any more which function the letter was for"),
        (5, "there is no such dead letter"),
    ] {
        let request = format!("POST /api/v1/projects/a/dead/{}/replay", letter_id(number));
        let response = gate.fetch("invoker-a", &request).await;
        assert_eq!(response.status, 404);
        let told = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(told.starts_with(detail), "{told}");
    }
    assert_eq!(questions(&gate, Operation::Replay), []);
}

#[tokio::test]
async fn a_letter_is_discarded() {
    let gate = Gate::start().await;
    for (id, status) in [
        (letter_id(4).to_string(), 204),
        (letter_id(9).to_string(), 404),
        ("x".to_owned(), 404),
    ] {
        let request = format!("DELETE /api/v1/projects/a/dead/{id}");
        assert_eq!(gate.fetch("invoker-a", &request).await.status, status, "{id}");
    }
}

#[tokio::test]
async fn who_may_only_read_changes_no_letter_and_other_projects_do_not_exist() {
    let gate = Gate::start().await;
    let id = letter_id(1);
    for (token, request, status) in [
        (
            "reader-a",
            format!("POST /api/v1/projects/a/dead/{id}/replay"),
            403,
        ),
        ("reader-a", format!("DELETE /api/v1/projects/a/dead/{id}"), 403),
        ("invoker-a", "GET /api/v1/projects/a/dead".to_owned(), 403),
        ("admin-a", "GET /api/v1/projects/b/dead".to_owned(), 404),
        (
            "admin-a",
            format!("POST /api/v1/projects/b/dead/{id}/replay"),
            404,
        ),
        ("admin-a", format!("DELETE /api/v1/projects/b/dead/{id}"), 404),
        ("admin", format!("DELETE /api/v1/projects/a/dead/{id}"), 204),
    ] {
        assert_eq!(
            gate.fetch(token, &request).await.status,
            status,
            "{token}: {request}"
        );
    }
}
