//! One registered connection: the calls in both directions and their streams.
//!
//! Invariants: every call gets exactly one answer, at the latest from [`Session::lose`]; a record
//! stays until its call is answered and both its streams have ended or nobody holds them; no lock
//! is held while an owner's value is dropped or woken. Locks nest in one order: tables, then flow.

mod incoming;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service, WireError, limits::CONNECTION_UNSENT_MAX,
};
use tokio::sync::oneshot;

use super::{
    answer::Answer,
    budget::Budget,
    flag::Flag,
    flow::{Inflow, Outflow},
    stream::{StreamSender, credit_message},
};
use crate::{SendError, Sender};

pub(super) use incoming::Violation;

/// Messages about nothing that is under way which a stranger may send on end: those that cross an end on their way.
const STRAYS_MAX: u32 = 4096;
/// How many more it may send for each call that it answers or asks for.
const STRAYS_PER_CALL: u32 = 64;
/// What a caller's asynchronous request says about how it is to be kept.
const KEPT: Flags = Flags::ASYNC
    .with(Flags::DURABLE)
    .with(Flags::KEYED)
    .with(Flags::LATER);
/// Unsent bytes above which new requests and events are refused, so that answers keep their room.
const REQUEST_UNSENT_MAX: usize = CONNECTION_UNSENT_MAX / 2;

pub(super) type AnswerResult = Result<Answer, WireError>;

/// This side's part in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Caller,
    Callee,
}

#[derive(Debug)]
pub(super) struct Session {
    service: Service,
    sender: Sender,
    requests_max: usize,
    /// The peer is no Kernel: what no honest peer does is not overlooked.
    stranger: bool,
    budget: Arc<Budget>,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// Requests of this side.
    calls: HashMap<u64, Call>,
    /// Requests of the Kernel.
    served: HashMap<u64, Served>,
    last_call: u64,
    request_credit: usize,
    /// Messages about nothing that is under way, less those that its calls make up for.
    strays: u32,
    lost: bool,
}

#[derive(Debug)]
struct Call {
    header: Header,
    answer: AnswerSlot,
    outflow: Option<Arc<Outflow>>,
    inflow: Option<Arc<Inflow>>,
    /// Requests of an earlier connection that its reply gives ids to.
    resumes: usize,
}

#[derive(Debug)]
enum AnswerSlot {
    Awaited(oneshot::Sender<AnswerResult>),
    /// Cancelled by the caller; it counts as outstanding until the Kernel has answered.
    Abandoned,
    Given,
}

#[derive(Debug)]
struct Served {
    answered: bool,
    cancelled: Arc<Flag>,
    outflow: Option<Arc<Outflow>>,
    inflow: Option<Arc<Inflow>>,
}

/// A call that has been sent.
pub(super) struct Started {
    pub(super) call: u64,
    pub(super) answer: oneshot::Receiver<AnswerResult>,
    pub(super) stream: Option<StreamSender>,
}

impl Session {
    pub(super) fn new(service: Service, sender: Sender, request_credit: u32) -> Session {
        let tables = Tables {
            calls: HashMap::new(),
            served: HashMap::new(),
            last_call: 0,
            request_credit: request_credit as usize,
            strays: 0,
            lost: false,
        };
        Session {
            service,
            sender,
            requests_max: usize::MAX,
            stranger: false,
            budget: Arc::default(),
            tables: Mutex::new(tables),
        }
    }

    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(super) fn unavailable() -> WireError {
        WireError::new(
            ErrorCode::Unavailable,
            "the connection to the kernel has ended; try again",
        )
    }

    pub(super) fn send_error(error: SendError) -> WireError {
        match error {
            SendError::TooLarge { .. } => WireError::new(ErrorCode::TooLarge, error.to_string()),
            SendError::Full | SendError::Closed => Session::unavailable(),
        }
    }

    /// Sends a message that nobody answers.
    pub(super) fn send(&self, mut message: Message) -> Result<(), WireError> {
        if message.header.kind == Kind::Event {
            self.check_room()?;
        }
        message.header.sender = self.service;
        self.sender.send(&message).map_err(Session::send_error)
    }

    /// Sends a request.
    pub(super) fn start(
        self: &Arc<Session>,
        request: Message,
        streaming: bool,
    ) -> Result<Started, WireError> {
        self.start_resuming(request, streaming, 0)
    }

