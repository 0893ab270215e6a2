//! Yardstick: the smallest axum server, on one current-thread runtime as CommServer is.

use anyhow::Result;
use axum::{Router, routing::get};
use tokio::net::TcpListener;

/// Serves `hello` on a free port, whose address it prints.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new().route("/", get(|| async { "hello" }));
        // As our edges do; without it, small answers can wait for 40 ms.
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router).await?)
    })
}
