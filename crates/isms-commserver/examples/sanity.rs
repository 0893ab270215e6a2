#![allow(missing_docs, clippy::unwrap_used)]
use std::{net::TcpListener, convert::Infallible};
use isms_commserver::*; use isms_http::{*, test_support::*}; use isms_protocol::{*, commserver::*, resadmin::*, doer::InvocationReply};
use tokio::sync::watch;
fn rt() -> tokio::runtime::Runtime { tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap() }
fn listener(port: u16) -> TcpListener { TcpListener::bind(("127.0.0.1", port)).unwrap() }
fn main() {
    let mode = std::env::args().nth(1).unwrap();
    let (_stop, stopped) = watch::channel(false);
    match &*mode {
        "hyper" => rt().block_on(async {
            let l = listener(18081); l.set_nonblocking(true).unwrap(); let l = tokio::net::TcpListener::from_std(l).unwrap();
            loop { let (s, _) = l.accept().await.unwrap(); s.set_nodelay(true).unwrap();
                tokio::spawn(async move { let _ = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(s), hyper::service::service_fn(|_r| async { Ok::<_, Infallible>(http::Response::new(Body::full("hello"))) })).await; }); }
        }),
        "http" => rt().block_on(async { serve(listener(18082), HttpLimits::default(), |_r| async { http::Response::new(Body::full("hello")) }, stopped).await.unwrap() }),
        _ => {
            let (tx, rx) = std::sync::mpsc::channel();
            std::thread::spawn(move || rt().block_on(async move {
                let k = FakeKernel::start(Service::Commserver, |call| async move {
                    let h = &call.message.header;
                    if h.target == Service::Doer { call.reply(&InvocationReply { status: 200, headers: vec![("content-type".into(), "text/plain".into())], payload_len: Some(5) }, "hello"); return; }
                    let p = ProjectId::from_bytes([1; 16]);
                    match h.operation { 2 => call.reply(&Projects { projects: vec![ProjectSummary { id: p, name: "p".into(), revision: 1 }] }, ""),
                        _ => call.reply(&(), encode(&ProjectRoutes { project: p, name: "p".into(), revision: 1, routes: vec![HttpRoute { method: "GET".into(), path: "/machines/{id}".into(), auth: Auth::None, doee: "d".into(), version: DoeeVersion::from_bytes([2;16]), class: Class::Normal, deadline_ms: 1000, body_len_max: 1000 }] })) }
                });
                tx.send(k.link_options(4)).unwrap(); std::future::pending::<()>().await
            }));
            let link = rx.recv().unwrap();
            rt().block_on(async { run(Config::default(), listener(18083), link, stopped).await.unwrap() })
        }
    }
}
