//! The accept loop of an edge: connection limit, drain, and what every request must satisfy.

use std::net::Shutdown;

use http::{Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Body, HttpLimits, Problem, ServeError,
    connection::serve_connection,
    limits::{ACCEPT_PAUSE, TARGET_LEN_MAX},
};

/// What a connection over the limit hears.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";

/// Serves HTTP/1.1 on an inherited listener until `shutdown` turns true, then drains: idle
/// connections close at once, running requests may end within the drain timeout.
///
/// The handler's future is dropped when its client leaves.
pub async fn serve<H, F>(
    listener: std::net::TcpListener,
    limits: HttpLimits,
    handler: H,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|source| ServeError::Listener { source })?;
    let mut connections = JoinSet::new();
    let stop = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= limits.connections_max => refuse(stream),
                Ok((stream, _)) => {
                    // Without it, small responses wait for the client's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve_connection(stream, limits, handler.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "http accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drain(connections, &limits).await;
    Ok(())
}

/// Resolves when the server should stop, which is also when nobody can tell it so any more.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|&stop| stop).await;
}

/// What every request must satisfy before an edge sees it (RFC 9112 §3.2: one `Host`, in 1.1).
pub(crate) fn check_head<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let hosts = (hosts.next(), hosts.next());
    if hosts.1.is_some() || (hosts.0.is_none() && request.version() == Version::HTTP_11) {
        return Err(Problem::http(
            StatusCode::BAD_REQUEST,
            "a request has exactly one host field",
        ));
    }
    let target_len = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target_len > TARGET_LEN_MAX {
        let detail =
            format!("the request target is {target_len} bytes long; at most {TARGET_LEN_MAX} are accepted");
        return Err(Problem::http(StatusCode::URI_TOO_LONG, detail));
    }
    Ok(())
}

/// Tells a connection over the limit to come back; never waits for it.
fn refuse(stream: TcpStream) {
    // Unread bytes would turn the close into a reset, which may overtake the response.
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(REFUSAL);
    if let Ok(stream) = stream.into_std() {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

async fn drain(mut connections: JoinSet<()>, limits: &HttpLimits) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(limits.drain_timeout(), all_ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "http drain timed out");
    }
    connections.shutdown().await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended.map_err(|error| error.to_string()) {
        tracing::error!(error, "http connection task failed");
    }
}
