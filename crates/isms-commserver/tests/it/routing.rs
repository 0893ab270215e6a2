//! From path to Doee, and what the Doee gets to see.

use std::sync::{Arc, Mutex};

use isms_protocol::{
    Class, ErrorCode, Kind, Message, ProjectId, Service, WireError,
    commserver::ProjectRoutes,
    doer::{Invocation, Operation, Trigger},
};

use crate::harness::{Edge, PROJECT, VERSION, project_routes, replies, route, tell};

#[tokio::test]
async fn a_request_reaches_its_doee_and_the_reply_comes_back() {
    let edge = Edge::start(&["GET /machines/{id}/summary"], tell).await;
    let response = edge.fetch("GET /p/machines/m%201/summary?from=a%20b&x").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.text(),
        "GET /machines/m 1/summary /machines/{id}/summary [id=m 1] ?from=a%20b&x <> Some(0)"
    );
    assert_eq!(response.header("content-type"), "text/plain");
    assert_eq!(response.header("x-content-type-options"), "nosniff");
    assert_eq!(response.header("isms-process").len(), 36);
}

#[tokio::test]
async fn the_call_carries_project_version_class_deadline_and_trace() {
    let seen: Arc<Mutex<Option<Message>>> = Arc::default();
    let see = seen.clone();
    let edge = Edge::start(&["GET /"], move |call| {
        *see.lock().unwrap() = Some(call.message.clone());
        call.reply(&replies(204, &[]), "");
        async {}
    })
    .await;
    let fields = [
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("cookie", "a=1; isms_session=secret"),
        ("X-Mixed-Case", "v"),
        ("connection", "close, x-private"),
        ("x-private", "hidden"),
        ("authorization", "Basic b3duOmJ1c2luZXNz"),
    ];
    assert_eq!(edge.fetch_with("GET /p", &fields).await.status, 204);

    let message = seen.lock().unwrap().take().unwrap();
    let header = message.header;
    assert_eq!(
        (header.kind, header.target, header.operation),
        (Kind::Request, Service::Doer, Operation::Invoke as u16)
    );
    assert_eq!(
        (header.project, header.target_doee, header.class),
        (PROJECT, VERSION, Class::High)
    );
    assert!(header.parent.is_none() && header.principal.is_none());
    assert!((1..=8_000_000).contains(&header.remaining_us));
    assert_eq!(header.trace.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
    let invocation: Invocation = message.decode_body().unwrap();
    assert_eq!(
        (invocation.trigger, &*invocation.path, &*invocation.route),
        (Trigger::Http, "/", "/")
    );
    let field = |name: &str| {
        let found = invocation.headers.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    };
    assert_eq!(field("cookie").as_deref(), Some("a=1"));
    assert_eq!(field("x-mixed-case").as_deref(), Some("v"));
    assert_eq!(
        field("authorization").as_deref(),
        Some("Basic b3duOmJ1c2luZXNz"),
        "the project's own business"
    );
    assert_eq!((field("connection"), field("x-private")), (None, None));
}

#[tokio::test]
async fn what_is_not_routed_costs_no_call() {
    let edge = Edge::start(&["GET /a", "POST /a", "GET /b/{x}"], |_| async {
        panic!("a call")
    })
    .await;
    for (request, status, title) in [
        ("GET /", 404, "not found"),
        ("GET /other/a", 404, "not found"),
        ("GET /p/c", 404, "not found"),
        ("GET /p/a/", 404, "not found"),
        ("GET /P/a", 404, "not found"),
        ("GET /p/b/x%2fy", 400, "invalid request"),
        ("GET /p/b/%00", 400, "invalid request"),
        ("GET /p/b/%ff", 400, "invalid request"),
        ("GET /p/b/%zz", 400, "invalid request"),
        ("GET /p/../p/a", 400, "invalid request"),
        ("OPTIONS *", 400, "invalid request"),
        ("CONNECT h:80", 400, "invalid request"),
        ("DELETE /p/a", 405, "Method Not Allowed"),
    ] {
        let response = edge.fetch(request).await;
        assert_eq!(response.status, status, "{request}");
        assert_eq!(
            response.header("content-type"),
            "application/problem+json",
            "{request}"
        );
        assert_eq!(
            (&response.json()["title"], &response.json()["status"]),
            (&title.into(), &status.into()),
            "{request}"
        );
    }
    assert_eq!(
        edge.fetch("DELETE /p/a").await.header("allow"),
        "GET, HEAD, OPTIONS, POST"
    );
    let options = edge.fetch("OPTIONS /p/a").await;
    assert_eq!(
        (options.status, &*options.header("allow")),
        (204, "GET, HEAD, OPTIONS, POST")
    );
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let edge = Edge::start(&["GET /a"], tell).await;
    let get = edge.fetch("GET /p/a").await;
    let head = edge.fetch("HEAD /p/a").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let edge = Edge::start(&["GET /{n}"], tell).await;
    let mut client = edge.connect().await;
    for number in 0..50 {
        let response = client.exchange(&format!("GET /p/{number}"), &[], b"").await;
        assert_eq!(
            response.text(),
            format!("GET /{number} /{{n}} [n={number}] ? <> Some(0)")
        );
    }
}

#[tokio::test]
async fn pushed_routes_are_seen_by_the_next_request() {
    let edge = Edge::start(&["GET /old"], tell).await;
    let answer = edge.set_routes(&project_routes(2, vec![route("GET /new")])).await;
    assert_eq!(answer.header.kind, Kind::Reply);
    assert_eq!(edge.fetch("GET /p/new").await.status, 200);
    assert_eq!(edge.fetch("GET /p/old").await.status, 404);

    edge.set_routes(&project_routes(1, vec![route("GET /older")]))
        .await;
    assert_eq!(
        edge.fetch("GET /p/new").await.status,
        200,
        "an older revision is ignored"
    );

    edge.set_routes(&project_routes(3, vec![])).await;
    assert_eq!(
        edge.fetch("GET /p/new").await.status,
        404,
        "a project without routes is forgotten"
    );
}

#[tokio::test]
async fn routes_that_cannot_be_served_leave_the_old_ones() {
    let edge = Edge::start(&["GET /old"], tell).await;
    let foreign = ProjectRoutes {
        project: ProjectId::from_bytes([9; 16]),
        ..project_routes(2, vec![route("GET /x")])
    };
    for (routes, code) in [
        (project_routes(2, vec![route("GET x")]), ErrorCode::Invalid),
        (
            project_routes(2, vec![route("GET /{a}"), route("GET /{b}")]),
            ErrorCode::Invalid,
        ),
        (foreign, ErrorCode::Forbidden),
    ] {
        let answer = edge.set_routes(&routes).await;
        assert_eq!(answer.header.kind, Kind::Error);
        assert_eq!(answer.decode_body::<WireError>().unwrap().code, code);
    }
    assert_eq!(edge.fetch("GET /p/old").await.status, 200);
}

#[tokio::test]
async fn html_is_sandboxed() {
    let edge = Edge::start(&["GET /"], |call| {
        let head = replies(
            200,
            &[
                ("content-type", "text/html"),
                ("set-cookie", "isms=x"),
                ("connection", "close"),
            ],
        );
        call.reply(&head, "<p>hi</p>");
        async {}
    })
    .await;
    let response = edge.fetch("GET /p/").await;
    assert_eq!(response.header("content-security-policy"), "sandbox");
    assert_eq!(
        (response.header("set-cookie"), response.header("connection")),
        (String::new(), String::new())
    );
}

#[tokio::test]
async fn a_client_may_lower_class_and_deadline_of_its_call_and_its_doee_does_not_see_how() {
    let edge = Edge::start(&["GET /"], |call| async move {
        let header = call.message.header;
        let invocation: Invocation = call.message.decode_body().unwrap();
        assert!(
            invocation
                .headers
                .iter()
                .all(|(name, _)| !name.starts_with("isms-"))
        );
        let text = format!("{} {}", header.class.name(), header.remaining_us > 1_000_000);
        call.reply(&replies(200, &[]), text);
    })
    .await;
    for (fields, expected) in [
        (
            vec![("isms-class", "batch"), ("isms-deadline-ms", "900")],
            "batch false",
        ),
        (
            vec![("isms-class", "realtime"), ("isms-deadline-ms", "8001")],
            "high true",
        ),
    ] {
        let response = edge.fetch_with("GET /p", &fields).await;
        assert_eq!((response.status, &*response.text()), (200, expected));
    }
    for field in [("isms-class", "low"), ("isms-deadline-ms", "4294967296")] {
        let response = edge.fetch_with("GET /p", &[field]).await;
        assert_eq!(response.status, 400, "{field:?}");
        assert!(response.header("content-type").contains("problem+json"));
    }
}
