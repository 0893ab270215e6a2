//! Servers and names that mean harm.

use std::sync::atomic::Ordering;

use isms_protocol::{
    ErrorCode,
    commserver::Fetch,
    limits::{FETCH_BODY_LEN_MAX, FETCH_HEAD_LEN_MAX},
};

use super::harness::{Egress, Server, answer, get, ok};

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_whatever_its_name_is() {
    let (server, _heads) = Server::echoing().await;
    let port = server.port();
    let names = [
        ("loopback.test", "127.0.0.1"),
        ("mapped.test", "::ffff:127.0.0.1"),
        ("nat64.test", "64:ff9b::7f00:1"),
        ("six.test", "::1"),
        ("any.test", "0.0.0.0"),
        ("metadata.test", "169.254.169.254"),
        ("metadata6.test", "fd00:ec2::254"),
        ("lan.test", "10.0.0.1"),
    ];
    let literals = [
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "0.0.0.0",
        "169.254.169.254",
        "192.168.1.1",
    ];
    let mut granted: Vec<_> = literals.iter().map(|host| format!("{host}:{port}")).collect();
    granted.extend(names.iter().map(|(name, _)| format!("{name}:{port}")));
    let egress = Egress::start(&granted, &[]);
    for (name, address) in names {
        egress.names.set(name, &[&[address]]);
    }
    for server in &granted {
        let (code, message) = egress.refused(&format!("http://{server}/")).await;
        assert_eq!(code, ErrorCode::Forbidden, "{server}: {message}");
        assert!(
            message.contains("an administrator permits"),
            "{server}: {message}"
        );
    }
    // Other spellings of loopback are the same address, which is granted and not permitted.
    for host in ["0x7f000001", "2130706433", "127.1", "0177.0.0.1"] {
        let (code, message) = egress.refused(&format!("http://{host}:{port}/")).await;
        assert_eq!(code, ErrorCode::Forbidden, "{host}: {message}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_rule_permits_one_port_and_no_other_service_of_the_host() {
    let (server, _heads) = Server::echoing().await;
    let (other, _others) = Server::echoing().await;
    let granted = [server.address.to_string(), other.address.to_string()];
    let egress = Egress::start(&granted, &[server.address.to_string()]);
    assert_eq!(egress.get(&server.url("/")).await.unwrap().head.status, 200);
    assert_eq!(egress.refused(&other.url("/")).await.0, ErrorCode::Forbidden);
    assert_eq!(other.count(), 0);
}

#[tokio::test]
async fn what_is_connected_to_is_the_address_that_was_checked() {
    let (good, _heads) = Server::echoing().await;
    let bad = Server::start_at(
        &format!("127.0.0.2:{}", good.port()),
        |mut connection| async move {
            connection.head().await;
            connection.send(ok("secret")).await;
        },
    )
    .await;
    let name = format!("rebinds.test:{}", good.port());
    let egress = Egress::start(std::slice::from_ref(&name), &[good.address.to_string()]);
    let url = format!("http://{name}/");

    egress
        .names
        .set("rebinds.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert!(egress.get(&url).await.unwrap().text().starts_with("GET / "));
    assert_eq!(
        egress.names.lookups.load(Ordering::Relaxed),
        1,
        "one lookup a request"
    );
    let (code, message) = egress.refused(&url).await;
    assert_eq!(code, ErrorCode::Forbidden, "{message}");

    // Of several addresses only the permitted ones are tried.
    egress
        .names
        .set("rebinds.test", &[&["127.0.0.2", "127.0.0.1", "127.0.0.2"]]);
    assert!(egress.get(&url).await.unwrap().text().starts_with("GET / "));
    assert_eq!((good.count(), bad.count()), (2, 0));
}

#[tokio::test]
async fn a_name_without_an_address_and_a_port_without_a_server_are_unavailable() {
    let granted = [
        "nowhere.test:80".to_owned(),
        "empty.test:80".to_owned(),
        "127.0.0.1:1".to_owned(),
    ];
    let egress = Egress::start(&granted, &["127.0.0.1:1".to_owned()]);
    egress.names.set("empty.test", &[&[]]);
    for (server, said) in [
        ("nowhere.test", "cannot be resolved"),
        ("empty.test", "cannot be resolved: it has no address"),
        ("127.0.0.1:1", "cannot be connected to"),
    ] {
        let (code, message) = egress.refused(&format!("http://{server}/")).await;
        assert_eq!(code, ErrorCode::Unavailable, "{message}");
        assert!(message.contains(said), "{message}");
    }
}

fn within_ms(timeout_ms: u32, url: &str) -> Fetch {
    Fetch {
        timeout_ms,
        ..get(url)
    }
}

#[tokio::test]
async fn a_server_that_is_silent_or_drips_is_given_up_in_time() {
    let silent = Server::start(|mut connection| async move { connection.closed().await }).await;
    let drips = Server::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 200 OK\r\n").await;
        let mut drip = tokio::time::interval(std::time::Duration::from_millis(5));
        while connection.send("x: y\r\n").await {
            drip.tick().await;
        }
    })
    .await;
    let stalls = Server::start(|mut connection| async move {
        connection.head().await;
        connection
            .send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
            .await;
        connection.closed().await;
    })
    .await;
    let breaks = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    let egress = Egress::towards(&[&silent, &drips, &stalls, &breaks]);
    for server in [&silent, &drips, &stalls] {
        let error = egress.fetch(&within_ms(200, &server.url("/"))).await.unwrap_err();
        // The one that drips may be over the limit of fields before it is over its time.
        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    }
    let (code, message) = egress.refused(&breaks.url("/")).await;
    assert_eq!(code, ErrorCode::Unavailable, "{message}");
}

#[tokio::test]
async fn a_long_body_that_stalls_or_breaks_off_is_told_apart_from_a_whole_one() {
    let long = "x".repeat(60_000);
    let begin = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{long}");
    let breaks = Server::saying(begin.clone()).await;
    let stalls = Server::start(move |mut connection| {
        let begin = begin.clone();
        async move {
            connection.head().await;
            connection.send(begin).await;
            connection.closed().await;
        }
    })
    .await;
    let egress = Egress::towards(&[&breaks, &stalls]);
    for server in [&breaks, &stalls] {
        let fetched = egress.fetch(&within_ms(2_000, &server.url("/"))).await.unwrap();
        assert!(!fetched.whole);
        assert_eq!(fetched.head.body_len, Some(100_000));
        assert!(long.as_bytes().starts_with(&fetched.body));
    }
}

#[tokio::test]
async fn an_answer_over_a_limit_is_cut_off() {
    let endless = Server::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let piece = [b'x'; 64 * 1024];
        while connection.send(piece).await {}
    })
    .await;
    let announced = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 16777217\r\n\r\n").await;
    let many = Server::saying(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129))).await;
    let large = Server::saying(format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
        "y".repeat(FETCH_HEAD_LEN_MAX)
    ))
    .await;
    let endless_head = Server::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 200 OK\r\nx: ").await;
        while connection.send([b'y'; 1024]).await {}
    })
    .await;
    let egress = Egress::towards(&[&endless, &announced, &many, &large, &endless_head]);

    let fetched = egress.get(&endless.url("/")).await.unwrap();
    assert!(!fetched.whole);
    let len = fetched.body.len() as u64;
    assert!(
        len <= FETCH_BODY_LEN_MAX && len > FETCH_BODY_LEN_MAX - 1_000_000,
        "{len}"
    );

    for (server, expected) in [
        (&announced, ErrorCode::LimitReached),
        (&many, ErrorCode::Unavailable),
        (&large, ErrorCode::LimitReached),
        (&endless_head, ErrorCode::Unavailable),
    ] {
        let (code, message) = egress.refused(&server.url("/")).await;
        assert_eq!(code, expected, "{message}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_unavailable_and_harms_nobody() {
    let answers: [&[u8]; 8] = [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ];
    for said in answers {
        let server = Server::saying(said).await;
        let egress = Egress::towards(&[&server]);
        let (code, message) = egress.refused(&server.url("/")).await;
        assert_eq!(code, ErrorCode::Unavailable, "{said:?}: {message}");
        let (good, _heads) = Server::echoing().await;
        let mut again = egress.ask(&get(&good.url("/")), b"").await;
        assert_eq!(answer(&mut again).await.unwrap_err().code, ErrorCode::Forbidden);
    }
}
