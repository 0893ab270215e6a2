//! The two ends of a stream: credit given for what comes, credit needed for what goes.

use bytes::{Bytes, BytesMut};
use isms_protocol::limits::{CHUNK_LEN_MAX, STREAM_WINDOW};

/// The peer broke the rules of a stream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum StreamViolation {
    /// More than it had credit for.
    #[error("a stream's chunk of {len} bytes exceeds the credit of {credit} bytes")]
    OverCredit { len: usize, credit: u32 },
    /// Goes on after its end.
    #[error("a stream goes on after its end")]
    AfterEnd,
}

/// Credit that the peer holds for a stream towards this process.
#[derive(Debug, Default)]
pub(crate) struct Window {
    granted: u32,
}

impl Window {
    /// Takes note of a chunk that has come.
    pub(crate) fn spend(&mut self, len: usize) -> Result<(), StreamViolation> {
        let left = u32::try_from(len)
            .ok()
            .and_then(|len| self.granted.checked_sub(len));
        self.granted = left.ok_or(StreamViolation::OverCredit {
            len,
            credit: self.granted,
        })?;
        Ok(())
    }

    /// Credit to give now, when `held` bytes wait to be consumed: half a window or more, or none.
    pub(crate) fn refill(&mut self, held: usize) -> Option<u32> {
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let open = self.granted.saturating_add(held);
        let bytes = STREAM_WINDOW.saturating_sub(open);
        if bytes < STREAM_WINDOW / 2 {
            return None;
        }
        self.granted += bytes;
        Some(bytes)
    }
}

/// Collects a stream whole, up to a limit.
#[derive(Debug)]
pub(crate) struct Collector {
    window: Window,
    bytes: BytesMut,
    len_max: usize,
    overflown: bool,
}

impl Collector {
    pub(crate) fn new(len_max: usize) -> Collector {
        Collector {
            window: Window::default(),
            bytes: BytesMut::new(),
            len_max,
            overflown: false,
        }
    }

    /// Takes a chunk. What exceeds the limit is dropped, and the stream with it.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), StreamViolation> {
        self.window.spend(chunk.len())?;
        if self.overflown || self.bytes.len() + chunk.len() > self.len_max {
            self.overflown = true;
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(chunk);
        }
        Ok(())
    }

    /// Credit to give now: what is collected counts as consumed.
    pub(crate) fn refill(&mut self) -> Option<u32> {
        self.window.refill(0)
    }

    /// The stream's bytes; `None` when they exceed the limit.
    pub(crate) fn finish(self) -> Option<Bytes> {
        (!self.overflown).then(|| self.bytes.freeze())
    }
}

/// A stream from this process: waits for credit, sends in chunks.
#[derive(Debug, Default)]
pub(crate) struct Outflow {
    pending: BytesMut,
    credit: u64,
}

impl Outflow {
    /// A stream that begins with these bytes.
    pub(crate) fn new(pending: BytesMut) -> Outflow {
        Outflow { pending, credit: 0 }
    }

    /// Takes note of credit from the peer.
    pub(crate) fn allow(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes.into());
    }

    /// Appends what still fits one chunk; returns how many bytes were taken.
    pub(crate) fn fill(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(CHUNK_LEN_MAX.saturating_sub(self.pending.len()));
        self.pending.extend_from_slice(&data[..taken]);
        taken
    }

    /// True when nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next chunk that credit allows.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let credit = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let len = self.pending.len().min(CHUNK_LEN_MAX).min(credit);
        if len == 0 {
            return None;
        }
        self.credit -= len as u64;
        Some(self.pending.split_to(len).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_refilled_by_half_and_overdrawing_it_is_a_violation() {
        let mut window = Window::default();
        assert_eq!(window.refill(0), Some(STREAM_WINDOW));
        assert_eq!(window.spend(CHUNK_LEN_MAX), Ok(()));
        assert_eq!(window.refill(0), None);
        for _ in 1..STREAM_WINDOW as usize / CHUNK_LEN_MAX {
            assert_eq!(window.spend(CHUNK_LEN_MAX), Ok(()));
        }
        assert_eq!(
            window.spend(1),
            Err(StreamViolation::OverCredit { len: 1, credit: 0 })
        );
        assert_eq!(window.refill(STREAM_WINDOW as usize), None);
        assert_eq!(window.refill(STREAM_WINDOW as usize / 2), Some(STREAM_WINDOW / 2));
    }

    #[test]
    fn a_collector_forgets_a_stream_that_grows_over_its_limit() {
        let mut collector = Collector::new(5);
        assert!(collector.refill().is_some());
        assert_eq!(collector.push(b"12345"), Ok(()));
        assert_eq!(collector.push(b"6"), Ok(()));
        assert_eq!(collector.finish(), None);
    }

    #[test]
    fn an_outflow_sends_no_more_than_its_credit_and_no_more_than_a_chunk() {
        let mut outflow = Outflow::new(BytesMut::from(&vec![7; CHUNK_LEN_MAX + 10][..]));
        assert_eq!(outflow.next(), None);
        outflow.allow(4);
        assert_eq!(outflow.next().map(|chunk| chunk.len()), Some(4));
        outflow.allow(u32::MAX);
        assert_eq!(outflow.next().map(|chunk| chunk.len()), Some(CHUNK_LEN_MAX));
        assert_eq!(outflow.next().map(|chunk| chunk.len()), Some(6));
        assert!(outflow.is_empty());
    }
}
