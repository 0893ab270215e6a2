//! Redirects: as many as were asked for, each checked anew.

use std::sync::atomic::Ordering;

use isms_protocol::{ErrorCode, commserver::Fetch};
use serde_bytes::ByteBuf;

use super::harness::{Egress, Server, get, ok};

/// A server that sends its visitors elsewhere: `/to/URL`, or counts down in `/loop/N`.
async fn guide() -> Server {
    Server::start(|mut connection| async move {
        let head = connection.head().await;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let location = match (path.strip_prefix("/to/"), path.strip_prefix("/loop/")) {
            (Some(url), _) => url.to_owned(),
            (_, Some(left)) if left != "0" => format!("/loop/{}", left.parse::<u32>().unwrap() - 1),
            _ => {
                connection.send(ok(&head)).await;
                return;
            }
        };
        connection
            .send(format!(
                "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
    })
    .await
}

fn following(url: &str, redirects_max: u32) -> Fetch {
    Fetch {
        redirects_max,
        ..get(url)
    }
}

#[tokio::test]
async fn no_more_are_followed_than_were_asked_for_and_never_more_than_5() {
    let server = guide().await;
    let egress = Egress::towards(&[&server]);
    let cases = [
        (0, 302, "/loop/9"),
        (1, 302, "/loop/8"),
        (5, 302, "/loop/4"),
        (99, 302, "/loop/4"),
    ];
    for (redirects_max, status, path) in cases {
        let fetched = egress
            .fetch(&following(&server.url("/loop/9"), redirects_max))
            .await
            .unwrap();
        assert_eq!(
            (fetched.head.status, fetched.head.url),
            (status, server.url(path))
        );
    }
    let fetched = egress.fetch(&following(&server.url("/loop/3"), 5)).await.unwrap();
    assert_eq!(
        (fetched.head.status, fetched.head.url),
        (200, server.url("/loop/0"))
    );
}

#[tokio::test]
async fn a_redirect_leads_only_to_what_was_granted_and_permitted() {
    let server = guide().await;
    let (secret, _heads) = Server::echoing().await;
    let granted = [
        server.address.to_string(),
        "inside.test:80".to_owned(),
        "169.254.169.254:80".to_owned(),
    ];
    let egress = Egress::start(&granted, &[server.address.to_string()]);
    egress.names.set("inside.test", &[&["192.168.0.1"]]);
    let cases = [
        (
            secret.url("/"),
            format!(
                "the function was not granted {}; add it to allow.http",
                secret.address
            ),
        ),
        (
            "http://inside.test/".to_owned(),
            "inside.test:80 is at 192.168.0.1, which is private; an administrator permits such addresses in \
             [egress] allow"
                .to_owned(),
        ),
        (
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "169.254.169.254:80 is at 169.254.169.254, which is link-local; an administrator permits such \
             addresses in [egress] allow"
                .to_owned(),
        ),
    ];
    for (location, expected) in cases {
        let fetch = following(&server.url(&format!("/to/{location}")), 5);
        let error = egress.fetch(&fetch).await.unwrap_err();
        assert_eq!(
            (error.code, error.message),
            (ErrorCode::Forbidden, expected),
            "{location}"
        );
    }
    for location in [
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "http://user@a.b/",
    ] {
        let fetch = following(&server.url(&format!("/to/{location}")), 5);
        let error = egress.fetch(&fetch).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{location}: {error}");
    }
    assert_eq!(secret.count(), 0);
}

#[tokio::test]
async fn a_name_that_answers_otherwise_after_the_redirect_gains_nothing() {
    let server = guide().await;
    let name = format!("rebinds.test:{}", server.port());
    let egress = Egress::start(std::slice::from_ref(&name), &[server.address.to_string()]);
    egress
        .names
        .set("rebinds.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let fetch = following(&format!("http://{name}/loop/1"), 5);
    let error = egress.fetch(&fetch).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forbidden, "{error}");
    assert_eq!(egress.names.lookups.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_server() {
    let (server, other) = (guide().await, guide().await);
    let egress = Egress::towards(&[&server, &other]);
    let with_token = |url: &str| Fetch {
        headers: vec![("authorization".to_owned(), ByteBuf::from(&b"Bearer x"[..]))],
        ..following(url, 5)
    };
    let same = egress.fetch(&with_token(&server.url("/to//here"))).await.unwrap();
    assert!(same.text().contains("authorization: Bearer x"), "{}", same.text());
    let away = format!("/to/{}", other.url("/there"));
    let fetched = egress.fetch(&with_token(&server.url(&away))).await.unwrap();
    assert!(fetched.text().starts_with("GET /there "), "{}", fetched.text());
    assert!(!fetched.text().contains("authorization"), "{}", fetched.text());
}
