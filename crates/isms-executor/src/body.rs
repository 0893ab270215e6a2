//! The body of the running call: whole when it came inline, else a stream that is pulled with credit.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::refusal::Refusal;
use crate::stream::{StreamViolation, Window};
use isms_doee_sys as sys;

/// The request's body, as the Doee reads it.
#[derive(Debug)]
pub(crate) struct Body {
    inline: Option<Bytes>,
    unread: VecDeque<Bytes>,
    unread_len: usize,
    window: Window,
    end: End,
    /// What a reader is told when the stream broke off.
    broken: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    Aborted,
}

impl Body {
    /// A body that is here already.
    pub(crate) fn inline(bytes: Bytes) -> Body {
        let unread_len = bytes.len();
        let unread = VecDeque::from([bytes.clone()]);
        Body {
            inline: Some(bytes),
            unread,
            unread_len,
            window: Window::default(),
            end: End::Complete,
            broken: "",
        }
    }

    /// A body that comes as a stream; `broken` is what a reader is told should it break off.
    pub(crate) fn stream(broken: &'static str) -> Body {
        Body {
            inline: None,
            unread: VecDeque::new(),
            unread_len: 0,
            window: Window::default(),
            end: End::Open,
            broken,
        }
    }

    /// The whole body, when it came inline.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        self.inline.as_ref()
    }

    /// True while chunks may come.
    pub(crate) fn is_open(&self) -> bool {
        self.end == End::Open
    }

    /// Takes a chunk of the stream.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), StreamViolation> {
        if !self.is_open() {
            return Err(StreamViolation::AfterEnd);
        }
        self.window.spend(chunk.len())?;
        self.unread_len += chunk.len();
        if !chunk.is_empty() {
            self.unread.push_back(chunk);
        }
        Ok(())
    }

    /// Takes the end of the stream.
    pub(crate) fn finish(&mut self, aborted: bool) -> Result<(), StreamViolation> {
        if !self.is_open() {
            return Err(StreamViolation::AfterEnd);
        }
        self.end = if aborted { End::Aborted } else { End::Complete };
        Ok(())
    }

    /// Credit to give to the sender now.
    pub(crate) fn refill(&mut self) -> Option<u32> {
        if self.is_open() {
            self.window.refill(self.unread_len)
        } else {
            None
        }
    }

    /// Throws away what waits, as when the call has ended.
    pub(crate) fn discard(&mut self) {
        self.unread.clear();
        self.unread_len = 0;
    }

    /// Copies what is here into the buffer: `Some(0)` at the end, `None` when nothing has come yet.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Refusal> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(chunk) = self.unread.front_mut() else {
                break;
            };
            let len = chunk.len().min(buffer.len() - filled);
            buffer[filled..filled + len].copy_from_slice(&chunk[..len]);
            chunk.advance(len);
            filled += len;
            if chunk.is_empty() {
                self.unread.pop_front();
            }
        }
        self.unread_len -= filled;
        match (filled, self.end) {
            (0, End::Open) => Ok(None),
            (0, End::Aborted) => Err(Refusal::new(sys::UNAVAILABLE, self.broken)),
            _ => Ok(Some(filled)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_body_is_read_in_pieces_and_stays_whole() {
        let mut body = Body::inline(Bytes::from_static(b"abcde"));
        let mut buffer = [0; 3];
        assert_eq!(body.read(&mut buffer), Ok(Some(3)));
        assert_eq!(body.read(&mut buffer), Ok(Some(2)));
        assert_eq!(body.read(&mut buffer), Ok(Some(0)));
        assert_eq!(body.whole().map(|bytes| &bytes[..]), Some(&b"abcde"[..]));
    }

    #[test]
    fn a_stream_is_read_across_chunks_and_a_broken_one_says_so() {
        let mut body = Body::stream("it broke off");
        let mut buffer = [0; 4];
        assert_eq!(body.read(&mut buffer), Ok(None));
        assert!(body.refill().is_some());
        assert_eq!(body.push(Bytes::from_static(b"abc")), Ok(()));
        assert_eq!(body.push(Bytes::from_static(b"de")), Ok(()));
        assert_eq!(body.read(&mut buffer), Ok(Some(4)));
        assert_eq!(body.finish(true), Ok(()));
        assert_eq!(body.read(&mut buffer), Ok(Some(1)));
        assert_eq!(
            body.read(&mut buffer).map_err(|refusal| refusal.code),
            Err(sys::UNAVAILABLE)
        );
        assert_eq!(
            body.push(Bytes::from_static(b"f")),
            Err(StreamViolation::AfterEnd)
        );
    }

    #[test]
    fn a_chunk_without_credit_is_a_violation() {
        let mut body = Body::stream("it broke off");
        assert!(matches!(
            body.push(Bytes::from_static(b"a")),
            Err(StreamViolation::OverCredit { .. })
        ));
    }
}
