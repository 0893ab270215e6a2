//! What passes: requests as they were meant, bodies of any length, and what ends with the call.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use isms_http::test_support::soon;
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, ProjectId,
    commserver::Fetch,
    limits::{FETCH_BODY_LEN_MAX, INLINE_LEN_MAX},
};
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;

use super::harness::{Egress, OTHER, PROJECT, Server, VERSION, answer, get, ok, told};

#[tokio::test]
async fn a_request_arrives_as_it_was_meant_and_its_answer_comes_back() {
    let (server, mut heads) = Server::echoing().await;
    let egress = Egress::towards(&[&server]);
    let fetch = Fetch {
        method: "DELETE".to_owned(),
        headers: vec![
            ("x-mine".to_owned(), ByteBuf::from(&b"a\xff"[..])),
            ("accept".to_owned(), ByteBuf::from(&b"text/plain"[..])),
        ],
        ..get(&server.url("/a/b?c=d#e"))
    };
    let fetched = egress
        .fetch(&Fetch {
            headers: fetch.headers[1..].to_vec(),
            ..fetch.clone()
        })
        .await
        .unwrap();
    let expected = format!(
        "DELETE /a/b?c=d HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nuser-agent: isms/{}\r\naccept: text/plain\r\n\r\n",
        server.address,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(told(&mut heads).await, expected);
    assert_eq!(
        (fetched.head.status, fetched.text(), fetched.whole),
        (200, expected.clone(), true)
    );
    assert_eq!(fetched.head.body_len, Some(expected.len() as u64));
    assert_eq!(fetched.head.url, server.url("/a/b?c=d"));
    assert_eq!(fetched.header("content-type").as_deref(), Some("text/plain"));
}

#[tokio::test]
async fn an_error_of_the_server_is_an_answer_and_fields_of_the_connection_are_not_passed_on() {
    let server = Server::saying(
        "HTTP/1.1 503 Busy\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nset-cookie: a=1\r\n\
         transfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n3\r\nabc\r\n0\r\nx-late: 1\r\n\r\n",
    )
    .await;
    let egress = Egress::towards(&[&server]);
    let fetched = egress.get(&server.url("/")).await.unwrap();
    assert_eq!(
        (fetched.head.status, &*fetched.text(), fetched.whole),
        (503, "abc", true)
    );
    assert_eq!(fetched.head.body_len, None);
    let names: Vec<_> = fetched.head.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["set-cookie"]);
}

#[tokio::test]
async fn a_head_has_no_body_and_keeps_the_length_that_it_tells() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await;
    let egress = Egress::towards(&[&server]);
    let head = Fetch {
        method: "HEAD".to_owned(),
        ..get(&server.url("/"))
    };
    let fetched = egress.fetch(&head).await.unwrap();
    assert_eq!((fetched.body.len(), fetched.whole), (0, true));
    assert_eq!(fetched.header("content-length").as_deref(), Some("99999999999"));
}

