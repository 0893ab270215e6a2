//! The body of a response: whole, or drawn piece by piece from its source.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use isms_protocol::WireError;

/// Why a response's body broke off; hyper then closes the connection, so that the client sees an
/// incomplete response instead of a short one.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The source of the body failed.
    #[error("source of the response failed")]
    Source(#[source] WireError),
    /// The source gave more or fewer bytes than it had announced.
    #[error("source of the response announced {announced} bytes and gave another number")]
    Len {
        /// What it had announced.
        announced: u64,
    },
}

/// The body of a response.
pub struct Body(Inner);

enum Inner {
    Full(Bytes),
    Source(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body(Inner::Full(Bytes::new()))
    }

    /// Bytes that are there already.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        Body(Inner::Full(bytes.into()))
    }

    /// Draws pieces with `next` until it gives `None`. `len` is what the source announces: then the
    /// response has a `Content-Length`, and another number of bytes breaks it off.
    pub fn unfold<S, F, Fut>(state: S, len: Option<u64>, next: F) -> Body
    where
        S: Send + 'static,
        F: FnMut(S) -> Fut + Send + 'static,
        Fut: Future<Output = Option<(Result<Bytes, WireError>, S)>> + Send + 'static,
    {
        let unfold = Unfold {
            state: Some(state),
            pending: None,
            next,
            announced: len,
            given: 0,
        };
        Body(Inner::Source(Box::pin(unfold)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Source(source) => source.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Source(source) => source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Source(source) => source.size_hint(),
        }
    }
}

struct Unfold<S, F, Fut> {
    state: Option<S>,
    pending: Option<Pin<Box<Fut>>>,
    next: F,
    announced: Option<u64>,
    given: u64,
}

// Nothing in it is pinned in place: the future is boxed.
impl<S, F, Fut> Unpin for Unfold<S, F, Fut> {}

impl<S, F, Fut> Unfold<S, F, Fut> {
    /// Counts a piece against the announced length.
    fn count(&mut self, piece: &Bytes) -> Result<(), BodyError> {
        self.given += piece.len() as u64;
        match self.announced {
            Some(announced) if self.given > announced => Err(BodyError::Len { announced }),
            _ => Ok(()),
        }
    }

    fn end(&self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let announced = self.announced.filter(|&announced| announced != self.given)?;
        Some(Err(BodyError::Len { announced }))
    }
}

impl<S, F, Fut> http_body::Body for Unfold<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Option<(Result<Bytes, WireError>, S)>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(state) = this.state.take() {
            this.pending = Some(Box::pin((this.next)(state)));
        }
        let Some(pending) = &mut this.pending else {
            return Poll::Ready(None);
        };
        let Poll::Ready(piece) = pending.as_mut().poll(context) else {
            return Poll::Pending;
        };
        this.pending = None;
        let Some((piece, state)) = piece else {
            return Poll::Ready(this.end());
        };
        let frame = piece.map_err(BodyError::Source).and_then(|piece| {
            this.count(&piece)?;
            Ok(Frame::data(piece))
        });
        if frame.is_ok() {
            this.state = Some(state);
        }
        Poll::Ready(Some(frame))
    }

    fn size_hint(&self) -> SizeHint {
        match self.announced {
            Some(announced) => SizeHint::with_exact(announced.saturating_sub(self.given)),
            None => SizeHint::default(),
        }
    }
}
