//! One call of a Doee, from acceptance to its answer.

mod caller;

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Instant};

use isms_ipc::{Answer, InboundRequest, PendingAnswer, StreamReceiver, StreamSender};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, SpanId, TraceContext, WireError,
    doer::{Invocation, InvocationReply, Operation},
    worker::{LogLevel, LogLine},
};
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_local},
};

use self::caller::Caller;
use crate::{
    connection::WorkerConnection,
    doer_admin::TaskId,
    durable::{self, Durable},
    runs::Noted,
    service::Doer,
    worker_handler::Event,
};

/// What the Worker Handler has decided about a call.
pub(crate) enum Verdict {
    /// It was sent to a worker.
    Sent(Sent),
    /// Its worker has not begun it and will not: it is going to be sent again.
    Requeued,
    /// Its worker is to be asked to give it up.
    AskCancel,
    /// It is over.
    Fail(WireError),
}

/// A call on its way to a worker.
pub(crate) struct Sent {
    connection: Rc<WorkerConnection>,
    pending: PendingAnswer,
    upload: Option<Upload>,
}

/// What is to be sent to a worker.
pub(crate) struct Outbound {
    message: Message,
    deadline: Option<Instant>,
    stream: Option<StreamReceiver>,
}

/// Where a call's request lies until it has a worker, and verdicts until the call's future picks them up.
pub(crate) struct CallSlot {
    outbound: RefCell<Outbound>,
    verdicts: RefCell<VecDeque<Verdict>>,
    ruled: Notify,
    /// What is noted of it if it is traced.
    noted: Option<Noted>,
}

impl CallSlot {
    pub(crate) fn new(outbound: Outbound) -> CallSlot {
        CallSlot {
            noted: Noted::of(&outbound.message.header),
            outbound: RefCell::new(outbound),
            verdicts: RefCell::default(),
            ruled: Notify::new(),
        }
    }

    /// Sends the call at once, so that calls reach a worker in the order in which it was given them.
    pub(crate) fn send(&self, task: TaskId, connection: Rc<WorkerConnection>) {
        let mut outbound = self.outbound.borrow_mut();
        connection.skip_taken_slots();
        let (pending, upload) = start(&connection, &mut outbound);
        if let Some(id) = pending.call_id() {
            let Header { process, attempt, .. } = outbound.message.header;
            connection.note_call(task, process, attempt, id);
        }
        self.rule(Verdict::Sent(Sent {
            connection,
            pending,
            upload,
        }));
    }

    /// What is noted of it if it is traced.
    pub(crate) fn noted(&self) -> Option<&Noted> {
        self.noted.as_ref()
    }

    pub(crate) fn rule(&self, verdict: Verdict) {
        self.verdicts.borrow_mut().push_back(verdict);
        self.ruled.notify_one();
    }

    /// The name of whoever asked for the call, as it was verified.
    pub(crate) fn principal(&self) -> Result<String, WireError> {
        let outbound = self.outbound.borrow();
        let invocation: Result<Invocation, _> = outbound.message.decode_body();
        invocation
            .map(|invocation| invocation.principal)
            .map_err(|error| WireError::new(ErrorCode::Internal, format!("the call cannot be read: {error}")))
    }

    /// What was asked for, and until when.
    fn asked(&self) -> (Header, Option<Instant>) {
        let outbound = self.outbound.borrow();
        (outbound.message.header, outbound.deadline)
    }

    /// True when the next verdict is [`Verdict::Requeued`], which is taken then.
    fn take_requeued(&self) -> bool {
        let mut verdicts = self.verdicts.borrow_mut();
        verdicts
            .pop_front_if(|verdict| matches!(verdict, Verdict::Requeued))
            .is_some()
    }

    /// The next verdict. Cancel-safe: one is taken only when it is returned.
    async fn next(&self) -> Verdict {
        loop {
            if let Some(verdict) = self.verdicts.borrow_mut().pop_front() {
                return verdict;
            }
            self.ruled.notified().await;
        }
    }
}

