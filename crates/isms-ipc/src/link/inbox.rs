//! What reaches a role by its link: bounded, in order, between the link's task and the role's.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use isms_protocol::{ErrorCode, Generation, Kind, Message, WireError};

use super::{
    Handle,
    responder::Responder,
    stream::{self, StreamReceiver},
};

/// Messages that may wait for the role; the Kernel keeps to the role's concurrency long before.
const INBOX_LEN_MAX: usize = 16 * 1024;
/// Bytes of them.
const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a role must see.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are requests, and a box would cost each an allocation"
)]
pub enum Inbound {
    /// The link is registered: calls work, and what the Kernel must know is to be said (again).
    Registered(Generation),
    /// The connection has ended; everything that was under way is over.
    Lost,
    /// A request to answer.
    Request(InboundRequest),
    /// An event, a demand, or another message that nobody answers.
    Other(Message),
}

/// A request and the means to answer it.
#[derive(Debug)]
pub struct InboundRequest {
    /// The request itself.
    pub message: Message,
    /// When its time is up, on this machine's monotonic clock.
    pub deadline: Option<Instant>,
    /// The stream that follows it.
    pub stream: Option<StreamReceiver>,
    /// What it is answered with.
    pub responder: Responder,
}

impl InboundRequest {
    /// Takes the request's payload, raw or the whole of its stream; `TooLarge` over `len_max`.
    pub async fn payload(&mut self, len_max: usize) -> Result<Bytes, WireError> {
        stream::payload(&mut self.message, &mut self.stream, len_max).await
    }
}

/// The role's end of the link. The link lives while this or a [`super::Link`] does.
#[derive(Debug)]
pub struct Inbox {
    pub(super) handle: Arc<Handle>,
}

impl Inbox {
    /// The next thing to look at; `None` when the link has been closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Inbound> {
        poll_fn(|context| self.handle.shared.inbox.poll_next(context)).await
    }

    /// What is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Inbound> {
        self.handle.shared.inbox.pop()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.handle.shared.inbox.close();
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Inbound>,
    bytes: usize,
    dropped: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl Queue {
    /// Adds a message. What does not fit is answered `Busy`, or dropped and counted.
    pub(super) fn push(&self, inbound: Inbound) {
        let mut state = self.lock();
        let len = inbound_len(&inbound);
        let full = state.waiting.len() >= INBOX_LEN_MAX || state.bytes + len > INBOX_BYTES_MAX;
        if full || state.closed {
            state.dropped += 1;
            let dropped = state.dropped;
            drop(state);
            return refuse(inbound, dropped);
        }
        state.bytes += len;
        state.waiting.push_back(inbound);
        wake(state);
    }

    pub(super) fn registered(&self, generation: Generation) {
        let mut state = self.lock();
        if !state.closed {
            state.waiting.push_back(Inbound::Registered(generation));
        }
        wake(state);
    }

    /// Takes back what came by the lost connection, so that a role that is late works on nothing in
    /// vain, and leaves at most one pair of life signs however often the link comes and goes.
    pub(super) fn lost(&self) {
        let mut state = self.lock();
        let stale = mem::take(&mut state.waiting);
        state.bytes = 0;
        let (mut signs, stale): (VecDeque<_>, VecDeque<_>) =
            stale.into_iter().partition(|inbound| inbound_len(inbound) == 0);
        if !state.closed && signs.pop_back_if(is_registered).is_none() {
            signs.push_back(Inbound::Lost);
        }
        state.waiting = signs;
        wake(state);
        drop(stale);
    }

    /// Closes once what waits has been taken.
    pub(super) fn close_after_rest(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let stale = mem::take(&mut state.waiting);
        wake(state);
        drop(stale);
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Inbound>> {
        let mut state = self.lock();
        if let Some(inbound) = state.pop() {
            return Poll::Ready(Some(inbound));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn pop(&self) -> Option<Inbound> {
        self.lock().pop()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pop(&mut self) -> Option<Inbound> {
        let inbound = self.waiting.pop_front()?;
        self.bytes -= inbound_len(&inbound);
        Some(inbound)
    }
}

fn is_registered(inbound: &mut Inbound) -> bool {
    matches!(inbound, Inbound::Registered(_))
}

fn inbound_len(inbound: &Inbound) -> usize {
    match inbound {
        Inbound::Registered(_) | Inbound::Lost => 0,
        Inbound::Request(request) => request.message.len(),
        Inbound::Other(message) => message.len(),
    }
}

fn refuse(inbound: Inbound, dropped: u64) {
    match inbound {
        Inbound::Request(request) => {
            request.responder.error(WireError::new(
                ErrorCode::Busy,
                "the service does not keep up; try again later",
            ));
        }
        Inbound::Other(message) => {
            let kind: Kind = message.header.kind;
            tracing::warn!(
                ?kind,
                dropped,
                "dropped a message that the full inbox had no room for"
            );
        }
        Inbound::Registered(_) | Inbound::Lost => {}
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
