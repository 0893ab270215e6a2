//! How a role answers a request.

use std::sync::Arc;

use bytes::Bytes;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, WireError,
    limits::{INLINE_LEN_MAX, MESSAGE_LEN_MAX},
};
use serde::Serialize;

use super::{flag::Flag, registration::Registration, session::Session, stream::StreamSender};

/// Answers one request, once. Dropped without an answer, it answers with an internal error. After
/// the connection by which the request came has ended, answers are discarded.
#[derive(Debug)]
pub struct Responder {
    session: Arc<Session>,
    header: Header,
    cancelled: Arc<Flag>,
    answered: bool,
}

impl Responder {
    pub(super) fn new(session: Arc<Session>, header: Header, cancelled: Arc<Flag>) -> Responder {
        Responder {
            session,
            header,
            cancelled,
            answered: false,
        }
    }

    /// Replies with a body and raw bytes, which must fit one message; else `Internal` is answered.
    pub fn reply<T: Serialize>(mut self, body: &T, raw: Bytes) {
        let reply = Message::with_body(self.header.answer(Kind::Reply), body).with_raw(raw);
        self.answer(reply, false);
    }

    /// Replies with nothing but that it is done.
    pub fn reply_empty(mut self) {
        let reply = Message::bare(self.header.answer(Kind::Reply));
        self.answer(reply, false);
    }

    /// Replies with a body and a payload of any length, inline or as a stream by its length.
    pub async fn reply_payload<T: Serialize>(mut self, body: &T, payload: Bytes) -> Result<(), WireError> {
        let reply = Message::with_body(self.header.answer(Kind::Reply), body);
        if fits_inline(&reply, &payload) {
            self.answer(reply.with_raw(payload), false);
            return Ok(());
        }
        let mut stream = self.stream(reply);
        stream.send(payload).await?;
        stream.finish();
        Ok(())
    }

    /// Replies with a body; the payload is what is sent on the stream.
    pub fn reply_stream<T: Serialize>(mut self, body: &T) -> StreamSender {
        let reply = Message::with_body(self.header.answer(Kind::Reply), body);
        self.stream(reply)
    }

    /// Passes on a reply of another process: its body as it was encoded, its raw bytes.
    pub fn reply_encoded(mut self, body: Bytes, raw: Bytes) {
        let header = self.header.answer(Kind::Reply);
        self.answer(Message { header, body, raw }, false);
    }

    /// Passes on a reply whose payload is a stream: its body as it was encoded.
    pub fn reply_stream_encoded(mut self, body: Bytes) -> StreamSender {
        let header = self.header.answer(Kind::Reply);
        self.stream(Message {
            header,
            body,
            raw: Bytes::new(),
        })
    }

    /// Answers that the request failed.
    pub fn error(mut self, error: WireError) {
        self.answer_error(&error);
    }

    /// Waits until nobody wants the answer: the caller cancelled, or the connection has ended.
    pub async fn cancelled(&self) {
        self.cancelled.wait().await;
    }

    /// As [`Responder::cancelled`], for who cannot hold on to the responder meanwhile.
    pub fn cancellation(&self) -> impl Future<Output = ()> + use<> {
        let cancelled = Arc::clone(&self.cancelled);
        async move { cancelled.wait().await }
    }

    /// The registration that it answers to.
    pub fn registration(&self) -> Registration {
        Registration::of(Arc::clone(&self.session))
    }

    /// True once the connection by which the request came has ended.
    pub fn is_lost(&self) -> bool {
        self.session.is_lost()
    }

    /// True when nobody wants the answer any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_set()
    }

    /// The request's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn stream(&mut self, mut reply: Message) -> StreamSender {
        reply.header.flags = Flags::STREAM;
        let header = reply.header;
        self.answer(reply, true)
            .unwrap_or_else(|| StreamSender::failed(Session::unavailable(), header))
    }

    fn answer_error(&mut self, error: &WireError) {
        let answer = Message::error_answer(&self.header, error);
        self.answer(answer, false);
    }

    fn answer(&mut self, answer: Message, streaming: bool) -> Option<StreamSender> {
        self.answered = true;
        self.session.answer(answer, streaming)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.answer_error(&WireError::new(
                ErrorCode::Internal,
                "the service dropped the request unanswered",
            ));
        }
    }
}

/// True when a payload needs no stream.
pub(super) fn fits_inline(message: &Message, payload: &Bytes) -> bool {
    payload.len() <= INLINE_LEN_MAX && message.len() + payload.len() <= MESSAGE_LEN_MAX
}
