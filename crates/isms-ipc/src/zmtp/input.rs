//! The bytes received and not yet consumed: one buffer, reused, bounded.

use isms_protocol::limits::MESSAGE_LEN_MAX;

/// Bytes that one connection may have in its input buffer: a message of the largest size with its
/// framing, and as much again so that reading need not stop at its end.
pub const INPUT_LEN_MAX: usize = 2 * MESSAGE_LEN_MAX;

const INPUT_LEN_FIRST: usize = 8 * 1024;

/// Bytes live in `buffer[start..end]`. The buffer doubles when a read has filled it, so its size
/// follows what was received, never what was announced.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    filled: bool,
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Room for more: empty only when [`INPUT_LEN_MAX`] bytes wait.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && (self.start == self.end || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.filled || self.buffer.is_empty() {
            self.filled = false;
            let len = (self.buffer.len() * 2).clamp(INPUT_LEN_FIRST, INPUT_LEN_MAX);
            self.buffer.resize(len, 0);
        }
        &mut self.buffer[self.end..]
    }

    pub(super) fn received(&mut self, len: usize) {
        assert!(
            len <= self.buffer.len() - self.end,
            "the driver wrote beyond the space it was given"
        );
        self.end += len;
        self.filled = self.end == self.buffer.len();
    }

    pub(super) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start, "only received bytes are consumed");
        self.start += len;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
