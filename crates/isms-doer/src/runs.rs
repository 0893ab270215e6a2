//! How traced calls were run, on its way to Control Gate: noted of a call only if the Kernel traces it, sent in batches.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use isms_ipc::Link;
use isms_protocol::{
    Flags, Header, Kind, Message, Service,
    gate::{self, Run, Runs, Start},
    limits::SPANS_MAX,
};

/// What is noted of one traced call.
pub(crate) struct Noted {
    /// When it was sent to the worker that has it now, and what that one was for it.
    sent: Cell<Option<(Instant, Start)>>,
    /// When that worker had ended it, and how long it ran, as the worker says.
    ended: Cell<Option<(Instant, Duration)>>,
}

impl Noted {
    /// For a call that has just come, if it is traced.
    pub(crate) fn of(header: &Header) -> Option<Noted> {
        header.flags.contains(Flags::TRACED).then(|| Noted {
            sent: Cell::new(None),
            ended: Cell::new(None),
        })
    }

    pub(crate) fn note_sent(&self, start: Start) {
        self.sent.set(Some((Instant::now(), start)));
        self.ended.set(None);
    }

    pub(crate) fn note_ended(&self, run_time: Duration) {
        self.ended.set(Some((Instant::now(), run_time)));
    }

    /// What there is to tell now that the call is over; nothing of one that no worker was sent. A worker that has
    /// died over a call has told no time, so all of it since then counts; one that lies has none before it.
    pub(crate) fn run(&self, header: &Header) -> Option<Run> {
        let (sent, start) = self.sent.get()?;
        let now = Instant::now();
        let (ended, ran) = self.ended.get().unwrap_or((now, Duration::MAX));
        let ran = ran.min(ended.saturating_duration_since(sent));
        let ago = now.saturating_duration_since(ended) + ran;
        Some(Run {
            process: header.process,
            attempt: header.attempt,
            trace: header.trace.trace,
            project: header.project,
            doee: header.target_doee,
            begun_at_us: unix_us().saturating_sub(micros(ago)),
            ran_us: micros(ran),
            start,
        })
    }
}

/// Runs that wait to be sent together.
#[derive(Debug, Default)]
pub(crate) struct RunBatch {
    runs: Vec<Run>,
}

impl RunBatch {
    /// Adds one; sends what has gathered when it fills a message.
    pub(crate) fn push(&mut self, link: &Link, run: Run) {
        self.runs.push(run);
        if self.runs.len() >= SPANS_MAX {
            self.flush(link);
        }
    }

    /// Sends what has gathered, which may be dropped: the Kernel counts what it drops.
    pub(crate) fn flush(&mut self, link: &Link) {
        if self.runs.is_empty() {
            return;
        }
        let runs = Runs {
            runs: std::mem::take(&mut self.runs),
        };
        let mut header = Header::new(Kind::Event, Service::Doer, Service::Gate);
        header.operation = gate::Operation::Runs as u16;
        if link.send(Message::with_body(header, &runs)).is_err() {
            tracing::debug!(
                runs = runs.runs.len(),
                "runs were dropped, the kernel is not there"
            );
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

#[cfg(test)]
mod tests {
    use isms_protocol::ProcessId;

    use super::*;

    fn traced() -> Header {
        Header {
            flags: Flags::TRACED,
            process: ProcessId::generate(),
            attempt: 2,
            ..Header::new(Kind::Request, Service::Kernel, Service::Doer)
        }
    }

    #[test]
    fn of_a_call_that_is_not_traced_nothing_is_noted() {
        let header = Header {
            flags: Flags::NONE,
            ..traced()
        };
        assert!(Noted::of(&header).is_none());
    }

    #[test]
    fn a_call_that_no_worker_was_sent_has_not_run() {
        let header = traced();
        assert_eq!(Noted::of(&header).and_then(|noted| noted.run(&header)), None);
    }

    #[test]
    fn a_worker_that_lies_about_its_time_ran_no_longer_than_it_had_the_call() {
        let header = traced();
        let noted = Noted::of(&header).expect("it is traced");
        let before = unix_us();
        noted.note_sent(Start::Pooled);
        noted.note_ended(Duration::from_secs(3600));
        let run = noted.run(&header).expect("it ran");
        assert_eq!(
            (run.process, run.attempt, run.start),
            (header.process, 2, Start::Pooled)
        );
        assert!(run.ran_us < 3_600_000_000, "{run:?}");
        // Two clocks are read, each in whole microseconds.
        assert!(run.begun_at_us + 2 >= before, "{run:?}");
    }

    #[test]
    fn a_call_that_is_sent_again_begins_anew() {
        let header = traced();
        let noted = Noted::of(&header).expect("it is traced");
        noted.note_sent(Start::Cold);
        noted.note_ended(Duration::ZERO);
        noted.note_sent(Start::Warm);
        let run = noted.run(&header).expect("it ran");
        assert_eq!(run.start, Start::Warm);
    }
}
