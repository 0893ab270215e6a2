//! Durable calls: what binds each of them to a Kernel, and to the next one when that is lost.
//!
//! Invariants: of a process the Doer has one attempt, until that has ended and its worker runs it no more; a call
//! without an open stream outlives its Kernel; what it ends with is told to one Kernel, once, and kept until then;
//! what nobody wants any more is told to nobody. Not here: what is said to a Kernel that registers (`resume`).

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use isms_ipc::{Arrival, Link, Registration, Responder, StreamReceiver, StreamSender};
use isms_protocol::{ErrorCode, Flags, Header, ProcessId, WireError, doer::InvocationReply};
use tokio::{sync::Notify, time::timeout};

/// How long what needs a Kernel waits for one that has registered to say how it knows the call.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// What a call ends with.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(InvocationReply, Bytes),
    Error(WireError),
}

impl Outcome {
    pub(crate) fn tell(self, responder: Responder) {
        match self {
            Outcome::Reply(reply, raw) => responder.reply(&reply, raw),
            Outcome::Error(error) => responder.error(error),
        }
    }
}

/// A durable call that the Doer has.
#[derive(Debug)]
pub(crate) struct Durable {
    /// As it was dispatched.
    header: Header,
    /// The stream of its request.
    request: Option<Arrival>,
    line: RefCell<Line>,
    /// It has been cancelled, and is not to outlive its Kernel.
    cancelled: Cell<bool>,
    /// It runs no more; what it ended with may still be kept.
    ended: Cell<bool>,
    /// Told whenever its line changes, and when it has ended.
    changed: Notify,
}

/// What binds a call to a Kernel.
#[derive(Debug)]
enum Line {
    /// A Kernel knows it.
    Open(Responder),
    /// Its reply streams to a Kernel.
    Streaming(Registration),
    /// Its Kernel is lost, and the next one has not said how it knows the call; what it ended with meanwhile.
    Lost(Option<Outcome>),
    /// It has been answered, or nobody wants it any more.
    Over,
}

impl Durable {
    pub(crate) fn new(responder: Responder, stream: Option<&StreamReceiver>) -> Durable {
        Durable {
            header: *responder.header(),
            request: stream.map(StreamReceiver::arrival),
            line: RefCell::new(Line::Open(responder)),
            cancelled: Cell::new(false),
            ended: Cell::new(false),
            changed: Notify::new(),
        }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// True while no Kernel knows it and one may want it.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(*self.line(), Line::Lost(_))
    }

    /// Waits until nobody wants it any more: the Kernel cancelled it, or it does not outlive its Kernel.
    pub(crate) async fn gave_up(&self) {
        loop {
            let cancelled = match &*self.line() {
                Line::Over => return,
                Line::Open(responder) => Some(responder.cancellation()),
                Line::Streaming(_) | Line::Lost(_) => None,
            };
            let Some(cancelled) = cancelled else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = cancelled => {
                    // It also tells that a connection has ended, maybe one before that which stands now.
                    if matches!(&*self.line(), Line::Open(responder) if responder.is_cancelled()) {
                        return;
                    }
                }
                () = self.changed.notified() => {}
            }
        }
    }

    /// Notes that it is being cancelled: should the Kernel be lost now, the next one is not told of it.
    pub(crate) fn note_cancel(&self) {
        self.cancelled.set(true);
    }

    /// Waits until it runs no more.
    pub(crate) async fn ended(&self) {
        while !self.ended.get() {
            self.changed.notified().await;
        }
    }

    /// Waits for a Kernel that has registered to say how it knows the call; false when there is no Kernel, when it
    /// does not want it, or takes too long to say.
    pub(crate) async fn is_known(&self, link: &Link) -> bool {
        let known = async {
            loop {
                match *self.line() {
                    Line::Open(_) | Line::Streaming(_) => return true,
                    Line::Over => return false,
                    Line::Lost(_) if !link.is_registered() => return false,
                    Line::Lost(_) => {}
                }
                self.changed.notified().await;
            }
        };
        timeout(KNOWN_WITHIN, known).await.unwrap_or(false)
    }

    /// Begins a reply that streams; `None` when no Kernel knows the call, which is over then.
    pub(crate) fn stream(&self, reply: &InvocationReply) -> Option<StreamSender> {
        let mut line = self.line();
        let Line::Open(responder) = std::mem::replace(&mut *line, Line::Over) else {
            return None;
        };
        *line = Line::Streaming(responder.registration());
        Some(responder.reply_stream(reply))
    }

    /// Ends it for a Kernel that knows it, or keeps what it ended with if there is `room`.
    fn end(&self, outcome: Outcome, room: bool) {
        let mut line = self.line();
        *line = match std::mem::replace(&mut *line, Line::Over) {
            Line::Open(responder) => {
                outcome.tell(responder);
                Line::Over
            }
            Line::Lost(None) if room => Line::Lost(Some(outcome)),
            Line::Lost(kept) => {
                let process = self.header.process;
                tracing::warn!(%process, kept = kept.is_some(), "dropped what a durable call ended with");
                Line::Over
            }
            Line::Streaming(_) | Line::Over => Line::Over,
        };
    }

    /// A Kernel knows it from now on.
    fn attach(&self, responder: Responder) {
        let mut line = self.line();
        *line = match std::mem::replace(&mut *line, Line::Over) {
            Line::Lost(kept) if responder.is_lost() => Line::Lost(kept),
            Line::Lost(None) => Line::Open(responder),
            Line::Lost(Some(outcome)) => {
                outcome.tell(responder);
                Line::Over
            }
            other => {
                let error = WireError::new(ErrorCode::Unavailable, "the call was given up meanwhile");
                responder.error(error);
                other
            }
        };
        drop(line);
        self.changed.notify_waiters();
    }

    /// True while a Kernel knows it and has not cancelled it, or one may want it.
    fn is_wanted(&self) -> bool {
        match &*self.line() {
            Line::Open(responder) => !responder.is_cancelled(),
            Line::Streaming(_) | Line::Lost(_) => true,
            Line::Over => false,
        }
    }

    /// Nobody wants it any more; true when somebody did.
    fn cut(&self) -> bool {
        let wanted = self.is_wanted();
        if let Line::Open(responder) = std::mem::replace(&mut *self.line(), Line::Over) {
            let error = WireError::new(ErrorCode::Fenced, "a later attempt of the process has come");
            responder.error(error);
        }
        self.changed.notify_waiters();
        wanted
    }

    fn has_kept(&self) -> bool {
        matches!(*self.line(), Line::Lost(Some(_)))
    }

    /// The line as it is now: nobody is told in time that a connection has ended, so each look finds out.
    fn line(&self) -> RefMut<'_, Line> {
        let mut line = self.line.borrow_mut();
        match &*line {
            Line::Open(responder) if responder.is_lost() => {
                let whole = self.request.as_ref().is_none_or(Arrival::is_whole);
                *line = match whole && !self.cancelled.get() {
                    true => Line::Lost(None),
                    false => Line::Over,
                };
            }
            Line::Streaming(registration) if registration.is_lost() => *line = Line::Over,
            _ => {}
        }
        line
    }
}

