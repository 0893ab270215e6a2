//! One request to a collector: a connection of its own, a deadline, an answer of bounded length.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isms_http::Body;
use rustls::{
    ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::config::Collector;

/// From the first byte of a connection to the last one of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_LEN_MAX: usize = 64 * 1024;
const READ_AHEAD_MAX: usize = 32 * 1024;
const USER_AGENT: &str = concat!("isms/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    TooSlow,
    #[error("it cannot be connected to: {0}")]
    Connect(std::io::Error),
    #[error("its name is none that a certificate could have")]
    Name(#[source] InvalidDnsNameError),
    #[error("the exchange broke off: {0}")]
    Exchange(hyper::Error),
    #[error("its answer is too long or broke off")]
    Answer,
}

/// What a collector says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends one body. Redirects are answers like others.
pub(crate) async fn post(
    collector: &Collector,
    tls: &Arc<ClientConfig>,
    body: Bytes,
) -> Result<Answer, PostError> {
    let sent = async {
        let stream = TcpStream::connect((&*collector.host, collector.port)).await;
        let stream = stream.map_err(PostError::Connect)?;
        if !collector.secure {
            return exchange(stream, collector, body).await;
        }
        let name = ServerName::try_from(collector.host.clone()).map_err(PostError::Name)?;
        let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        exchange(secured.map_err(PostError::Connect)?, collector, body).await
    };
    timeout(TIMEOUT, sent).await.unwrap_or(Err(PostError::TooSlow))
}

async fn exchange<S>(stream: S, collector: &Collector, body: Bytes) -> Result<Answer, PostError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(READ_AHEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(PostError::Exchange)?;
    let answered = async {
        let response = sender.send_request(request(collector, body)).await;
        let (parts, body) = response.map_err(PostError::Exchange)?.into_parts();
        let collected = Limited::new(body, ANSWER_LEN_MAX).collect().await;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: collected.map_err(|_| PostError::Answer)?.to_bytes(),
        })
    };
    let moved = async {
        // How it ended shows in the answer.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = answered => answer,
        () = moved => unreachable!("it never ends"),
    }
}

fn request(collector: &Collector, body: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::full(body));
    *request.method_mut() = http::Method::POST;
    // By its parser a path of a URI.
    *request.uri_mut() = collector.path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.extend(collector.headers.iter().cloned());
    let value = |text: &str| http::HeaderValue::from_str(text);
    if let Ok(host) = value(&collector.authority) {
        headers.insert(header::HOST, host);
    }
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert(header::USER_AGENT, http::HeaderValue::from_static(USER_AGENT));
    request
}
