//! CommServer: the network edge of projects, inwards and outwards. HTTP today.
//!
//! A request's first path segment names the project, the rest is matched against the project's
//! routes; the matching Doee's call goes through the Kernel and its answer comes back as the
//! response. CommServer authenticates, opens the root process and vouches for project and principal.
//!
//! Invariants: a request that no route wants costs no message; a client that leaves cancels its
//! call; without a Kernel every call is answered 503 at once; a Doee never sees platform credentials
//! (the token of an `auth = token` route, `isms*` cookies) and never sets fields of the connection.
//! Deliberately absent: TLS for clients, HTTP/2, a cache of responses. The way out is `egress`.

mod call;
mod config;
mod egress;
mod error;
mod invocation;
mod keeper;
mod path;
mod process;
mod response;
mod router;
mod table;

use std::{net::TcpListener, sync::Arc};

use isms_ipc::{Link, LinkOptions};
use tokio::sync::watch;

pub use config::Config;
pub use egress::{AddressRule, AddressRuleError, EgressConfig, Resolver};
pub use error::RunError;

use crate::{
    call::Edge,
    egress::{Egress, FETCHES_MAX},
    table::RouteTable,
};

/// Requests of other services that CommServer takes at the same time: those to servers outside, of which
/// what is too many is refused at once, so that new routes always find room.
pub const CONCURRENCY: u32 = FETCHES_MAX as u32 + 4;

/// Serves HTTP until `shutdown` turns true, then drains and returns.
pub async fn run(
    config: Config,
    listener: TcpListener,
    link: LinkOptions,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    run_with_resolver(config, listener, link, shutdown, egress::system_resolver()).await
}

/// As [`run`], with another knowledge of names than the system's.
pub async fn run_with_resolver(
    config: Config,
    listener: TcpListener,
    link: LinkOptions,
    shutdown: watch::Receiver<bool>,
    resolver: Resolver,
) -> Result<(), RunError> {
    let Config { http, egress } = config;
    let (link, inbox) = Link::open(link);
    let table = Arc::new(RouteTable::default());
    let egress = Egress::new(egress, link.clone(), resolver).map_err(|source| RunError::Egress { source })?;
    let keeper = tokio::spawn(keeper::keep(inbox, link.clone(), table.clone(), Arc::new(egress)));
    let edge = Arc::new(Edge::new(link.clone(), table));
    let handler = move |request| call::handle(edge.clone(), request);
    let served = isms_http::serve(listener, http, handler, shutdown).await;
    // The inbox ends with the link, and the keeper with the inbox.
    link.close().await;
    keeper.await.map_err(|source| RunError::Keeper { source })?;
    served.map_err(|source| RunError::Serve { source })
}