#[tokio::test]
async fn only_what_was_granted_to_the_calling_version_is_reached() {
    let (server, _heads) = Server::echoing().await;
    let (neighbour, _others) = Server::echoing().await;
    let granted = [server.address.to_string()];
    let allow = ["127.0.0.0/8:*".to_owned()];
    let egress = Egress::start(&granted, &allow);
    assert_eq!(egress.get(&server.url("/")).await.unwrap().head.status, 200);

    let refused = egress.refused(&neighbour.url("/")).await;
    let expected = format!(
        "the function was not granted {}; add it to allow.http",
        neighbour.address
    );
    assert_eq!(refused, (ErrorCode::Forbidden, expected));
    // The same server by another name is another server.
    egress.names.set("api.test", &[&["127.0.0.1"]]);
    let by_name = format!("http://api.test:{}/", server.port());
    assert_eq!(egress.refused(&by_name).await.0, ErrorCode::Forbidden);

    let strangers = [
        (ProjectId::NONE, DoeeVersion::NONE),
        (PROJECT, DoeeVersion::NONE),
        (PROJECT, OTHER.1),
        (OTHER.0, VERSION),
    ];
    for caller in strangers {
        let mut ask = egress.ask_as(caller, &get(&server.url("/")), b"").await;
        let error = answer(&mut ask).await.unwrap_err();
        assert_eq!(
            (error.code, &*error.message),
            (
                ErrorCode::Forbidden,
                "only a Doee of a project may reach a server outside"
            ),
            "{caller:?}"
        );
    }
    assert_eq!((server.count(), neighbour.count()), (1, 0));
    assert_eq!(
        egress.asked.load(Ordering::Relaxed),
        3,
        "grants are asked for once a version"
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let egress = Egress::start(&["a.b:80".to_owned()], &[]);
    let cases = [
        Fetch {
            method: "CONNECT".to_owned(),
            ..get("http://a.b/")
        },
        get("http://user@a.b/"),
        get("file:///etc/passwd"),
        Fetch {
            headers: vec![("host".to_owned(), ByteBuf::from(&b"c.d"[..]))],
            ..get("http://a.b/")
        },
        Fetch {
            headers: vec![("x".to_owned(), ByteBuf::from(&b"1\r\nhost: c.d"[..]))],
            ..get("http://a.b/")
        },
        // Announces a body that does not come.
        Fetch {
            body_len: 1,
            ..get("http://a.b/")
        },
    ];
    for fetch in cases {
        let error = egress.fetch(&fetch).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{fetch:?}: {error}");
    }
    let long = Fetch {
        body_len: FETCH_BODY_LEN_MAX + 1,
        ..get("http://a.b/")
    };
    assert_eq!(egress.fetch(&long).await.unwrap_err().code, ErrorCode::TooLarge);
    assert_eq!(egress.names.lookups.load(Ordering::Relaxed), 0);
}

/// Reads a body of the announced length and sends it back in chunks of unknown number.
async fn mirror(mut connection: super::harness::Plain) {
    let head = connection.head().await;
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let body = connection.body(len.map_or(0, |len| len.parse().unwrap())).await;
    connection
        .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for piece in body.chunks(100_000) {
        connection.send(format!("{:x}\r\n", piece.len())).await;
        connection.send(piece).await;
        connection.send("\r\n").await;
    }
    connection.send("0\r\n\r\n").await;
}

#[tokio::test]
async fn bodies_pass_both_ways_up_to_16_mib() {
    let server = Server::start(mirror).await;
    let egress = Egress::towards(&[&server]);
    let post = |len: usize| Fetch {
        method: "POST".to_owned(),
        body_len: len as u64,
        ..get(&server.url("/"))
    };
    for len in [0, 1, INLINE_LEN_MAX] {
        let body = vec![7; len];
        let fetched = answer(&mut egress.ask(&post(len), &body).await).await.unwrap();
        assert!(fetched.whole && fetched.body == body, "{len} bytes, inline");
    }
    let len = FETCH_BODY_LEN_MAX as usize;
    let body: Vec<u8> = (0..len).map(|at| (at / 1000) as u8).collect();
    let mut ask = egress.ask_streaming(&post(len)).await;
    ask.write(Bytes::from(body.clone())).await;
    ask.finish(Flags::NONE);
    let fetched = answer(&mut ask).await.unwrap();
    assert!(fetched.whole && fetched.body == body, "16 MiB, streamed");
}

#[tokio::test]
async fn a_body_of_the_doee_that_breaks_off_or_is_short_never_looks_whole_to_the_server() {
    let (ends, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let ends = ends.clone();
        async move {
            connection.head().await;
            let _ = ends.send(connection.body(100_000).await.len());
        }
    })
    .await;
    let egress = Egress::towards(&[&server]);
    let fetch = Fetch {
        method: "PUT".to_owned(),
        body_len: 100_000,
        ..get(&server.url("/"))
    };
    for flags in [Flags::ABORTED, Flags::NONE] {
        let mut ask = egress.ask_streaming(&fetch).await;
        ask.write(Bytes::from(vec![1; 50_000])).await;
        ask.finish(flags);
        assert!(told(&mut ended).await < 100_000);
        let error = answer(&mut ask).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn a_cancel_closes_the_connection_before_the_answer_and_in_it() {
    let (news, mut heard) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let news = news.clone();
        async move {
            let head = connection.head().await;
            if head.starts_with("GET /begun") {
                connection
                    .send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nabc")
                    .await;
            }
            let _ = news.send("asked");
            connection.closed().await;
            let _ = news.send("closed");
        }
    })
    .await;
    let egress = Egress::towards(&[&server]);
    let silent = egress.ask(&get(&server.url("/silent")), b"").await;
    assert_eq!(told(&mut heard).await, "asked");
    silent.cancel();
    assert_eq!(told(&mut heard).await, "closed");

    let mut begun = egress.ask(&get(&server.url("/begun")), b"").await;
    assert_eq!(told(&mut heard).await, "asked");
    assert!(begun.answer().await.header.flags.contains(Flags::STREAM));
    begun.cancel();
    assert_eq!(told(&mut heard).await, "closed");
}

#[tokio::test]
async fn the_loss_of_the_kernel_closes_every_connection() {
    let (news, mut heard) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let news = news.clone();
        async move {
            connection.head().await;
            let _ = news.send("asked");
            connection.closed().await;
            let _ = news.send("closed");
        }
    })
    .await;
    let mut egress = Egress::towards(&[&server]);
    let _ask = egress.ask(&get(&server.url("/")), b"").await;
    assert_eq!(told(&mut heard).await, "asked");
    soon("the kernel's end", egress.kernel.stop()).await;
    assert_eq!(told(&mut heard).await, "closed");
}

#[tokio::test]
async fn one_project_s_requests_leave_room_for_others() {
    let (news, mut heard) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let news = news.clone();
        async move {
            let head = connection.head().await;
            if head.starts_with("GET /hold") {
                let _ = news.send(());
                return connection.closed().await;
            }
            connection.send(ok("quick")).await;
        }
    })
    .await;
    let egress = Egress::towards(&[&server]);
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(egress.ask(&get(&server.url("/hold")), b"").await);
        told(&mut heard).await;
    }
    let refused = egress.refused(&server.url("/")).await;
    let expected = "the project has 16 requests to servers outside under way; wait for one";
    assert_eq!(refused, (ErrorCode::Busy, expected.to_owned()));
    let mut other = egress.ask_as(OTHER, &get(&server.url("/")), b"").await;
    assert_eq!(answer(&mut other).await.unwrap().text(), "quick");

    held[0].cancel();
    let free = async {
        loop {
            match egress.get(&server.url("/")).await {
                Ok(answer) => return answer.text(),
                Err(error) => assert_eq!(error.code, ErrorCode::Busy, "{error}"),
            }
        }
    };
    assert_eq!(soon("a free place", free).await, "quick");
}
