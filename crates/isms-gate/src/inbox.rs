//! What the Kernel brings: log lines of Doees, and what there is to know of traced calls.

use std::sync::Arc;

use isms_ipc::{Inbound, Inbox};
use isms_protocol::{
    ErrorCode, Kind, Message, Service, WireError,
    gate::{LogRecords, Operation, Runs, Spans},
};

use crate::{log_store::LogStore, otlp::Exporter, trace_store::TraceStore};

/// Where it goes.
pub(crate) struct Sinks {
    pub(crate) logs: Arc<LogStore>,
    pub(crate) traces: Arc<TraceStore>,
    pub(crate) exporter: Option<Exporter>,
}

/// Runs until the link is closed.
pub(crate) async fn read(mut inbox: Inbox, sinks: Sinks) {
    while let Some(inbound) = inbox.next().await {
        match inbound {
            Inbound::Registered(generation) => {
                tracing::info!(generation = generation.0, "registered with the kernel");
            }
            Inbound::Lost => tracing::warn!("lost the kernel"),
            Inbound::Request(request) => {
                request
                    .responder
                    .error(WireError::new(ErrorCode::Invalid, "gate takes events only"));
            }
            Inbound::Other(message) => take(&message, &sinks),
        }
    }
}

/// Takes in an event, of whom it may come from. The Kernel vouches for the sender.
fn take(message: &Message, sinks: &Sinks) {
    let (kind, sender) = (message.header.kind, message.header.sender);
    let operation = Operation::from_u16(message.header.operation).filter(|_| kind == Kind::Event);
    let taken = match (operation, sender) {
        (Some(Operation::Log), _) => message
            .decode_body::<LogRecords>()
            .map(|records| sinks.logs.append(records.records)),
        (Some(Operation::Spans), Service::Kernel) => message.decode_body::<Spans>().map(|spans| {
            if let Some(exporter) = &sinks.exporter {
                exporter.offer_spans(&spans.spans);
            }
            sinks.traces.spans(spans);
        }),
        (Some(Operation::Runs), Service::Doer) => message.decode_body::<Runs>().map(|runs| {
            if let Some(exporter) = &sinks.exporter {
                exporter.offer_runs(&runs.runs);
            }
            sinks.traces.runs(runs.runs);
        }),
        _ => return tracing::debug!(?kind, %sender, "ignored a message"),
    };
    if let Err(error) = taken {
        tracing::warn!(%sender, ?operation, %error, "ignored a malformed event");
    }
}