/// Serves a request to run a Doee.
pub(crate) async fn serve(doer: Rc<Doer>, request: InboundRequest) {
    let InboundRequest {
        message,
        deadline,
        stream,
        responder,
    } = request;
    let (version, class) = (message.header.target_doee, message.header.class);
    let streams = stream.is_some();
    let caller = if durable::is_durable(&message.header) {
        match doer.admit_durable(responder, stream.as_ref()).await {
            Some(durable) => Caller::Durable(durable),
            None => return,
        }
    } else {
        Caller::Once(responder)
    };
    let durable = caller.durable().cloned();
    let (task, slot) = doer.open_call(Outbound {
        message,
        deadline,
        stream,
    });
    doer.dispatch(Event::Accepted {
        task,
        version,
        class,
        streams,
    });
    let mut call = Call {
        doer: &doer,
        task,
        slot: &slot,
        durable: durable.clone(),
        cancel_told: false,
        running_on: None,
    };
    call.run(caller).await;
    if let Some(run) = slot.noted().and_then(|noted| noted.run(&slot.asked().0)) {
        doer.state.borrow_mut().runs.push(&doer.link, run);
    }
    let left_on = call
        .running_on
        .take()
        .filter(|connection| connection.has_call(task));
    doer.close_call(task);
    if let Some(durable) = durable {
        // A call that was given up runs until its worker is dead, and the next attempt must not run beside it.
        if let Some(connection) = left_on {
            doer.worker_gone(&connection).await;
        }
        doer.release_durable(&durable);
    }
}

struct Call<'a> {
    doer: &'a Rc<Doer>,
    task: TaskId,
    slot: &'a CallSlot,
    durable: Option<Rc<Durable>>,
    /// The Worker Handler has been told that the caller gave up.
    cancel_told: bool,
    /// The worker that has the call and has not ended it.
    running_on: Option<Rc<WorkerConnection>>,
}

