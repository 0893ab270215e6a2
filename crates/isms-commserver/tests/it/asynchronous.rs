//! Calls that are accepted and go on without their client.

use isms_http::test_support::{Client, FakeCall};
use isms_protocol::{
    ErrorCode, Flags, PrincipalId, ProcessId, Service,
    commserver::{Auth, HttpRoute},
    kernel::{Operation, ProcessQuestion, ProcessState, Progress},
    limits::{ASYNC_BODY_LEN_MAX, KEY_LEN},
    resadmin::Right,
};

use crate::harness::{BODY_LEN_MAX, Edge, PROJECT, replies, route};

const ASYNC: (&str, &str) = ("prefer", "respond-async");

fn known() -> ProcessId {
    ProcessId::from_bytes([0x77; 16])
}

/// A Doer whose calls the Kernel keeps, and a Kernel that knows one process, which has waited for `wait_ms`.
async fn keep(mut call: FakeCall) {
    let header = call.message.header;
    if header.target == Service::Doer {
        assert!(header.flags.contains(Flags::ASYNC.with(Flags::DURABLE)));
        call.payload().await;
        return call.reply(&(), "");
    }
    let question: ProcessQuestion = call.message.decode_body().unwrap();
    if question.process != known() || header.project != PROJECT {
        return call.fail(ErrorCode::NotFound, "there is no such process");
    }
    call.message.header.process = question.process;
    let progress = match question.wait_ms {
        0 => Progress::Running,
        _ => Progress::Done,
    };
    match Operation::from_u16(header.operation).unwrap() {
        Operation::Result if header.principal.is_none() => {
            call.fail(ErrorCode::Conflict, "the call has not ended yet")
        }
        Operation::Result => call.reply(
            &replies(201, &[("x-own", "v"), ("content-type", "text/html")]),
            "made",
        ),
        _ => call.reply(
            &ProcessState {
                process: question.process,
                progress,
                age_us: 30,
                queued_us: 10,
                ran_us: u64::from(question.wait_ms),
                kept_us: 5,
                failures: 0,
                retry_us: 0,
            },
            "",
        ),
    }
}

#[tokio::test]
async fn a_call_that_prefers_so_is_accepted_and_named() {
    let edge = Edge::start(&["POST /a"], keep).await;
    for body in [0, 10, ASYNC_BODY_LEN_MAX] {
        let response = Client::fetch(edge.address, "POST /p/a", &[ASYNC], &vec![b'x'; body]).await;
        assert_eq!(response.status, 202);
        assert_eq!(response.header("preference-applied"), "respond-async");
        let process = response.header("isms-process");
        let location = format!("/p/.processes/{process}");
        assert_eq!(response.header("location"), location);
        assert_eq!(response.json()["process"], process);
        assert_eq!(response.json()["url"], location);
    }
}

#[tokio::test]
async fn a_key_stands_in_front_of_the_body_whether_it_streams_or_not() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let see = seen.clone();
    let edge = Edge::start(&["POST /a", "PUT /a"], move |mut call| {
        let see = see.clone();
        async move {
            let header = call.message.header;
            assert!(header.flags.contains(Flags::DURABLE.with(Flags::KEYED)));
            let key = call.message.raw.split_to(KEY_LEN);
            assert_eq!(header.flags.contains(Flags::STREAM), call.message.raw.is_empty());
            let len = call.payload().await.len();
            see.lock().unwrap().push((key, len));
            call.reply(&(), "");
        }
    })
    .await;
    for (request, key, len) in [
        ("POST /p/a", "one", 1),
        ("POST /p/a", "\"one\"", 100_000),
        ("POST /p/a", "two", 1),
        ("PUT /p/a", "one", 1),
    ] {
        let fields = [ASYNC, ("idempotency-key", key)];
        let response = Client::fetch(edge.address, request, &fields, &vec![b'x'; len]).await;
        assert_eq!(response.status, 202, "{key}");
    }
    let seen = seen.lock().unwrap();
    let lengths: Vec<usize> = seen.iter().map(|(_, len)| *len).collect();
    assert_eq!(lengths, [1, 100_000, 1, 1]);
    assert_eq!(seen[0].0, seen[1].0, "both forms are one key");
    assert_ne!(seen[0].0, seen[2].0);
    assert_ne!(seen[0].0, seen[3].0, "of another route");
}

