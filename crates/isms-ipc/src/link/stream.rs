//! The two ends of a stream that an owner holds.

use std::{future::poll_fn, mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, WireError, kernel::StreamCredit};

use super::{
    flow::{Inflow, Outflow},
    session::{Role, Session},
};

/// Sends the stream that follows a request or a reply. Dropped without [`StreamSender::finish`], the
/// stream breaks off and its receiver is told so.
#[derive(Debug)]
pub struct StreamSender {
    flow: Arc<Outflow>,
    /// `None` for a stream that failed before it began.
    session: Option<Arc<Session>>,
    role: Role,
    /// Of every message of the stream, its kind apart.
    header: Header,
}

impl StreamSender {
    pub(super) fn new(flow: Arc<Outflow>, session: Arc<Session>, role: Role, header: Header) -> StreamSender {
        StreamSender {
            flow,
            session: Some(session),
            role,
            header,
        }
    }

    /// A stream whose every send fails.
    pub(super) fn failed(error: WireError, header: Header) -> StreamSender {
        StreamSender {
            flow: Arc::new(Outflow::failed(error)),
            session: None,
            role: Role::Caller,
            header,
        }
    }

    /// Sends bytes, in as many chunks as it takes, each when the receiver has given credit for it.
    /// Fails when the receiver wants no more (its call has ended) or the Kernel is gone. A future
    /// dropped half-way has sent some of its bytes.
    pub async fn send(&mut self, mut chunk: Bytes) -> Result<(), WireError> {
        while !chunk.is_empty() {
            poll_fn(|context| self.flow.poll_credit(context)).await?;
            let Some(session) = &self.session else {
                return Err(Session::unavailable());
            };
            let turn = session.sender().next_turn().await.map_err(Session::send_error)?;
            let piece = chunk.split_to(self.flow.take(chunk.len())?);
            let message = Message::bare(self.header(Kind::StreamChunk)).with_raw(piece);
            session
                .sender()
                .send_in_turn(&message, turn)
                .map_err(Session::send_error)?;
        }
        Ok(())
    }

    /// Waits until the receiver wants no more, or the Kernel is gone: for a sender that has nothing to send yet.
    /// Cancel-safe.
    pub async fn refused(&self) -> WireError {
        poll_fn(|context| self.flow.poll_failure(context)).await
    }

    /// Ends the stream in order.
    pub fn finish(mut self) {
        self.end(Flags::NONE);
    }

    fn end(&mut self, flags: Flags) {
        let Some(session) = self.session.take() else {
            return;
        };
        let mut header = self.header(Kind::StreamEnd);
        header.flags = header.flags.with(flags);
        // When it cannot be sent the connection has ended, and the stream with it.
        let _ = session.sender().send(&Message::bare(header));
        session.outflow_ended(self.role, header.call);
    }

    fn header(&self, kind: Kind) -> Header {
        Header { kind, ..self.header }
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        self.end(Flags::ABORTED);
    }
}

/// Receives the stream that follows a request or a reply. Dropping it before its end tells the other
/// side: the stream of a reply by a cancel, that of a request by the answer; until then what comes is
/// thrown away.
#[derive(Debug)]
pub struct StreamReceiver {
    flow: Arc<Inflow>,
    session: Arc<Session>,
    role: Role,
    /// Of every credit message of the stream.
    header: Header,
}

impl StreamReceiver {
    pub(super) fn new(
        flow: Arc<Inflow>,
        session: Arc<Session>,
        role: Role,
        header: Header,
    ) -> StreamReceiver {
        StreamReceiver {
            flow,
            session,
            role,
            header,
        }
    }

    /// The next bytes; `None` after the last. An error (it broke off, the Kernel is gone) comes once,
    /// then `None`. What is taken is granted to the sender again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, WireError>> {
        self.grant(self.flow.start());
        let taken = poll_fn(|context| self.flow.poll_take(context)).await;
        self.grant(taken.grant);
        taken.chunk
    }

    /// Asks the sender of a reply's stream to give the call up; the rest of the stream is still waited for.
    pub fn cancel(&self) {
        if matches!(self.role, Role::Caller) {
            self.session.ask_cancel(self.header.call);
        }
    }

    /// How much of the stream has come, for who cannot hold on to it.
    pub fn arrival(&self) -> Arrival {
        Arrival(Arc::clone(&self.flow))
    }

    /// Collects what is left; `TooLarge` when that is more than `len_max` bytes.
    pub(super) async fn collect(&mut self, len_max: usize) -> Result<Bytes, WireError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if chunk.len() > len_max - whole.len() {
                return Err(too_large(len_max));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    fn grant(&self, bytes: u32) {
        if bytes > 0 {
            self.session.grant(&self.header, bytes);
        }
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        if !self.flow.has_ended() && self.session.reader_gone(self.role, &self.header) {
            self.grant(self.flow.discard());
        }
    }
}

/// How much of a stream has come.
#[derive(Clone, Debug)]
pub struct Arrival(Arc<Inflow>);

impl Arrival {
    /// True when all of it is here, read or not.
    pub fn is_whole(&self) -> bool {
        self.0.is_whole()
    }
}

/// The payload of a message: raw, or the whole of its stream.
pub(super) async fn payload(
    message: &mut Message,
    stream: &mut Option<StreamReceiver>,
    len_max: usize,
) -> Result<Bytes, WireError> {
    match stream.take() {
        Some(mut stream) => stream.collect(len_max).await,
        None if message.raw.len() > len_max => Err(too_large(len_max)),
        None => Ok(mem::take(&mut message.raw)),
    }
}

/// The message that grants bytes of a stream.
pub(super) fn credit_message(header: &Header, bytes: u32) -> Message {
    Message::with_body(*header, &StreamCredit { bytes })
}

fn too_large(len_max: usize) -> WireError {
    WireError::new(
        ErrorCode::TooLarge,
        format!("payload is over the limit of {len_max} bytes"),
    )
}
