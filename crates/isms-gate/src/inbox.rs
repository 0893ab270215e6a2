//! What the Kernel brings: log lines of Doees, and what there is to know of traced calls.

use std::sync::Arc;

use isms_ipc::{Inbound, Inbox};
use isms_protocol::{
    ErrorCode, Kind, Message, Service, WireError,
    gate::{LogRecords, Operation, Runs, Spans},
};

use crate::{log_store::LogStore, trace_store::TraceStore};

/// Runs until the link is closed.
pub(crate) async fn read(mut inbox: Inbox, logs: Arc<LogStore>, traces: Arc<TraceStore>) {
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
            Inbound::Other(message) => take(&message, &logs, &traces),
        }
    }
}

/// Takes in an event, of whom it may come from. The Kernel vouches for the sender.
fn take(message: &Message, logs: &LogStore, traces: &TraceStore) {
    let (kind, sender) = (message.header.kind, message.header.sender);
    let operation = Operation::from_u16(message.header.operation).filter(|_| kind == Kind::Event);
    let taken = match (operation, sender) {
        (Some(Operation::Log), _) => message
            .decode_body::<LogRecords>()
            .map(|records| logs.append(records.records)),
        (Some(Operation::Spans), Service::Kernel) => {
            message.decode_body::<Spans>().map(|spans| traces.spans(spans))
        }
        (Some(Operation::Runs), Service::Doer) => {
            message.decode_body::<Runs>().map(|runs| traces.runs(runs.runs))
        }
        _ => return tracing::debug!(?kind, %sender, "ignored a message"),
    };
    if let Err(error) = taken {
        tracing::warn!(%sender, ?operation, %error, "ignored a malformed event");
    }
}