/// The durable calls that the Doer has, by process.
#[derive(Debug)]
pub(crate) struct Durables {
    calls: HashMap<ProcessId, Rc<Durable>>,
    /// Outcomes that may be kept.
    kept_max: usize,
}

/// What becomes of a durable call that was dispatched.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It is the only one of its process.
    Admitted(Rc<Durable>),
    /// This attempt of its process, or one that came after it, is here and wanted.
    Fenced(Responder),
    /// An earlier attempt is still here, which nobody wants any more.
    After(Rc<Durable>, Responder),
}

/// True when a request is a durable call.
pub(crate) fn is_durable(request: &Header) -> bool {
    request.flags.contains(Flags::DURABLE) && request.process != ProcessId::NONE
}

impl Durables {
    pub(crate) fn new(kept_max: usize) -> Durables {
        Durables {
            calls: HashMap::new(),
            kept_max,
        }
    }

    /// Admits a call, unless another attempt of its process is here.
    pub(crate) fn admit(&mut self, responder: Responder, stream: Option<&StreamReceiver>) -> Admission {
        let Header { process, attempt, .. } = *responder.header();
        let Some(other) = self.calls.get(&process).cloned() else {
            let durable = Rc::new(Durable::new(responder, stream));
            self.calls.insert(process, Rc::clone(&durable));
            return Admission::Admitted(durable);
        };
        // The number of one that is being stopped says nothing: a Kernel that was restarted may count anew.
        if other.is_wanted() && other.header.attempt >= attempt {
            tracing::error!(%process, attempt, here = other.header.attempt, "refused an attempt that comes too late");
            return Admission::Fenced(responder);
        }
        if self.cut(&other) {
            tracing::error!(%process, attempt, here = other.header.attempt, "stopped an attempt that was still wanted");
        }
        Admission::After(other, responder)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(crate) fn get(&self, process: ProcessId) -> Option<Rc<Durable>> {
        self.calls.get(&process).cloned()
    }

    /// Those whose Kernel is lost, the oldest first.
    pub(crate) fn lost(&self) -> Vec<Rc<Durable>> {
        let lost = self.calls.values().filter(|call| call.is_lost());
        let mut lost: Vec<_> = lost.map(Rc::clone).collect();
        lost.sort_by_key(|call| call.header.process.to_bytes());
        lost
    }

    /// The connection to the Kernel has ended: what waits for it learns so.
    pub(crate) fn note_loss(&self) {
        self.calls.values().for_each(|call| call.changed.notify_waiters());
    }

    /// Tells what a call ended with, or keeps it until it can be told.
    pub(crate) fn end(&self, call: &Durable, outcome: Outcome) {
        let kept = || self.calls.values().filter(|call| call.has_kept()).count();
        let room = !call.is_lost() || kept() < self.kept_max;
        call.end(outcome, room);
    }

    /// A Kernel knows the call from now on.
    pub(crate) fn attach(&mut self, call: &Rc<Durable>, responder: Responder) {
        call.attach(responder);
        self.forget_if_done(call);
    }

    /// Nobody wants the call any more; true when somebody did.
    pub(crate) fn cut(&mut self, call: &Rc<Durable>) -> bool {
        let wanted = call.cut();
        self.forget_if_done(call);
        wanted
    }

    /// The call runs no more.
    pub(crate) fn release(&mut self, call: &Rc<Durable>) {
        call.ended.set(true);
        self.forget_if_done(call);
        call.changed.notify_waiters();
    }

    fn forget_if_done(&mut self, call: &Rc<Durable>) {
        let process = call.header.process;
        let here = self
            .calls
            .get(&process)
            .is_some_and(|here| Rc::ptr_eq(here, call));
        if here && call.ended.get() && !call.has_kept() {
            self.calls.remove(&process);
        }
    }
}