    /// Sends a request whose reply says by what ids the peer knows so many requests of an earlier connection.
    pub(super) fn start_resuming(
        self: &Arc<Session>,
        mut request: Message,
        streaming: bool,
        resumes: usize,
    ) -> Result<Started, WireError> {
        self.check_room()?;
        let header = &mut request.header;
        (header.kind, header.sender) = (Kind::Request, self.service);
        // How the Kernel is to keep a call is the caller's to say, and nothing else.
        let kept = match header.flags.contains(Flags::ASYNC) {
            true => Flags(header.flags.0 & KEPT.0),
            false => Flags::NONE,
        };
        header.flags = kept.with(if streaming { Flags::STREAM } else { Flags::NONE });
        let outflow = streaming.then(Arc::<Outflow>::default);
        let (slot, answer) = oneshot::channel();
        let mut tables = self.tables();
        tables.check_credit()?;
        tables.last_call += 1;
        header.call = tables.last_call;
        let header = *header;
        tables.calls.insert(
            header.call,
            Call {
                header,
                answer: AnswerSlot::Awaited(slot),
                outflow: outflow.clone(),
                inflow: None,
                resumes,
            },
        );
        drop(tables);
        if let Err(error) = self.sender.send(&request) {
            self.tables().calls.remove(&header.call);
            return Err(Session::send_error(error));
        }
        let stream = outflow.map(|flow| {
            StreamSender::new(
                flow,
                Arc::clone(self),
                Role::Caller,
                Header {
                    flags: Flags::NONE,
                    ..header
                },
            )
        });
        Ok(Started {
            call: header.call,
            answer,
            stream,
        })
    }

    /// Passes over the ids of the next calls as long as they are `taken`, at most `count` of them.
    pub(super) fn skip_call_ids(&self, count: usize, taken: impl Fn(u64) -> bool) {
        let mut tables = self.tables();
        let next = tables.last_call + 1;
        let skipped = (next..).take(count).take_while(|id| taken(*id)).count();
        tables.last_call += skipped as u64;
    }

    /// Bounds the requests that the peer may have under way, and overlooks nothing that it does.
    pub(super) fn with_stranger(mut self, requests_max: u32) -> Session {
        self.requests_max = requests_max as usize;
        self.stranger = true;
        self
    }

    /// The caller would rather have no answer, but waits for one.
    pub(super) fn ask_cancel(&self, call: u64) {
        let header = self.tables().calls.get(&call).map(|record| record.header);
        if let Some(header) = header {
            self.send_cancel(&header);
        }
    }

    /// The caller no longer wants the answer.
    pub(super) fn cancel(&self, call: u64) {
        let mut tables = self.tables();
        let Some(record) = tables.calls.get_mut(&call) else {
            return;
        };
        let AnswerSlot::Awaited(slot) = std::mem::replace(&mut record.answer, AnswerSlot::Abandoned) else {
            record.answer = AnswerSlot::Given;
            return;
        };
        let (header, outflow) = (record.header, record.outflow.take());
        drop(tables);
        drop(slot);
        self.send_cancel(&header);
        if let Some(outflow) = outflow {
            outflow.fail(WireError::new(ErrorCode::Cancelled, "the call was cancelled"));
        }
    }

    /// Sends the one answer to a request; what follows it when `streaming` is its stream.
    pub(super) fn answer(self: &Arc<Session>, answer: Message, streaming: bool) -> Option<StreamSender> {
        let call = answer.header.call;
        let outflow = streaming.then(Arc::<Outflow>::default);
        let mut tables = self.tables();
        // Without a record the connection has ended, and nobody waits for the answer.
        let record = tables.served.get_mut(&call)?;
        record.answered = true;
        if let Some(outflow) = outflow.as_ref().filter(|_| record.cancelled.is_set()) {
            // Nobody is going to give credit for the rest of this answer.
            outflow.fail(cancelled_by_caller());
        }
        record.outflow.clone_from(&outflow);
        tables.forget_served(call);
        drop(tables);
        let sent = self.send_answer(&answer);
        let flow = outflow?;
        let header = Header {
            flags: Flags::TO_CALLER,
            ..answer.header
        };
        Some(match sent {
            Ok(()) => StreamSender::new(flow, Arc::clone(self), Role::Callee, header),
            Err(error) => {
                self.outflow_ended(Role::Callee, call);
                StreamSender::failed(error, header)
            }
        })
    }

    /// Fails when an error had to take the answer's place.
    fn send_answer(&self, answer: &Message) -> Result<(), WireError> {
        let Err(error @ SendError::TooLarge { .. }) = self.sender.send(answer) else {
            return Ok(());
        };
        let error = WireError::new(ErrorCode::Internal, format!("the answer cannot be sent: {error}"));
        let header = Header {
            kind: Kind::Error,
            flags: Flags::NONE,
            ..answer.header
        };
        let _ = self.sender.send(&Message::with_body(header, &error));
        Err(error)
    }

