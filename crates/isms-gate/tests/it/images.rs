//! Images: where one stands, and its bytes on their way to Resadmin.

use isms_gate::Config;
use isms_http::test_support::Client;
use isms_protocol::{
    ContentHash, ErrorCode,
    resadmin::{Image, ImageState, Operation, UploadImage},
};
use serde_json::json;

use crate::harness::Gate;

const IMAGE: ContentHash = ContentHash([0x1a; 32]);

fn path() -> String {
    format!("/api/v1/projects/a/images/{IMAGE}")
}

#[tokio::test]
async fn the_state_of_an_image_is_told_in_the_body_and_in_fields() {
    let gate = Gate::with(Config::default(), |call| async move {
        assert_eq!(call.message.header.operation, Operation::Image as u16);
        let asked: Image = call.message.decode_body().unwrap();
        assert_eq!((asked.project.as_str(), asked.image), ("a", IMAGE));
        let state = ImageState {
            offset: 77,
            complete: false,
        };
        call.reply(&state, "");
    })
    .await;
    let answer = gate.fetch("deployer-a", &format!("GET {}", path())).await;
    assert_eq!((answer.status, &*answer.header("upload-offset")), (200, "77"));
    assert_eq!(answer.header("upload-complete"), "?0");
    assert_eq!(
        answer.json(),
        json!({ "image": IMAGE.to_string(), "offset": 77, "complete": false })
    );
}

#[tokio::test]
async fn the_bytes_of_an_image_stream_through_from_where_it_stands() {
    const LEN: usize = 8 << 20;
    let gate = Gate::with(Config::default(), |mut call| async move {
        assert_eq!(call.message.header.operation, Operation::UploadImage as u16);
        let asked: UploadImage = call.message.decode_body().unwrap();
        assert_eq!((asked.offset, asked.len), (5, LEN as u64 + 5));
        let mut len = 0;
        while let Some(piece) = call.piece().await {
            len += piece.unwrap().len();
        }
        assert_eq!(len, LEN);
        let state = ImageState {
            offset: asked.len,
            complete: true,
        };
        call.reply(&state, "");
    })
    .await;
    let mut client = Client::connect(gate.address).await;
    client
        .send(format!(
            "PATCH {} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer deployer-a\r\nupload-offset: 5\r\n\
             upload-length: {}\r\ncontent-length: {LEN}\r\n\r\n",
            path(),
            gate.address,
            LEN + 5
        ))
        .await;
    for _ in 0..LEN >> 16 {
        client.send([7; 1 << 16]).await;
    }
    let head = client.head().await;
    assert_eq!((head.status, &*head.header("upload-complete")), (200, "?1"));
}

/// The status with which an upload with these fields and this body is answered.
async fn upload(gate: &Gate, path: &str, fields: &str, body: &str) -> u16 {
    let mut client = Client::connect(gate.address).await;
    client
        .send(format!(
            "PATCH {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer deployer-a\r\n{fields}content-length: \
             {}\r\n\r\n{body}",
            gate.address,
            body.len()
        ))
        .await;
    client.head().await.status
}

#[tokio::test]
async fn what_does_not_say_which_bytes_it_brings_is_refused() {
    let config = Config {
        image_len_max: 10,
        ..Config::default()
    };
    let gate = Gate::with(config, |call| async move {
        call.fail(ErrorCode::Conflict, "7 bytes are there");
    })
    .await;
    let both = "upload-offset: 0\r\nupload-length: 500\r\n";
    assert_eq!(upload(&gate, &path(), both, "x").await, 409, "Resadmin decides");
    for fields in [
        "",
        "upload-offset: 0\r\n",
        "upload-length: 500\r\n",
        "upload-offset: -1\r\nupload-length: 500\r\n",
        "upload-offset: +1\r\nupload-length: 500\r\n",
        "upload-offset: 0\r\nupload-offset: 0\r\nupload-length: 500\r\n",
        "upload-offset: 99999999999999999999\r\nupload-length: 500\r\n",
    ] {
        assert_eq!(upload(&gate, &path(), fields, "x").await, 400, "{fields:?}");
    }
    let long = "x".repeat(11);
    assert_eq!(upload(&gate, &path(), both, &long).await, 413);
    for name in ["x", &IMAGE.to_string().to_uppercase(), &"0".repeat(63), "..%2f"] {
        let path = format!("/api/v1/projects/a/images/{name}");
        assert_eq!(upload(&gate, &path, both, "x").await, 400, "{name}");
    }
}