impl Call<'_> {
    async fn run(&mut self, caller: Caller) {
        loop {
            let Sent {
                connection,
                pending,
                // It goes on while the reply streams, and ends with the call at the latest.
                upload: _upload,
            } = match self.sent(&caller).await {
                Ok(sent) => sent,
                Err(error) => return self.fail(caller, error),
            };
            self.running_on = Some(Rc::clone(&connection));
            match self.answered(&caller, pending).await {
                Ok(answer) => {
                    // What was answered never runs again, whatever the status page says.
                    connection.note_answer(self.task);
                    if self.deliver(&connection, answer, caller).await {
                        self.ended(&connection);
                    }
                    return;
                }
                Err(Ending::Failed(error)) => return self.fail(caller, error),
                Err(Ending::Requeued) => {}
                Err(Ending::Answered(error)) if connection.is_open() => {
                    self.fail(caller, plausible(error, self.cancel_told));
                    return self.ended(&connection);
                }
                // The worker is gone; how, the spawner is about to tell.
                Err(Ending::Answered(_)) => {
                    if let Some(error) = over(self.slot).await {
                        return self.fail(caller, error);
                    }
                }
            }
            self.running_on = None;
        }
    }

    /// Answers with an error, of which the Doee's log has a line.
    fn fail(&self, caller: Caller, error: WireError) {
        self.log_failure(&error);
        caller.error(self.doer, error);
    }

    /// Writes why the call failed into the log of its Doee, if that is the Doee's doing. It is one line a call,
    /// so it comes on top of what the call itself may log: a flood must not hide its own end.
    fn log_failure(&self, error: &WireError) {
        let (
            Header {
                process, target_doee, ..
            },
            deadline,
        ) = self.slot.asked();
        let text = match error.code {
            ErrorCode::DoeeFailed | ErrorCode::Crashed | ErrorCode::TimedOut | ErrorCode::TooLarge => {
                error.message.clone()
            }
            // The Kernel has answered by itself and tells only that nobody waits any more.
            ErrorCode::Cancelled if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                "the call's deadline passed before it ended".to_owned()
            }
            _ => return,
        };
        let state = &mut *self.doer.state.borrow_mut();
        if let Some(doee) = state.doees.get(&target_doee) {
            let line = LogLine {
                level: LogLevel::Error,
                text,
            };
            state.logs.push(&self.doer.link, &doee.spec, process, line);
        }
    }

    fn ended(&mut self, connection: &WorkerConnection) {
        self.running_on = None;
        let run_time = connection.end_call(self.task);
        if let Some(noted) = self.slot.noted() {
            noted.note_ended(run_time);
        }
        self.doer.dispatch(Event::Answered {
            worker: connection.worker,
            task: self.task,
            run_time,
        });
    }

    /// Waits until the call has been sent to a worker.
    async fn sent(&mut self, caller: &Caller) -> Result<Sent, WireError> {
        loop {
            tokio::select! {
                biased;
                verdict = self.slot.next() => match verdict {
                    Verdict::Sent(sent) => return Ok(sent),
                    Verdict::Fail(error) => return Err(error),
                    Verdict::AskCancel | Verdict::Requeued => {}
                },
                () = caller.gave_up(), if !self.cancel_told => self.tell_cancel(),
            }
            if self.cancel_told && self.durable.is_none() && !self.doer.link.is_registered() {
                return Err(WireError::new(ErrorCode::Cancelled, "the kernel is gone"));
            }
        }
    }

    /// Waits for the worker's answer.
    async fn answered(&mut self, caller: &Caller, mut pending: PendingAnswer) -> Result<Answer, Ending> {
        loop {
            tokio::select! {
                biased;
                answer = &mut pending => return match answer {
                    // An honest worker says of a call that was taken back only that it was.
                    _ if self.slot.take_requeued() => Err(Ending::Requeued),
                    answer => answer.map_err(Ending::Answered),
                },
                verdict = self.slot.next() => match verdict {
                    Verdict::Fail(error) => return Err(Ending::Failed(error)),
                    Verdict::AskCancel => pending.cancel(),
                    Verdict::Requeued => return Err(Ending::Requeued),
                    Verdict::Sent(_) => unreachable!("a call is requeued before it is sent again"),
                },
                () = caller.gave_up(), if !self.cancel_told => self.tell_cancel(),
            }
        }
    }

    /// Passes the worker's answer on; false when the worker was cut off or died over it.
    async fn deliver(&mut self, connection: &WorkerConnection, answer: Answer, caller: Caller) -> bool {
        let reply: InvocationReply = match answer.message.decode_body() {
            Ok(reply) => reply,
            Err(error) => {
                let what = format!("its reply cannot be read: {error}");
                self.doer.dispatch(Event::Misbehaved {
                    worker: connection.worker,
                    what,
                });
                self.fail(caller, failed(self.slot).await);
                return false;
            }
        };
        let Some(mut source) = answer.stream else {
            caller.reply(self.doer, reply, answer.message.raw);
            return true;
        };
        let known = tokio::select! {
            biased;
            known = caller.is_known(&self.doer.link) => known,
            error = failed(self.slot) => {
                self.fail(caller, error);
                return false;
            }
        };
        let Some(sink) = known.then(|| caller.stream(&reply)).flatten() else {
            // A stream cannot be kept. Before it is given up, so that no Kernel is told of the call meanwhile.
            self.doer.cut_durable(self.durable.as_ref());
            return self.gives_up(connection, source).await;
        };
        let relayed = tokio::select! {
            biased;
            relayed = relay_stream(&mut source, sink) => relayed,
            error = failed(self.slot) => {
                self.log_failure(&error);
                return false;
            }
            () = superseded(self.durable.as_deref()) => return self.gives_up(connection, source).await,
        };
        match relayed {
            Relayed::Whole => true,
            Relayed::BrokenOff => connection.is_open(),
            // Held until then, since the call has room at the Doer as long as its stream.
            Relayed::Refused(_sink) => self.gives_up(connection, source).await,
        }
    }

    /// Has the worker give up a call whose reply nobody reads any more, and waits until it has; false when it was cut
    /// off or died over it. Before that it is not free for another call.
    async fn gives_up(&mut self, connection: &WorkerConnection, mut rest: StreamReceiver) -> bool {
        rest.cancel();
        if !self.cancel_told {
            self.tell_cancel();
        }
        let ended = async { while let Some(Ok(_)) = rest.next().await {} };
        tokio::select! {
            biased;
            () = ended => connection.is_open(),
            error = failed(self.slot) => {
                self.log_failure(&error);
                false
            }
        }
    }

    fn tell_cancel(&mut self) {
        self.cancel_told = true;
        let task = self.task;
        if let Some(durable) = &self.durable {
            durable.note_cancel();
        }
        // Without a Kernel nobody can be answered, and a begun call may end in peace, unless its next attempt may wait
        // for that.
        self.doer
            .dispatch(if self.durable.is_some() || self.doer.link.is_registered() {
                Event::Cancelled { task }
            } else {
                Event::Abandoned { task }
            });
    }
}

