//! CommServer: the network edge of projects. HTTP today.
//!
//! A request's first path segment names the project, the rest is matched against the project's
//! routes; the matching Doee's call goes through the Kernel and its answer comes back as the
//! response. CommServer authenticates, opens the root process and vouches for project and principal.
//!
//! Invariants: a request that no route wants costs no message; a client that leaves cancels its
//! call; without a Kernel every call is answered 503 at once; a Doee never sees platform credentials
//! (the token of an `auth = token` route, `isms*` cookies) and never sets fields of the connection.
//! Deliberately absent: TLS, HTTP/2, a cache of responses.

mod call;
mod config;
mod error;
mod invocation;
mod keeper;
mod path;
mod response;
mod router;
mod table;

use std::{net::TcpListener, sync::Arc};

use isms_ipc::{Link, LinkOptions};
use tokio::sync::watch;

pub use config::Config;
pub use error::RunError;

use crate::{call::Edge, table::RouteTable};

/// Requests of other services that CommServer takes at the same time: new routes only.
pub const CONCURRENCY: u32 = 4;

/// Serves HTTP until `shutdown` turns true, then drains and returns.
pub async fn run(
    config: Config,
    listener: TcpListener,
    link: LinkOptions,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let (link, inbox) = Link::open(link);
    let table = Arc::new(RouteTable::default());
    let keeper = tokio::spawn(keeper::keep(inbox, link.clone(), table.clone()));
    let edge = Arc::new(Edge::new(link.clone(), table));
    let handler = move |request| call::handle(edge.clone(), request);
    let served = isms_http::serve(listener, config.http, handler, shutdown).await;
    // The inbox ends with the link, and the keeper with the inbox.
    link.close().await;
    keeper.await.map_err(|source| RunError::Keeper { source })?;
    served.map_err(|source| RunError::Serve { source })
}
