//! The two ends of a stream, as plain state: credit out, credit in.
//!
//! Invariants: what is sent never exceeds what was granted; at a receiver, bytes granted and bytes
//! waiting are at most one window, so a stream holds one window of memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use isms_protocol::{
    ErrorCode, WireError,
    limits::{CHUNK_LEN_MAX, STREAM_LEN_MAX},
};

use super::budget::Budget;

/// A chunk that breaks the rules of its stream; the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlowViolation {
    #[error("chunk of {len} bytes exceeds the credit of {credit}")]
    CreditExceeded { len: usize, credit: u32 },
    #[error("chunk has {len} bytes, allowed are {CHUNK_LEN_MAX}")]
    ChunkTooLong { len: usize },
    #[error("stream is longer than {STREAM_LEN_MAX} bytes")]
    StreamTooLong,
}

/// The sending end.
#[derive(Debug, Default)]
pub(super) struct Outflow {
    state: Mutex<OutflowState>,
}

#[derive(Debug, Default)]
struct OutflowState {
    credit: u64,
    sent: u64,
    failure: Option<WireError>,
    waker: Option<Waker>,
}

impl Outflow {
    /// A stream that has failed before it began.
    pub(super) fn failed(error: WireError) -> Outflow {
        Outflow {
            state: Mutex::new(OutflowState {
                failure: Some(error),
                ..OutflowState::default()
            }),
        }
    }

    pub(super) fn grant(&self, bytes: u32) {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_add(bytes.into());
        wake(state.waker.take(), state);
    }

    /// Ends the stream for its sender; the first reason counts.
    pub(super) fn fail(&self, error: WireError) {
        let mut state = lock(&self.state);
        state.failure.get_or_insert(error);
        wake(state.waker.take(), state);
    }

    /// Waits until there is credit; takes none.
    pub(super) fn poll_credit(&self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let mut state = lock(&self.state);
        match &state.failure {
            Some(error) => Poll::Ready(Err(error.clone())),
            None if state.credit > 0 => Poll::Ready(Ok(())),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until the stream has failed.
    pub(super) fn poll_failure(&self, context: &mut Context<'_>) -> Poll<WireError> {
        let mut state = lock(&self.state);
        match &state.failure {
            Some(error) => Poll::Ready(error.clone()),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Takes credit for the next chunk out of `len` bytes; its length, 0 when there is none.
    pub(super) fn take(&self, len: usize) -> Result<usize, WireError> {
        let mut state = lock(&self.state);
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        let taken = (len.min(CHUNK_LEN_MAX) as u64).min(state.credit);
        if state.sent + taken > STREAM_LEN_MAX {
            return Err(WireError::new(
                ErrorCode::TooLarge,
                "stream is longer than a stream may be",
            ));
        }
        state.credit -= taken;
        state.sent += taken;
        Ok(taken as usize)
    }
}

/// The receiving end.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    state: Mutex<InflowState>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct InflowState {
    chunks: VecDeque<BytesMut>,
    started: bool,
    /// Granted and not used.
    credit: u32,
    /// Received and not taken.
    waiting: u32,
    received: u64,
    discarding: bool,
    end: Option<Result<(), WireError>>,
    /// It ended in order; an error is taken out of `end` by who reads it.
    whole: bool,
    waker: Option<Waker>,
}

/// What a reader gets, and what it must grant the sender for it (0 for nothing).
pub(super) struct Taken {
    pub(super) chunk: Option<Result<Bytes, WireError>>,
    pub(super) grant: u32,
}

impl Inflow {
    /// A stream whose credit comes out of its connection's budget.
    pub(super) fn new(budget: Arc<Budget>) -> Inflow {
        Inflow {
            state: Mutex::default(),
            budget,
        }
    }

    /// Takes in a received chunk; the bytes to grant at once, which a reader that has gone does not.
    pub(super) fn accept(&self, chunk: Bytes) -> Result<u32, FlowViolation> {
        let mut state = lock(&self.state);
        let len = u32::try_from(chunk.len())
            .ok()
            .filter(|len| *len as usize <= CHUNK_LEN_MAX);
        let len = len.ok_or(FlowViolation::ChunkTooLong { len: chunk.len() })?;
        if len > state.credit {
            return Err(FlowViolation::CreditExceeded {
                len: chunk.len(),
                credit: state.credit,
            });
        }
        state.received += u64::from(len);
        if state.received > STREAM_LEN_MAX {
            return Err(FlowViolation::StreamTooLong);
        }
        state.credit -= len;
        self.budget.release(len);
        if state.discarding {
            return Ok(state.take_grant(&self.budget));
        }
        state.waiting += len;
        state.put(chunk);
        wake(state.waker.take(), state);
        Ok(0)
    }

    /// Notes the end; the first one counts.
    pub(super) fn end(&self, end: Result<(), WireError>) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.whole = end.is_ok();
            state.end = Some(end);
        }
        self.budget.release(std::mem::take(&mut state.credit));
        wake(state.waker.take(), state);
    }

    /// Hands out what has come. The first call grants the window: a stream nobody reads costs nothing.
    pub(super) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Taken> {
        let mut state = lock(&self.state);
        if let Some(chunk) = state.chunks.pop_front() {
            state.waiting -= chunk.len() as u32;
            let grant = state.take_grant(&self.budget);
            return Poll::Ready(Taken {
                chunk: Some(Ok(chunk.freeze())),
                grant,
            });
        }
        if let Some(end) = &mut state.end {
            let chunk = std::mem::replace(end, Ok(())).err().map(Err);
            return Poll::Ready(Taken { chunk, grant: 0 });
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The first grant, once.
    pub(super) fn start(&self) -> u32 {
        let mut state = lock(&self.state);
        if state.started || state.end.is_some() {
            return 0;
        }
        state.started = true;
        state.take_grant(&self.budget)
    }

    /// Throws away what has come and what will; the bytes to grant at once.
    pub(super) fn discard(&self) -> u32 {
        let first = self.start();
        let mut state = lock(&self.state);
        state.discarding = true;
        state.chunks.clear();
        state.waiting = 0;
        first + state.take_grant(&self.budget)
    }

    pub(super) fn is_discarding(&self) -> bool {
        lock(&self.state).discarding
    }

    pub(super) fn is_whole(&self) -> bool {
        lock(&self.state).whole
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).end.is_some()
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.release(state.credit);
    }
}

impl InflowState {
    /// Joins small chunks, so that a stream of single bytes costs no more than its window.
    fn put(&mut self, chunk: Bytes) {
        match self.chunks.back_mut() {
            Some(last) if last.len() + chunk.len() <= CHUNK_LEN_MAX => last.extend_from_slice(&chunk),
            _ if chunk.is_empty() => {}
            _ => self.chunks.push_back(BytesMut::from(chunk)),
        }
    }

    fn take_grant(&mut self, budget: &Budget) -> u32 {
        if self.end.is_some() {
            return 0;
        }
        let granted = budget.grant(self.credit + self.waiting);
        self.credit += granted;
        granted
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake<T>(waker: Option<Waker>, guard: MutexGuard<'_, T>) {
    drop(guard);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
