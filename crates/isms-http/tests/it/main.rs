//! Tests of the shared HTTP server over real sockets.
// Helpers of tests are not inside a test function, where clippy would allow it by itself.
#![allow(clippy::unwrap_used)]

mod docs;
mod drain;
mod limits;
mod malformed;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use http::{Request, Response};
use isms_http::{Body, HttpLimits, Incoming, Problem, ServeError, Upload, serve, test_support::Client};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Duration, Instant},
};

/// A running server.
struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Serves with a handler.
    fn start<H, F>(limits: HttpLimits, handler: H) -> Server
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        Server {
            address,
            stop,
            task: tokio::spawn(serve(listener, limits, handler, stopped)),
        }
    }

    /// Serves what it received: method, path and the length of the body (at most 1000 bytes).
    fn echo(limits: HttpLimits) -> Server {
        Server::start(limits, |request| async move {
            let line = format!("{} {} ", request.method(), request.uri().path());
            let deadline = Instant::now() + Duration::from_secs(10);
            let upload = Upload {
                body: request.into_body(),
                len_max: 1000,
                deadline,
            };
            match upload.whole().await {
                Ok(body) => Response::new(Body::full(format!("{line}{}", body.len()))),
                Err(problem) => problem.into_response(),
            }
        })
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// Tells when it is dropped.
struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn not_found() -> Response<Body> {
    Problem::new(isms_protocol::ErrorCode::NotFound, "nothing is here").into_response()
}
