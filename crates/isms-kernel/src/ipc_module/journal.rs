//! Opens the journal of durable calls and runs its writer.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt};

use isms_journal::{Directory, Event, Options, WriterThread};
use isms_protocol::ProcessId;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::RunError;
use crate::{Config, Recovery};

/// Bytes of a segment file.
const SEGMENT_LEN: u32 = 8 << 20;
/// Events that may wait for the Kernel; then the writer does.
const EVENTS_WAITING_MAX: usize = 1024;

/// A journal that was read and is written.
pub(super) struct KeptJournal {
    pub(super) recovery: Recovery,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) writer: WriterThread,
}

/// Reads the journal, or makes one, where the settings want one.
pub(super) fn keep_journal(config: &Config) -> Result<Option<KeptJournal>, RunError> {
    let Some(path) = &config.journal else {
        return Ok(None);
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(RunError::MakeJournal(error));
        }
        _ => {}
    }
    let directory = Directory::open(path)?;
    let new_log_id = u128::from_le_bytes(ProcessId::generate().to_bytes());
    let options = Options {
        segment_len: SEGMENT_LEN,
        segments_max: (u64::from(config.journal_mb_max) << 20).div_euclid(SEGMENT_LEN.into()) as u32,
        ..Options::new(new_log_id)
    };
    let (recovery, writer) = Recovery::open(directory, &options)?;
    let report = &recovery.report;
    info!(
        records = report.records,
        segments = report.segments,
        calls = recovery.len(),
        "read the journal of durable calls"
    );
    if let Some(torn) = &report.torn {
        warn!(file = %torn.file, offset = torn.offset, len = torn.len, "cut what was on its way into the journal and not acknowledged");
    }
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    // Nobody listens any more when the Kernel has ended.
    let sink = move |event| drop(sender.blocking_send(event));
    let writer = writer.spawn(sink).map_err(RunError::MakeJournal)?;
    Ok(Some(KeptJournal {
        recovery,
        events,
        writer,
    }))
}