    /// Notes that this side's stream of a call has ended.
    pub(super) fn outflow_ended(&self, role: Role, call: u64) {
        let mut tables = self.tables();
        match role {
            Role::Caller => {
                if let Some(record) = tables.calls.get_mut(&call) {
                    record.outflow = None;
                }
                tables.forget_call(call);
            }
            Role::Callee => {
                if let Some(record) = tables.served.get_mut(&call) {
                    record.outflow = None;
                }
                tables.forget_served(call);
            }
        }
    }

    /// Notes that nobody reads the peer's stream any more; true when its rest is to be thrown away.
    pub(super) fn reader_gone(&self, role: Role, header: &Header) -> bool {
        let mut tables = self.tables();
        match role {
            Role::Caller => {
                let Some(record) = tables.calls.get_mut(&header.call) else {
                    return false;
                };
                record.inflow = None;
                let request = record.header;
                tables.forget_call(header.call);
                drop(tables);
                self.send_cancel(&request);
                false
            }
            Role::Callee => {
                let Some(record) = tables.served.get_mut(&header.call) else {
                    return false;
                };
                let done = record.answered && record.outflow.is_none();
                if done {
                    tables.served.remove(&header.call);
                }
                !done
            }
        }
    }

    pub(super) fn grant(&self, header: &Header, bytes: u32) {
        // When it cannot be sent the connection has ended, and the stream with it.
        let _ = self.sender.send(&credit_message(header, bytes));
    }

    /// True once the connection is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.tables().lost
    }

    /// What tells that nobody wants the answer to a request any more; `None` when it is not being served.
    pub(super) fn cancellation(&self, call: u64) -> Option<Arc<Flag>> {
        let tables = self.tables();
        tables
            .served
            .get(&call)
            .map(|record| Arc::clone(&record.cancelled))
    }

    /// Ends everything: the connection is gone.
    pub(super) fn lose(&self) {
        let mut tables = self.tables();
        tables.lost = true;
        let calls = std::mem::take(&mut tables.calls);
        let served = std::mem::take(&mut tables.served);
        drop(tables);
        self.sender.close();
        for call in calls.into_values() {
            call.fail(&Session::unavailable());
        }
        for served in served.into_values() {
            served.fail(&Session::unavailable());
        }
    }

    fn check_room(&self) -> Result<(), WireError> {
        if self.sender.unsent_len() > REQUEST_UNSENT_MAX {
            return Err(WireError::new(
                ErrorCode::Busy,
                "the kernel does not keep up; try again later",
            ));
        }
        Ok(())
    }

    fn send_cancel(&self, request: &Header) {
        let header = Header {
            kind: Kind::Cancel,
            flags: Flags::NONE,
            remaining_us: 0,
            ..*request
        };
        let _ = self.sender.send(&Message::bare(header));
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn check_credit(&self) -> Result<(), WireError> {
        if self.lost {
            return Err(Session::unavailable());
        }
        if self.calls.len() >= self.request_credit {
            let text = format!(
                "{} requests wait for the kernel already; try again later",
                self.calls.len()
            );
            return Err(WireError::new(ErrorCode::Busy, text));
        }
        Ok(())
    }

    /// A call makes up for what may have crossed its end.
    fn forgive_strays(&mut self) {
        self.strays = self.strays.saturating_sub(STRAYS_PER_CALL);
    }

    fn forget_call(&mut self, call: u64) {
        let done = |record: &Call| {
            matches!(record.answer, AnswerSlot::Given) && record.outflow.is_none() && record.inflow.is_none()
        };
        if self.calls.get(&call).is_some_and(done) {
            self.calls.remove(&call);
        }
    }

    fn forget_served(&mut self, call: u64) {
        let unread = |record: &Served| record.inflow.as_ref().is_none_or(|inflow| inflow.is_discarding());
        let done = |record: &Served| record.answered && record.outflow.is_none() && unread(record);
        if self.served.get(&call).is_some_and(done) {
            self.served.remove(&call);
        }
    }
}

impl Call {
    fn fail(self, error: &WireError) {
        if let AnswerSlot::Awaited(slot) = self.answer {
            // A caller that has gone meanwhile needs no answer.
            let _ = slot.send(Err(error.clone()));
        }
        end_flows(self.outflow, self.inflow, error);
    }
}

impl Served {
    fn fail(self, error: &WireError) {
        self.cancelled.set();
        end_flows(self.outflow, self.inflow, error);
    }
}

fn cancelled_by_caller() -> WireError {
    WireError::new(ErrorCode::Cancelled, "the caller cancelled the call")
}

fn end_flows(outflow: Option<Arc<Outflow>>, inflow: Option<Arc<Inflow>>, error: &WireError) {
    if let Some(outflow) = outflow {
        outflow.fail(error.clone());
    }
    if let Some(inflow) = inflow {
        inflow.end(Err(error.clone()));
    }
}