/// The task that feeds a worker the request's stream; dropped, it ends.
struct Upload(JoinHandle<()>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Ending {
    /// The worker answered with an error, or its connection broke.
    Answered(WireError),
    /// The Worker Handler ended the call.
    Failed(WireError),
    /// The Worker Handler is going to send it again.
    Requeued,
}

/// Waits until nobody wants a durable call whose reply streams. What is not durable learns so by its stream alone.
async fn superseded(durable: Option<&Durable>) {
    match durable {
        Some(durable) => durable.gave_up().await,
        None => std::future::pending().await,
    }
}

/// What the Worker Handler does with a call whose worker is gone: the error with which it ends, `None` when it is
/// going to be sent again.
async fn over(slot: &CallSlot) -> Option<WireError> {
    loop {
        match slot.next().await {
            Verdict::Fail(error) => return Some(error),
            Verdict::Requeued => return None,
            Verdict::AskCancel | Verdict::Sent(_) => {}
        }
    }
}

/// The error with which the Worker Handler ends a call that has been answered, and so is not sent again.
async fn failed(slot: &CallSlot) -> WireError {
    loop {
        if let Some(error) = over(slot).await {
            return error;
        }
    }
}

/// Sends the call to its worker. A request whose stream is sent along cannot be sent again.
fn start(connection: &WorkerConnection, outbound: &mut Outbound) -> (PendingAnswer, Option<Upload>) {
    let Header {
        process,
        attempt,
        class,
        project,
        principal,
        trace,
        target_doee,
        ..
    } = outbound.message.header;
    let mut header = Header::new(Kind::Request, Service::Doer, Service::Worker);
    header.operation = Operation::Invoke as u16;
    header.remaining_us = outbound.deadline.map_or(0, |deadline| {
        u64::try_from(deadline.saturating_duration_since(Instant::now()).as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    });
    let header = Header {
        process,
        attempt,
        class,
        project,
        principal,
        // What the Doee asks of others is part of this attempt.
        trace: TraceContext {
            span: SpanId::of(process, attempt),
            ..trace
        },
        target_doee,
        ..header
    };
    let request = Message {
        header,
        ..outbound.message.clone()
    };
    match outbound.stream.take() {
        None => (connection.link().start(request), None),
        Some(mut source) => {
            let (sink, pending) = connection.link().call_streaming(request);
            (
                pending,
                Some(Upload(spawn_local(async move {
                    drop(relay_stream(&mut source, sink).await);
                }))),
            )
        }
    }
}

/// How the relay of a stream has ended.
pub(crate) enum Relayed {
    Whole,
    /// By its source.
    BrokenOff,
    /// By its sink, whose stream ends when it is dropped.
    Refused(StreamSender),
}

/// Moves a stream on, chunk by chunk, as fast as its sink takes it.
pub(crate) async fn relay_stream(source: &mut StreamReceiver, mut sink: StreamSender) -> Relayed {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = source.next() => chunk,
            _why = sink.refused() => return Relayed::Refused(sink),
        };
        match chunk {
            Some(Ok(chunk)) => {
                if sink.send(chunk).await.is_err() {
                    return Relayed::Refused(sink);
                }
            }
            Some(Err(_)) => return Relayed::BrokenOff,
            None => break,
        }
    }
    sink.finish();
    Relayed::Whole
}

/// A worker may say that its Doee failed; it may not speak for the platform, nor for a caller who has not cancelled.
fn plausible(error: WireError, cancelled: bool) -> WireError {
    match error.code {
        ErrorCode::DoeeFailed | ErrorCode::TimedOut | ErrorCode::TooLarge => error,
        ErrorCode::Cancelled if cancelled => error,
        _ => WireError::new(ErrorCode::DoeeFailed, error.message),
    }
}

#[cfg(test)]
mod tests;
