//! What a caller gets.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use isms_protocol::{Message, WireError};
use tokio::sync::oneshot;

use super::{
    session::{AnswerResult, Session},
    stream::{self, StreamReceiver},
};

/// A reply.
#[derive(Debug)]
pub struct Answer {
    /// The reply itself.
    pub message: Message,
    /// The stream that follows it. Dropped before its end, the call is cancelled.
    pub stream: Option<StreamReceiver>,
}

impl Answer {
    /// The reply's payload, raw or the whole of its stream; `TooLarge` when it is over `len_max`.
    pub async fn payload(mut self, len_max: usize) -> Result<Bytes, WireError> {
        stream::payload(&mut self.message, &mut self.stream, len_max).await
    }
}

/// A call that has not been answered yet. Dropping it cancels the call.
#[derive(Debug)]
pub struct PendingAnswer {
    state: State,
}

#[derive(Debug)]
enum State {
    Sent {
        session: Arc<Session>,
        call: u64,
        answer: oneshot::Receiver<AnswerResult>,
    },
    Failed(WireError),
    Answered,
}

impl PendingAnswer {
    pub(super) fn new(
        session: Arc<Session>,
        call: u64,
        answer: oneshot::Receiver<AnswerResult>,
    ) -> PendingAnswer {
        PendingAnswer {
            state: State::Sent {
                session,
                call,
                answer,
            },
        }
    }

    /// The id that the call has on its connection; `None` when it could not be sent, or has been answered.
    pub fn call_id(&self) -> Option<u64> {
        match &self.state {
            State::Sent { call, .. } => Some(*call),
            State::Failed(_) | State::Answered => None,
        }
    }

    /// Asks the callee to give the call up; its answer is still waited for.
    pub fn cancel(&self) {
        if let State::Sent { session, call, .. } = &self.state {
            session.ask_cancel(*call);
        }
    }

    /// A call that was never sent.
    pub(super) fn failed(error: WireError) -> PendingAnswer {
        PendingAnswer {
            state: State::Failed(error),
        }
    }
}

impl Future for PendingAnswer {
    type Output = Result<Answer, WireError>;

    /// # Panics
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<AnswerResult> {
        let result = match &mut self.state {
            State::Sent { answer, .. } => match Pin::new(answer).poll(context) {
                // The session answers every call before it forgets it.
                Poll::Ready(result) => result.unwrap_or_else(|_| Err(Session::unavailable())),
                Poll::Pending => return Poll::Pending,
            },
            State::Failed(error) => Err(error.clone()),
            State::Answered => unreachable!("a future is not polled after it was ready"),
        };
        self.state = State::Answered;
        Poll::Ready(result)
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        if let State::Sent { session, call, .. } = &self.state {
            session.cancel(*call);
        }
    }
}
