//! One request and its answer over one connection, which is used for nothing else.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use isms_http::{Body, is_hop_by_hop};
use isms_ipc::StreamReceiver;
use isms_protocol::{
    commserver::FetchReply,
    limits::{FETCH_BODY_LEN_MAX, FETCH_HEAD_LEN_MAX, FETCH_HEADERS_MAX},
};
use serde_bytes::ByteBuf;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    dial::Stream,
    error::{BODY_LIMIT, FetchError, HEAD_LIMIT, Stage},
    request::Outgoing,
    target::Target,
};

/// Bytes of an answer that are read ahead; a head that is longer is refused.
const READ_AHEAD_MAX: usize = 32 * 1024;
/// Time from a request without a stream to the head of its answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Who asks, unless the Doee says otherwise.
const USER_AGENT: &str = concat!("isms/", env!("CARGO_PKG_VERSION"));

/// What a request carries.
pub(crate) enum Payload {
    /// All of it.
    Whole(Bytes),
    /// As it comes from the Doee.
    Stream(StreamReceiver),
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// Open for as long as the answer lives.
    _connection: Connection,
}

/// The task that moves a connection's bytes; dropped, the connection is closed.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request and waits for the head of its answer.
pub(crate) async fn exchange(
    stream: Box<dyn Stream>,
    outgoing: &Outgoing,
    payload: Payload,
    until: Instant,
) -> Result<Answer, FetchError> {
    let server = &outgoing.target.server;
    let failed = |source| FetchError::Exchange {
        server: server.clone(),
        source,
    };
    let head_until = match &payload {
        Payload::Whole(_) => until.min(Instant::now() + HEAD_TIMEOUT),
        Payload::Stream(_) => until,
    };
    let request = request(outgoing, payload)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(FETCH_HEADERS_MAX)
        .max_buf_size(READ_AHEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = Connection(tokio::spawn(async move {
        // Whoever waits for the answer hears of it.
        let _ = connection.await;
    }));
    let response = match timeout_at(head_until, sender.send_request(request)).await {
        Ok(answered) => answered.map_err(failed)?,
        Err(_) => {
            return Err(FetchError::TimedOut {
                server: server.clone(),
                stage: Stage::Answer,
            });
        }
    };
    if response.status().as_u16() < 200 {
        return Err(FetchError::Status {
            server: server.clone(),
            status: response.status().as_u16(),
        });
    }
    Ok(Answer {
        response,
        _connection: connection,
    })
}

fn request(outgoing: &Outgoing, payload: Payload) -> Result<Request<Body>, FetchError> {
    let unusable = |_: http::Error| FetchError::Url {
        why: "its path cannot be sent",
    };
    let uri = Uri::builder()
        .path_and_query(outgoing.target.path_and_query())
        .build()
        .map_err(unusable)?;
    let len = outgoing.body_len;
    let body = match payload {
        Payload::Whole(bytes) => Body::full(bytes),
        // Another number of bytes than announced breaks the request off.
        Payload::Stream(stream) => Body::unfold(stream, Some(len), |mut stream| async {
            stream.next().await.map(|piece| (piece, stream))
        }),
    };
    let mut request = Request::builder()
        .method(outgoing.method.clone())
        .uri(uri)
        .version(Version::HTTP_11)
        .header(header::HOST, outgoing.target.authority())
        .header(header::CONNECTION, "close")
        .body(body)
        .map_err(unusable)?;
    let headers = request.headers_mut();
    if !outgoing.headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
    }
    for (name, value) in &outgoing.headers {
        headers.append(name, value.clone());
    }
    Ok(request)
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The head as the Doee sees it.
    pub(crate) fn head(&self, target: &Target) -> Result<FetchReply, FetchError> {
        let too_large = |limit| FetchError::AnswerTooLarge {
            server: target.server.clone(),
            limit,
        };
        let body_len = hyper::body::Body::size_hint(self.response.body()).exact();
        if body_len.is_some_and(|len| len > FETCH_BODY_LEN_MAX) {
            return Err(too_large(BODY_LIMIT));
        }
        let nominated = self.nominated_by_connection();
        let mut len = target.as_str().len();
        let mut headers = Vec::new();
        for (name, value) in self.response.headers() {
            if is_hop_by_hop(name) || nominated.contains(name) {
                continue;
            }
            len += name.as_str().len() + value.len();
            headers.push((name.as_str().to_owned(), ByteBuf::from(value.as_bytes())));
        }
        if len > FETCH_HEAD_LEN_MAX {
            return Err(too_large(HEAD_LIMIT));
        }
        Ok(FetchReply {
            status: self.response.status().as_u16(),
            headers,
            body_len,
            url: target.as_str().to_owned(),
        })
    }

    /// The next piece of the body; `None` after the last.
    pub(crate) async fn piece(
        &mut self,
        target: &Target,
        until: Instant,
    ) -> Option<Result<Bytes, FetchError>> {
        let server = || target.server.clone();
        loop {
            let frame = match timeout_at(until, self.response.body_mut().frame()).await {
                Ok(frame) => frame?,
                Err(_) => {
                    return Some(Err(FetchError::TimedOut {
                        server: server(),
                        stage: Stage::Answer,
                    }));
                }
            };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) if data.is_empty() => {}
                Ok(Ok(data)) => return Some(Ok(data)),
                // Trailers, which no Doee gets to see.
                Ok(Err(_)) => {}
                Err(source) => {
                    return Some(Err(FetchError::Exchange {
                        server: server(),
                        source,
                    }));
                }
            }
        }
    }

    fn nominated_by_connection(&self) -> Vec<HeaderName> {
        let values = self.response.headers().get_all(header::CONNECTION).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).map(str::trim);
        names
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect()
    }
}
