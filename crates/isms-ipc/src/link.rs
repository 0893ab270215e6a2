//! A role's lasting link to the Kernel.
//!
//! One task connects, registers, sends heartbeats, reads, and starts over when the connection ends.
//!
//! Invariants: when the connection ends, everything that was under way on it ends at once: calls with
//! `Unavailable`, streams with an error, requests by their `cancelled`; nothing is sent again by
//! itself. A role that works on all the same tells the next Kernel by its `Registration`. Requests stay within the credit that the Kernel gave. Every queue is bounded.

mod answer;
mod attach;
mod budget;
mod driver;
mod flag;
mod flow;
mod inbox;
mod registration;
mod responder;
mod session;
mod stream;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use isms_protocol::{ErrorCode, Incarnation, Message, Secret, Service, WireError};

use flag::Flag;
use session::Session;

pub use answer::{Answer, PendingAnswer};
pub use inbox::{Inbound, InboundRequest, Inbox};
pub use registration::Registration;
pub use responder::Responder;
pub use stream::{Arrival, StreamReceiver, StreamSender};

/// What a link needs to register.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// The Kernel's socket.
    pub socket: PathBuf,
    /// The role.
    pub service: Service,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// What proves it.
    pub secret: Secret,
    /// Requests that the role takes at the same time.
    pub concurrency: u32,
}

/// The sending half of a link: cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    handle: Arc<Handle>,
}

/// Ends the link with its last holder.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    session: Mutex<Option<Arc<Session>>>,
    inbox: inbox::Queue,
    violation: OnceLock<String>,
    stop: Flag,
    stopped: Flag,
}

impl Link {
    /// Opens a link; its task runs on the current tokio runtime until [`Link::close`], or until
    /// every `Link` and the `Inbox` are gone.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(options: LinkOptions) -> (Link, Inbox) {
        let shared = Arc::<Shared>::default();
        // Not joined: `close` waits for its end, and without holders it ends by itself.
        tokio::spawn(driver::run(Arc::clone(&shared), options));
        let handle = Arc::new(Handle { shared });
        (
            Link {
                handle: Arc::clone(&handle),
            },
            Inbox { handle },
        )
    }

    /// Sends a request and waits for its answer. The link fills call id and sender. Dropping the
    /// future cancels the call. Fails with `Unavailable` at once while the Kernel is not there, and
    /// with `Busy` when the Kernel's credit is used up or it does not keep up.
    pub async fn call(&self, request: Message) -> Result<Answer, WireError> {
        let session = self.session()?;
        let started = session.start(request, false)?;
        PendingAnswer::new(session, started.call, started.answer).await
    }

    /// Sends a request at once; its answer is waited for by the future. An error meets the future.
    pub fn start(&self, request: Message) -> PendingAnswer {
        let started = self
            .session()
            .and_then(|session| Ok((session.start(request, false)?, session)));
        match started {
            Ok((started, session)) => PendingAnswer::new(session, started.call, started.answer),
            Err(error) => PendingAnswer::failed(error),
        }
    }

    /// Sends a request whose payload follows on the stream. An error meets both ends.
    pub fn call_streaming(&self, request: Message) -> (StreamSender, PendingAnswer) {
        let header = request.header;
        let started = self
            .session()
            .and_then(|session| Ok((session.start(request, true)?, session)));
        match started {
            Ok((started, session)) => {
                let stream = started.stream.expect("a streaming call has a stream");
                (stream, PendingAnswer::new(session, started.call, started.answer))
            }
            Err(error) => (
                StreamSender::failed(error.clone(), header),
                PendingAnswer::failed(error),
            ),
        }
    }

    /// Sends a request with a payload of any length, inline or as a stream by its length.
    pub async fn call_payload(&self, request: Message, payload: Bytes) -> Result<Answer, WireError> {
        if responder::fits_inline(&request, &payload) {
            return self.call(request.with_raw(payload)).await;
        }
        let (mut stream, mut answer) = self.call_streaming(request);
        let sending = async move {
            // Should it fail, the answer says why.
            if stream.send(payload).await.is_ok() {
                stream.finish();
            }
        };
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = sending => {}
        }
        answer.await
    }

    /// Passes over the ids of the next calls as long as they are `taken`, at most `count` of them.
    pub fn skip_call_ids(&self, count: usize, taken: impl Fn(u64) -> bool) {
        if let Ok(session) = self.session() {
            session.skip_call_ids(count, taken);
        }
    }

    /// Sends a message that nobody answers: an event, slots. An event is refused with `Busy` while
    /// the Kernel does not keep up.
    pub fn send(&self, message: Message) -> Result<(), WireError> {
        self.session()?.send(message)
    }

    /// True while the Kernel knows this incarnation and the connection stands.
    pub fn is_registered(&self) -> bool {
        self.session().is_ok()
    }

    /// What the peer of an attached link did for which the link was cut; `None` when that is not why it ended.
    pub fn violation(&self) -> Option<&str> {
        self.handle.shared.violation.get().map(String::as_str)
    }

    /// Ends the link once what is queued has been written. Calls under way fail; so drain first.
    pub async fn close(&self) {
        self.handle.shared.stop.set();
        self.handle.shared.stopped.wait().await;
    }

    fn session(&self) -> Result<Arc<Session>, WireError> {
        self.handle.shared.session().ok_or_else(|| {
            WireError::new(
                ErrorCode::Unavailable,
                "the kernel is not reachable at the moment; try again",
            )
        })
    }
}

impl Shared {
    fn session(&self) -> Option<Arc<Session>> {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_violation(&self, what: String) {
        // A link is cut once.
        let _ = self.violation.set(what);
    }

    fn set_session(&self, session: Option<Arc<Session>>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.set();
    }
}