#[tokio::test]
async fn a_key_that_is_none_or_of_a_call_that_is_waited_for_is_refused() {
    let edge = Edge::start(&["POST /a"], |_| async { panic!("a call") }).await;
    for (fields, told) in [
        (
            &[ASYNC, ("idempotency-key", "a b")][..],
            "255 visible ASCII characters",
        ),
        (
            &[ASYNC, ("idempotency-key", "a"), ("idempotency-key", "a")],
            "more than once",
        ),
        (&[("idempotency-key", "a")], "is for asynchronous calls"),
    ] {
        let response = edge.fetch_with("POST /p/a", fields).await;
        assert_eq!(response.status, 400);
        let detail = response.json()["detail"].to_string();
        assert!(detail.contains(told), "{detail}");
    }
}

#[tokio::test]
async fn the_body_of_an_asynchronous_call_is_bounded_whatever_the_route_allows() {
    const { assert!(BODY_LEN_MAX > ASYNC_BODY_LEN_MAX as u64) };
    let edge = Edge::start(&["POST /a"], |_| async { panic!("a call") }).await;
    let mut client = edge.connect().await;
    let len = ASYNC_BODY_LEN_MAX + 1;
    client
        .send(format!(
            "POST /p/a HTTP/1.1\r\nhost: h\r\nprefer: respond-async\r\ncontent-length: {len}\r\n\r\n"
        ))
        .await;
    assert_eq!(client.response().await.status, 413);
}

#[tokio::test]
async fn a_preference_with_a_value_that_it_cannot_have_is_none() {
    let edge = Edge::start(&["POST /a"], |call| async move {
        assert!(!call.message.header.flags.contains(Flags::ASYNC));
        call.reply(&replies(200, &[]), "waited for");
    })
    .await;
    let response = edge
        .fetch_with("POST /p/a", &[("prefer", "respond-async=false")])
        .await;
    assert_eq!((response.status, response.text()), (200, "waited for".into()));
}

#[tokio::test]
async fn a_call_that_the_kernel_does_not_accept_is_its_error() {
    let edge = Edge::start(&["POST /a"], |call| async move {
        call.fail(ErrorCode::Busy, "there is no room for more asynchronous calls")
    })
    .await;
    let response = edge.fetch_with("POST /p/a", &[ASYNC]).await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, "1".into())
    );
    assert_eq!(response.header("location"), "");
}

#[tokio::test]
async fn a_process_tells_how_far_it_is_at_once_or_after_a_wait() {
    let edge = Edge::start(&["GET /{x}/{y}"], keep).await;
    let path = format!("/p/.processes/{}", known());
    let response = edge.fetch(&format!("GET {path}")).await;
    assert_eq!(
        (response.status, response.header("retry-after")),
        (200, "1".into())
    );
    assert_eq!(response.header("cache-control"), "no-store");
    let state = response.json();
    assert_eq!(
        (&state["state"], &state["age_us"]),
        (&"running".into(), &30.into())
    );
    assert!(state["result"].is_null());

    let waited = edge.fetch(&format!("GET {path}?wait=2")).await.json();
    assert_eq!(
        (&waited["state"], &waited["ran_us"]),
        (&"done".into(), &2000.into())
    );
    assert_eq!(waited["result"], format!("{path}/result"));
    let preferred = edge
        .fetch_with(&format!("GET {path}"), &[("prefer", "wait=86400")])
        .await;
    assert_eq!(preferred.json()["ran_us"], 60_000, "no wait is longer");
    assert_eq!(
        edge.fetch(&format!("HEAD {path}")).await.header("content-type"),
        "application/json"
    );
}

#[tokio::test]
async fn a_result_is_what_the_doee_gave_and_defused_like_it() {
    let edge = Edge::start(&["GET /a"], keep).await;
    edge.resadmin.add_token("mine", Some(PROJECT), &[Right::Invoke]);
    let request = format!("GET /p/.processes/{}/result", known());
    let response = edge
        .fetch_with(&request, &[("authorization", "Bearer mine")])
        .await;
    assert_eq!((response.status, response.text()), (201, "made".into()));
    assert_eq!(
        (
            response.header("x-own"),
            response.header("content-security-policy")
        ),
        ("v".into(), "sandbox".into())
    );
    assert_eq!(response.header("isms-process"), known().to_string());
    let early = edge.fetch(&request).await;
    assert_eq!(early.status, 409);
    assert_eq!(early.json()["instance"], known().to_string());
    assert_eq!(early.header("retry-after"), "1");
}

