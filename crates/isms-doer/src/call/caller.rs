//! Who asked for a call, and how it is answered.

use std::rc::Rc;

use bytes::Bytes;
use isms_ipc::{Link, Responder, StreamSender};
use isms_protocol::{WireError, doer::InvocationReply};

use crate::{
    durable::{Durable, Outcome},
    service::Doer,
};

/// Who is answered, once.
pub(super) enum Caller {
    /// A Kernel, with whose connection the call ends.
    Once(Responder),
    /// Whichever Kernel knows the call.
    Durable(Rc<Durable>),
}

impl Caller {
    /// The call, if it is durable.
    pub(super) fn durable(&self) -> Option<&Rc<Durable>> {
        match self {
            Caller::Once(_) => None,
            Caller::Durable(durable) => Some(durable),
        }
    }

    /// Waits until nobody wants the answer. Cancel-safe.
    pub(super) async fn gave_up(&self) {
        match self {
            Caller::Once(responder) => responder.cancelled().await,
            Caller::Durable(durable) => durable.gave_up().await,
        }
    }

    /// Waits until an answer of any length could be told; false when nobody is there to tell it to.
    pub(super) async fn is_known(&self, link: &Link) -> bool {
        match self {
            // Its stream learns at once when nobody reads it.
            Caller::Once(_) => true,
            Caller::Durable(durable) => durable.is_known(link).await,
        }
    }

    pub(super) fn reply(self, doer: &Doer, reply: InvocationReply, raw: Bytes) {
        match self {
            Caller::Once(responder) => responder.reply(&reply, raw),
            Caller::Durable(call) => doer.end_durable(&call, Outcome::Reply(reply, raw)),
        }
    }

    pub(super) fn error(self, doer: &Doer, error: WireError) {
        match self {
            Caller::Once(responder) => responder.error(error),
            Caller::Durable(call) => doer.end_durable(&call, Outcome::Error(error)),
        }
    }

    /// Begins a reply that streams; `None` when nobody is there to read it.
    pub(super) fn stream(self, reply: &InvocationReply) -> Option<StreamSender> {
        match self {
            Caller::Once(responder) => Some(responder.reply_stream(reply)),
            Caller::Durable(call) => call.stream(reply),
        }
    }
}
