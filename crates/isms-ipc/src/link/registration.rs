//! One registration with one Kernel: what is said by it reaches that Kernel or nobody.
//!
//! A link goes on over Kernels; what a role owes to one of them, and what must come in order, it says by this.

use std::sync::Arc;

use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    kernel::{Operation, Resume, Resumed, ResumedCall},
};

use super::{Link, answer::PendingAnswer, flag::Flag, responder::Responder, session::Session};

/// A registered connection.
#[derive(Clone, Debug)]
pub struct Registration {
    session: Arc<Session>,
}

impl Link {
    /// The registration that stands; fails with `Unavailable` while there is none.
    pub fn registration(&self) -> Result<Registration, WireError> {
        self.session().map(Registration::of)
    }
}

impl Registration {
    pub(super) fn of(session: Arc<Session>) -> Registration {
        Registration { session }
    }

    /// True once its connection has ended.
    pub fn is_lost(&self) -> bool {
        self.session.is_lost()
    }

    /// Sends a message that nobody answers, as [`Link::send`] does.
    pub fn send(&self, message: Message) -> Result<(), WireError> {
        self.session.send(message)
    }

    /// Tells the Kernel of requests that came by an earlier connection and are still worked on, of whose list another
    /// part follows when there is `more`. For each, in order: what it is answered with from now on, or `None` when its
    /// answer is not wanted any more. Fails with `Unavailable` when the connection ends, and with `Internal` when the
    /// answer cannot be understood.
    pub async fn resume(&self, requests: &[Header], more: bool) -> Result<Vec<Option<Responder>>, WireError> {
        let mut header = Header::new(Kind::Request, Service::Kernel, Service::Kernel);
        header.operation = Operation::Resume as u16;
        let calls = requests.iter().map(|request| ResumedCall {
            process: request.process,
            attempt: request.attempt,
        });
        let body = Resume {
            calls: calls.collect(),
            more,
        };
        let message = Message::with_body(header, &body);
        let started = self.session.start_resuming(message, false, requests.len())?;
        let answer = PendingAnswer::new(Arc::clone(&self.session), started.call, started.answer).await?;
        let answer = answer.message;
        let misunderstood = |what: String| WireError::new(ErrorCode::Internal, what);
        let Resumed { calls } = answer.decode_body().map_err(|error| {
            misunderstood(format!("the kernel's answer to resume cannot be read: {error}"))
        })?;
        if calls.len() != requests.len() {
            return Err(misunderstood(format!(
                "the kernel answered {} calls to resume with {}",
                requests.len(),
                calls.len()
            )));
        }
        let responder = |(call, request): (u64, &Header)| {
            let header = Header {
                call,
                sender_generation: answer.header.sender_generation,
                target_generation: answer.header.target_generation,
                ..*request
            };
            (call != 0).then(|| self.responder(header))
        };
        Ok(calls.into_iter().zip(requests).map(responder).collect())
    }

    /// What a request is answered with that the session has begun to serve.
    fn responder(&self, header: Header) -> Responder {
        let cancelled = self.session.cancellation(header.call).unwrap_or_else(|| {
            // Its record goes with the connection.
            let gone = Arc::<Flag>::default();
            gone.set();
            gone
        });
        Responder::new(Arc::clone(&self.session), header, cancelled)
    }
}
