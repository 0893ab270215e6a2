//! What waits to be written, and the task that writes it.
//!
//! Two lanes: messages, encoded at once; and chunks and ends of streams, kept as messages until
//! their turn. Each write takes the whole first lane and at most [`BULK_PER_WRITE`] of the second,
//! so streams share what the small messages leave.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use isms_protocol::{Kind, Message, limits::CONNECTION_UNSENT_MAX};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::socket::WriteHalf;
use crate::{ConnectionError, SendError, wire};

/// Chunks of streams that one write takes along.
pub(super) const BULK_PER_WRITE: usize = 2;
/// Chunks of streams that may wait in all, of those who wait for their turn.
const BULK_QUEUE_LEN_MAX: usize = 4;
/// Unsent bytes beyond which a PING is not answered: who does not read needs no PONG.
const PONG_UNSENT_MAX: usize = 64 * 1024;
/// How long a peer may take what is left at the end, or send it.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Room that a buffer keeps when it has been written.
const BUFFER_LEN_KEPT: usize = 256 * 1024;

/// What waits to be written, shared by the senders, the receiver and the writing task.
#[derive(Debug)]
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    turns: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: Vec<u8>,
    bulk: VecDeque<(Message, Option<OwnedSemaphorePermit>)>,
    /// Bytes of both lanes, and of what the task is writing.
    unsent_len: usize,
    state: State,
    failure: Option<ConnectionError>,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

impl Queue {
    fn set_writer(&mut self, context: &Context<'_>) {
        match &mut self.writer {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// What is queued is still written.
    Closing,
    /// Nothing is.
    Closed,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing {
            queue: Mutex::default(),
            turns: Arc::new(Semaphore::new(BULK_QUEUE_LEN_MAX)),
        }
    }
}

impl Outgoing {
    pub(super) fn push(
        &self,
        message: &Message,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<(), SendError> {
        let mut queue = self.lock();
        if queue.state != State::Open {
            return Err(SendError::Closed);
        }
        if queue.unsent_len + message.len() > CONNECTION_UNSENT_MAX {
            drop(queue);
            self.fail(ConnectionError::PeerTooSlow);
            return Err(SendError::Full);
        }
        if matches!(message.header.kind, Kind::StreamChunk | Kind::StreamEnd) {
            queue.unsent_len += message.len();
            queue.bulk.push_back((message.clone(), turn));
        } else {
            let before = queue.messages.len();
            wire::put(&mut queue.messages, message);
            queue.unsent_len += queue.messages.len() - before;
        }
        wake(queue.writer.take(), queue);
        Ok(())
    }

    /// Moves answers to PING into the queue.
    pub(super) fn push_pongs(&self, pongs: &mut Vec<u8>) {
        let mut queue = self.lock();
        if queue.unsent_len + pongs.len() <= PONG_UNSENT_MAX {
            queue.unsent_len += pongs.len();
            queue.messages.append(pongs);
        }
        pongs.clear();
        wake(queue.writer.take(), queue);
    }

    /// Waits until a chunk may be queued.
    pub(super) async fn next_turn(&self) -> Result<OwnedSemaphorePermit, SendError> {
        Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| SendError::Closed)
    }

    pub(super) fn unsent_len(&self) -> usize {
        self.lock().unsent_len
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().state != State::Open
    }

    /// Takes nothing more, writes what is queued, wakes the receiver.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        if queue.state == State::Open {
            queue.state = State::Closing;
        }
        self.wake_all(queue);
    }

    /// Ready when the connection has ended on this side, with the reason if it is a failure.
    pub(super) fn poll_end(&self, context: &mut Context<'_>) -> Poll<Option<ConnectionError>> {
        let mut queue = self.lock();
        if queue.state != State::Open {
            return Poll::Ready(queue.failure.take());
        }
        match &mut queue.reader {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn fail(&self, error: ConnectionError) {
        let mut queue = self.lock();
        queue.state = State::Closed;
        queue.failure.get_or_insert(error);
        let dropped = (mem::take(&mut queue.messages), mem::take(&mut queue.bulk));
        self.wake_all(queue);
        drop(dropped);
    }

    fn wake_all(&self, mut queue: MutexGuard<'_, Queue>) {
        let wakers = (queue.writer.take(), queue.reader.take());
        drop(queue);
        self.turns.close();
        for waker in [wakers.0, wakers.1].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Fills the empty `batch` with what the next write takes; false when there is nothing more.
    fn poll_batch(&self, batch: &mut Vec<u8>, context: &mut Context<'_>) -> Poll<bool> {
        let mut queue = self.lock();
        if queue.messages.is_empty() && queue.bulk.is_empty() {
            if queue.state != State::Open {
                return Poll::Ready(false);
            }
            queue.set_writer(context);
            return Poll::Pending;
        }
        mem::swap(batch, &mut queue.messages);
        let count = queue.bulk.len().min(BULK_PER_WRITE);
        let bulk: [_; BULK_PER_WRITE] = std::array::from_fn(|index| {
            if index < count {
                queue.bulk.pop_front()
            } else {
                None
            }
        });
        drop(queue);
        let mut framing = 0;
        for (message, _turn) in bulk.into_iter().flatten() {
            let before = batch.len();
            wire::put(batch, &message);
            framing += batch.len() - before - message.len();
        }
        if framing > 0 {
            // Chunks were counted without it.
            self.lock().unsent_len += framing;
        }
        Poll::Ready(true)
    }

    fn written(&self, len: usize) {
        self.lock().unsent_len -= len;
    }

    /// Ends when the connection is given up, or when its end has been put off long enough.
    async fn overtime(&self) {
        if poll_fn(|context| self.poll_closing(context)).await == State::Closing {
            sleep(CLOSE_TIMEOUT).await;
        }
    }

    /// Polled by the writing task alone, beside [`Outgoing::poll_batch`]: they share a waker.
    fn poll_closing(&self, context: &mut Context<'_>) -> Poll<State> {
        let mut queue = self.lock();
        if queue.state != State::Open {
            return Poll::Ready(queue.state);
        }
        queue.set_writer(context);
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>, queue: MutexGuard<'_, Queue>) {
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Writes until the connection ends; then closes this direction.
pub(super) async fn write(outgoing: Arc<Outgoing>, stream: WriteHalf) {
    let result = tokio::select! {
        biased;
        result = write_batches(&outgoing, stream) => result,
        () = outgoing.overtime() => Err(ConnectionError::PeerTooSlow),
    };
    if let Err(error) = result {
        outgoing.fail(error);
    }
}

async fn write_batches(outgoing: &Outgoing, mut stream: WriteHalf) -> Result<(), ConnectionError> {
    let mut batch = Vec::new();
    while poll_fn(|context| outgoing.poll_batch(&mut batch, context)).await {
        let mut written = 0;
        while written < batch.len() {
            let rest = &batch[written..];
            let len = poll_fn(|context| stream.poll_write(context, rest))
                .await
                .map_err(ConnectionError::Write)?;
            written += len;
            outgoing.written(len);
        }
        batch.clear();
        batch.shrink_to(BUFFER_LEN_KEPT);
    }
    Ok(())
}
