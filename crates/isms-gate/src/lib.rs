//! Control Gate: the management API below `/api/v1`, and a page that says what this is.
//!
//! Gate holds no authority of its own: it authenticates the caller's bearer token, checks its rights
//! and project, and asks the service that owns the resource through the Kernel. Its only state are
//! bounded memories of the Doees' latest log lines and of traces.
//!
//! Invariants: every route but the page and the OpenAPI document needs a right (the route table is
//! the one place that says which); a project's token never learns of another project; the `Host`
//! field must name this listener, so no web page can reach it by DNS rebinding; no cookie is read or
//! set, and no other origin is allowed in. Deliberately absent: sessions, TLS, CORS.

mod api;
mod config;
mod error;
mod host;
mod inbox;
mod log_store;
mod metrics;
mod names;
mod otlp;
mod page;
mod routes;
mod trace_store;
mod trace_view;
mod view;

use std::{net::TcpListener, sync::Arc};

use isms_ipc::{Link, LinkOptions};
use tokio::sync::watch;

pub use config::{Config, TraceLimits};
pub use error::RunError;
pub use otlp::{OtlpConfig, OtlpError};

use crate::{
    api::{Gate, Stores},
    host::HostPolicy,
    inbox::Sinks,
    log_store::LogStore,
    names::NameCache,
    trace_store::TraceStore,
};

/// Requests of other services that Gate takes at the same time; it has no operations but events.
pub const CONCURRENCY: u32 = 1;

/// Serves the management API until `shutdown` turns true, then drains and returns.
pub async fn run(
    config: Config,
    listener: TcpListener,
    link: LinkOptions,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let address = listener
        .local_addr()
        .map_err(|source| RunError::Address { source })?;
    let hosts = HostPolicy::new(address, &config.hosts);
    let (link, inbox) = Link::open(link);
    let logs = Arc::new(LogStore::new(config.logs));
    let traces = Arc::new(TraceStore::new(config.traces));
    let names = Arc::new(NameCache::default());
    let (exporter, export) = match &config.otlp {
        Some(otlp) => {
            let started = otlp::start(otlp, link.clone(), names.clone());
            let (exporter, task) = started.map_err(|source| RunError::Otlp { source })?;
            (Some(exporter), Some(task))
        }
        None => (None, None),
    };
    let stores = Stores {
        logs: logs.clone(),
        traces: traces.clone(),
        names,
        exported: exporter.as_ref().map(otlp::Exporter::counts),
    };
    let sinks = Sinks {
        logs,
        traces,
        exporter,
    };
    let reader = tokio::spawn(inbox::read(inbox, sinks));
    let http = config.http;
    let gate = Arc::new(Gate::new(config, link.clone(), stores, hosts, shutdown.clone()));
    let handler = move |request| api::handle(gate.clone(), request);
    let served = isms_http::serve(listener, http, handler, shutdown).await;
    // The inbox ends with the link, its reader with the inbox, and with that one what passes on traces.
    link.close().await;
    reader.await.map_err(|source| RunError::Inbox { source })?;
    if let Some(export) = export {
        export.await.map_err(|source| RunError::Inbox { source })?;
    }
    served.map_err(|source| RunError::Serve { source })
}
