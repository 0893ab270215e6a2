//! Direct calls.

use isms_gate::Config;
use isms_http::test_support::{Client, FakeCall};
use isms_protocol::{
    ErrorCode, Service,
    doer::{Invocation, InvocationReply, Operation, Trigger},
};

use crate::harness::{A, Gate, VERSION};

const INVOKE: &str = "POST /api/v1/projects/a/doees/d/invoke?x=1";

async fn echo(mut call: FakeCall) {
    let header = call.message.header;
    assert_eq!(
        (header.target, header.operation),
        (Service::Doer, Operation::Invoke as u16)
    );
    assert_eq!((header.project, header.target_doee), (A, VERSION));
    assert!((1..=5_000_000).contains(&header.remaining_us));
    let invocation: Invocation = call.message.decode_body().unwrap();
    assert_eq!(
        (invocation.trigger, &*invocation.query, &*invocation.principal),
        (Trigger::Direct, "x=1", "invoker-a")
    );
    assert!(
        invocation
            .headers
            .iter()
            .all(|(name, _)| name == "content-type" || name == "accept")
    );
    let payload = call.payload().await;
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        field("content-type", "text/html"),
        field("set-cookie", "isms=x"),
        field("x-own", "v"),
    ];
    let reply = InvocationReply {
        status: 418,
        headers,
        payload_len: None,
    };
    call.reply(&reply, format!("{}", payload.len()));
}

#[tokio::test]
async fn status_fields_and_body_of_the_doee_pass_through_defused() {
    let gate = Gate::with(Config::default(), echo).await;
    for len in [0, 3, 1 << 20] {
        let response = gate.send("invoker-a", INVOKE, &vec![b'x'; len]).await;
        assert_eq!((response.status, response.text()), (418, len.to_string()));
        assert_eq!(
            (response.header("x-own"), response.header("set-cookie")),
            ("v".into(), String::new())
        );
        assert_eq!(
            response.header("content-security-policy"),
            "default-src 'none'; sandbox"
        );
        assert_eq!(response.header("isms-process").len(), 36);
    }
}

#[tokio::test]
async fn unknown_doees_and_foreign_projects_are_404() {
    let gate = Gate::start().await;
    for path in ["projects/a/doees/x", "projects/b/doees/d", "projects/c/doees/d"] {
        let request = format!("POST /api/v1/{path}/invoke");
        assert_eq!(gate.fetch("invoker-a", &request).await.status, 404, "{path}");
    }
    assert!(gate.operations(Service::Doer).is_empty());
}

#[tokio::test]
async fn a_crash_is_502() {
    let gate = Gate::with(Config::default(), |call| async move {
        call.fail(ErrorCode::Crashed, "signal 11")
    })
    .await;
    let response = gate.fetch("invoker-a", INVOKE).await;
    assert_eq!(
        (response.status, &response.json()["detail"]),
        (502, &"signal 11".into())
    );
}

#[tokio::test]
async fn a_call_has_the_class_and_deadline_of_its_doee_unless_its_client_asks_for_less() {
    let gate = Gate::with(Config::default(), |call| async move {
        let header = call.message.header;
        let reply = InvocationReply {
            status: 200,
            ..InvocationReply::default()
        };
        call.reply(
            &reply,
            format!("{} {}", header.class.name(), header.remaining_us > 1_000_000),
        );
    })
    .await;
    let token = ("authorization", "Bearer invoker-a");
    for (fields, expected) in [
        (vec![token], "high true"),
        (
            vec![token, ("isms-class", "batch"), ("isms-deadline-ms", "900")],
            "batch false",
        ),
        (
            vec![token, ("isms-class", "realtime"), ("isms-deadline-ms", "99999")],
            "high true",
        ),
    ] {
        let response = Client::fetch(gate.address, INVOKE, &fields, b"").await;
        assert_eq!((response.status, &*response.text()), (200, expected));
    }
    for field in [("isms-class", "urgent"), ("isms-deadline-ms", "0")] {
        assert_eq!(
            Client::fetch(gate.address, INVOKE, &[token, field], b"")
                .await
                .status,
            400,
            "{field:?}"
        );
    }
}
