//! Calls that are accepted and go on without their caller.

use isms_gate::Config;
use isms_http::test_support::Client;
use isms_protocol::{
    Flags, ProjectId, Service,
    kernel::ProcessQuestion,
    limits::{ASYNC_BODY_LEN_MAX, KEY_LEN},
};

use crate::harness::{A, Gate, PROCESS};

const INVOKE: &str = "POST /api/v1/projects/a/doees/d/invoke";

async fn accepting() -> Gate {
    Gate::with(Config::default(), |mut call| async move {
        assert_eq!(
            call.message.header.flags.contains(Flags::STREAM),
            call.message.raw.is_empty()
        );
        let kept = Flags::ASYNC.with(Flags::DURABLE);
        assert!(call.message.header.flags.contains(kept));
        call.payload().await;
        call.reply(&(), "");
    })
    .await
}

#[tokio::test]
async fn a_call_that_prefers_so_is_accepted_and_named() {
    let gate = accepting().await;
    let fields = [("prefer", "respond-async"), ("authorization", "Bearer invoker-a")];
    for len in [1, ASYNC_BODY_LEN_MAX] {
        let response = Client::fetch(gate.address, INVOKE, &fields, &vec![b'x'; len]).await;
        assert_eq!(response.status, 202);
        assert_eq!(response.header("preference-applied"), "respond-async");
        let location = format!("/api/v1/processes/{}", response.header("isms-process"));
        assert_eq!(response.header("location"), location);
        assert_eq!(response.json()["url"], location);
    }
    let long = vec![b'x'; ASYNC_BODY_LEN_MAX + 1];
    let refused = Client::fetch(gate.address, INVOKE, &fields, &long).await;
    assert_eq!(refused.status, 413);
}

#[tokio::test]
async fn a_key_stands_in_front_of_the_body_and_is_refused_on_a_call_that_is_waited_for() {
    let gate = Gate::with(Config::default(), |call| async move {
        assert!(
            call.message
                .header
                .flags
                .contains(Flags::DURABLE.with(Flags::KEYED))
        );
        assert_eq!(&call.message.raw[KEY_LEN..], b"body");
        call.reply(&(), "");
    })
    .await;
    let token = ("authorization", "Bearer invoker-a");
    let (wish, key) = (("prefer", "respond-async"), ("idempotency-key", "\"order 7\""));
    let fields = [token, wish, ("idempotency-key", "order-7")];
    let response = Client::fetch(gate.address, INVOKE, &fields, b"body").await;
    assert_eq!(response.status, 202);
    for fields in [&[token, wish, key][..], &[token, ("idempotency-key", "order-7")]] {
        let response = Client::fetch(gate.address, INVOKE, fields, b"body").await;
        assert_eq!(response.status, 400);
    }
}

#[tokio::test]
async fn a_process_is_asked_about_in_the_callers_name_and_projects() {
    let gate = Gate::start().await;
    let path = format!("/api/v1/processes/{PROCESS}");
    let state = gate.fetch("invoker-a", &format!("GET {path}")).await;
    assert_eq!((state.status, &state.json()["state"]), (200, &"running".into()));
    assert_eq!(
        (&state.json()["failures"], &state.json()["retry_us"]),
        (&3.into(), &1.into())
    );
    let ended = gate.fetch("admin", &format!("GET {path}?wait=1")).await.json();
    assert_eq!((&ended["failures"], ended.get("retry_us")), (&3.into(), None));
    assert_eq!(
        (&ended["state"], &ended["result"]),
        (&"done".into(), &format!("{path}/result").into())
    );
    let result = gate.fetch("invoker-a", &format!("GET {path}/result")).await;
    assert_eq!((result.status, result.text()), (418, "made".into()));
    assert_eq!(
        result.header("content-security-policy"),
        "default-src 'none'; sandbox"
    );
    let cancelled = gate.fetch("invoker-a", &format!("DELETE {path}")).await;
    assert_eq!(cancelled.status, 202);
    let requests = gate.seen.requests.lock().unwrap();
    let asked: Vec<ProjectId> = requests
        .iter()
        .filter(|message| message.header.target == Service::Kernel)
        .map(|message| message.header.project)
        .collect();
    assert_eq!(asked, [A, ProjectId::NONE, A, A]);
    assert!(requests.iter().all(|message| !message.header.principal.is_none()));
}

#[tokio::test]
async fn only_an_administrator_asks_about_the_calls_of_any_principal() {
    let gate = Gate::start().await;
    let path = format!("/api/v1/processes/{PROCESS}");
    let tokens = ["invoker-a", "admin-a", "admin"];
    for token in tokens {
        assert_eq!(gate.fetch(token, &format!("DELETE {path}")).await.status, 202);
    }
    let requests = gate.seen.requests.lock().unwrap();
    let asked: Vec<(ProjectId, bool)> = requests
        .iter()
        .filter(|message| message.header.target == Service::Kernel)
        .map(|message| {
            let question: ProcessQuestion = message.decode_body().unwrap();
            (message.header.project, question.any_principal)
        })
        .collect();
    assert_eq!(asked, [(A, false), (A, true), (ProjectId::NONE, true)]);
}

#[tokio::test]
async fn what_is_no_process_is_404_and_a_wrong_question_400() {
    let gate = Gate::start().await;
    let other = "01010101-0101-0101-0101-010101010101";
    for (request, status) in [
        (format!("GET /api/v1/processes/{other}"), 404),
        (format!("GET /api/v1/processes/{other}/result"), 404),
        (format!("DELETE /api/v1/processes/{other}"), 404),
        ("GET /api/v1/processes/x".to_owned(), 404),
        (format!("GET /api/v1/processes/{PROCESS}?wait=61"), 400),
        (format!("POST /api/v1/processes/{PROCESS}"), 405),
    ] {
        assert_eq!(
            gate.fetch("invoker-a", &request).await.status,
            status,
            "{request}"
        );
    }
}
