//! A log in a directory of its own, and what its owner heard.

use std::{
    path::Path,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use isms_journal::{
    Directory, Event, Group, Journal, Lsn, OpenError, Options, Purpose, Refused, Report, WriterThread, open,
};

/// Longer than anything takes, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A log that is written by a thread.
pub(crate) struct Log {
    pub(crate) journal: Journal,
    pub(crate) replayed: Vec<(Lsn, u8, Vec<u8>)>,
    pub(crate) report: Report,
    events: Receiver<Event>,
    thread: WriterThread,
}

/// Small segments, so that few records fill some.
pub(crate) fn options() -> Options {
    Options {
        segment_len: 64 << 10,
        segments_max: 12,
        group_len_max: 8 << 10,
        queue_len_max: 64 << 10,
        ..Options::new(77)
    }
}

impl Log {
    pub(crate) fn open(path: &Path) -> Log {
        Log::try_open(path).unwrap()
    }

    pub(crate) fn try_open(path: &Path) -> Result<Log, OpenError> {
        let directory = Directory::open(path).unwrap();
        let mut replayed = Vec::new();
        let (journal, writer, report) = open(directory, &options(), |record| {
            replayed.push((record.lsn, record.kind, record.payload.to_vec()));
        })?;
        let (sender, events) = channel();
        // The last events may come when the test has heard enough.
        let thread = writer.spawn(move |event| drop(sender.send(event))).unwrap();
        Ok(Log {
            journal,
            replayed,
            report,
            events,
            thread,
        })
    }

    pub(crate) fn append(&mut self, purpose: Purpose, payload: &[u8]) -> Result<Lsn, Refused> {
        self.journal.append(purpose, Group::of(1, payload))
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    /// Waits until all records below a number are durable. Nothing is given up meanwhile.
    pub(crate) fn wait_durable(&mut self, target: Lsn) {
        loop {
            match self.event() {
                Event::Durable { below } if below >= target => return,
                Event::Durable { .. } | Event::Compact { .. } => {}
                Event::Stopped(stop) => panic!("{stop}"),
            }
        }
    }

    pub(crate) fn close(self) {
        drop(self.journal);
        self.thread.join().unwrap();
    }
}

/// A payload that its number decides.
pub(crate) fn payload(lsn: Lsn) -> Vec<u8> {
    let len = 8 + (lsn.0 * 37 % 900) as usize;
    let mut payload = vec![lsn.0 as u8; len];
    payload[..8].copy_from_slice(&lsn.0.to_le_bytes());
    payload
}
