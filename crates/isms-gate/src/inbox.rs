//! What the Kernel brings: log lines of Doees.

use std::sync::Arc;

use isms_ipc::{Inbound, Inbox};
use isms_protocol::{
    ErrorCode, Kind, Message, WireError,
    gate::{LogRecords, Operation},
};

use crate::log_store::LogStore;

/// Runs until the link is closed.
pub(crate) async fn read(mut inbox: Inbox, logs: Arc<LogStore>) {
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
            Inbound::Other(message) => take(&message, &logs),
        }
    }
}

fn take(message: &Message, logs: &LogStore) {
    let operation = Operation::from_u16(message.header.operation);
    if message.header.kind != Kind::Event || operation != Some(Operation::Log) {
        tracing::debug!(kind = ?message.header.kind, "ignored a message");
        return;
    }
    match message.decode_body::<LogRecords>() {
        Ok(records) => logs.append(records.records),
        Err(error) => tracing::warn!(sender = %message.header.sender, %error, "ignored malformed log lines"),
    }
}