#[tokio::test]
async fn a_running_call_is_asked_to_stop() {
    let edge = Edge::start(&["GET /a"], keep).await;
    let response = edge.fetch(&format!("DELETE /p/.processes/{}", known())).await;
    assert_eq!(
        (response.status, &response.json()["state"]),
        (202, &"running".into())
    );
}

#[tokio::test]
async fn whose_a_process_is_says_the_token_and_a_bad_one_is_nobodys() {
    let principals = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = principals.clone();
    let routes = vec![HttpRoute {
        auth: Auth::Token,
        ..route("GET /a")
    }];
    let edge = Edge::with_routes(routes, move |call| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(call.message.header.principal);
            call.fail(ErrorCode::NotFound, "there is no such process");
        }
    })
    .await;
    let mine = edge.resadmin.add_token("mine", None, &[Right::Invoke]);
    let request = format!("GET /p/.processes/{}", known());
    let mut answers = Vec::new();
    for token in ["Bearer mine", "Bearer unknown", "Basic bWluZQ==", ""] {
        let fields = [("authorization", token)];
        let fields = if token.is_empty() { &[][..] } else { &fields };
        let response = edge.fetch_with(&request, fields).await;
        assert_eq!(response.header("www-authenticate"), "");
        answers.push((response.status, response.text()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].0, 404);
    let nobody = PrincipalId::NONE;
    assert_eq!(*principals.lock().unwrap(), [mine, nobody, nobody, nobody]);
}

#[tokio::test]
async fn nothing_below_the_reserved_segment_reaches_a_doee() {
    let edge = Edge::start(
        &["GET /{a}", "GET /{a}/{b}", "GET /{a}/{b}/{c}", "POST /{a}/{b}"],
        |call| async move {
            assert_eq!(call.message.header.target, Service::Kernel);
            call.fail(ErrorCode::NotFound, "there is no such process");
        },
    )
    .await;
    let id = known();
    for (request, status) in [
        ("GET /p/.processes".to_owned(), 404),
        ("GET /p/.processes/".to_owned(), 404),
        ("GET /p/%2eprocesses/x".to_owned(), 404),
        (
            format!("GET /p/.processes/{}", id.to_string().to_uppercase()),
            404,
        ),
        (format!("GET /p/.processes/{id}/other"), 404),
        (format!("GET /p/.processes/{id}/result/x"), 404),
        (format!("GET /q/.processes/{id}"), 404),
        (format!("GET /p/.processes/{id}?wait=61"), 400),
        (format!("GET /p/.processes/{id}?x=1"), 400),
        (format!("POST /p/.processes/{id}"), 405),
        (format!("DELETE /p/.processes/{id}/result"), 405),
        (format!("OPTIONS /p/.processes/{id}"), 204),
        (format!("GET /p/.processes/{id}"), 404),
    ] {
        assert_eq!(edge.fetch(&request).await.status, status, "{request}");
    }
    let options = edge.fetch(&format!("OPTIONS /p/.processes/{id}")).await;
    assert_eq!(options.header("allow"), "DELETE, GET, HEAD, OPTIONS");
    let wrong = edge.fetch(&format!("PUT /p/.processes/{id}")).await;
    assert_eq!(wrong.header("allow"), "DELETE, GET, HEAD, OPTIONS");
    assert_eq!(
        wrong.json()["detail"],
        "an asynchronous call is asked about with GET and cancelled with DELETE"
    );
}

#[tokio::test]
async fn who_leaves_while_it_waits_takes_the_question_back() {
    let (told, mut taken_back) = tokio::sync::mpsc::channel(1);
    let edge = Edge::start(&["GET /a"], move |mut call| {
        let told = told.clone();
        async move {
            told.send("asked").await.unwrap();
            call.cancelled().await;
            told.send("cancelled").await.unwrap();
        }
    })
    .await;
    let mut client = edge.connect().await;
    client
        .send(format!(
            "GET /p/.processes/{}?wait=60 HTTP/1.1\r\nhost: h\r\n\r\n",
            known()
        ))
        .await;
    assert_eq!(taken_back.recv().await, Some("asked"));
    drop(client);
    assert_eq!(taken_back.recv().await, Some("cancelled"));
}
