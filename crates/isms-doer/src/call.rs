//! One call of a Doee, from acceptance to its answer.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Instant};

use isms_ipc::{Answer, InboundRequest, PendingAnswer, Responder, StreamReceiver, StreamSender};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    doer::{InvocationReply, Operation},
};
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_local},
};

use crate::{
    connection::{CurrentCall, WorkerConnection},
    doer_admin::TaskId,
    service::Doer,
    worker_handler::Event,
};

/// What the Worker Handler has decided about a call.
pub(crate) enum Verdict {
    /// It runs on this worker.
    Run(Rc<WorkerConnection>),
    /// Its worker is to be asked to give it up.
    AskCancel,
    /// It is over.
    Fail(WireError),
}

/// Where verdicts lie until the call's future picks them up.
#[derive(Default)]
pub(crate) struct CallSlot {
    verdicts: RefCell<VecDeque<Verdict>>,
    ruled: Notify,
}

impl CallSlot {
    pub(crate) fn rule(&self, verdict: Verdict) {
        self.verdicts.borrow_mut().push_back(verdict);
        self.ruled.notify_one();
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
    let (task, slot) = doer.open_call();
    doer.dispatch(Event::Accepted {
        task,
        version: request.message.header.target_doee,
    });
    let call = Call {
        doer: &doer,
        task,
        slot: &slot,
        cancel_told: false,
    };
    call.run(request).await;
    doer.close_call(task);
}

struct Call<'a> {
    doer: &'a Rc<Doer>,
    task: TaskId,
    slot: &'a CallSlot,
    /// The Worker Handler has been told that the caller gave up.
    cancel_told: bool,
}

impl Call<'_> {
    async fn run(mut self, request: InboundRequest) {
        let InboundRequest {
            message,
            deadline,
            stream,
            responder,
        } = request;
        let connection = match self.assigned(&responder).await {
            Ok(connection) => connection,
            Err(error) => return responder.error(error),
        };
        let Header { process, attempt, .. } = message.header;
        connection.begin_call(CurrentCall { process, attempt });
        let (pending, upload) = start(&connection, message, deadline, stream);
        // It goes on while the reply streams, and ends with the call at the latest.
        let _upload = upload.map(|(source, sink)| Upload(spawn_local(relay_stream(source, sink))));
        let answer = self.answered(&responder, pending).await;
        match answer {
            Ok(answer) => {
                if self.deliver(&connection, answer, responder).await {
                    self.ended(&connection);
                }
            }
            Err(Ending::Failed(error)) => responder.error(error),
            Err(Ending::Answered(error)) if connection.is_open() => {
                responder.error(plausible(error));
                self.ended(&connection);
            }
            // The worker is gone; how, the spawner is about to tell.
            Err(Ending::Answered(_)) => responder.error(self.failure().await),
        }
    }

    fn ended(&self, connection: &WorkerConnection) {
        connection.end_call();
        self.doer.dispatch(Event::Answered {
            worker: connection.worker,
        });
    }

    /// Waits until the call has a worker.
    async fn assigned(&mut self, responder: &Responder) -> Result<Rc<WorkerConnection>, WireError> {
        loop {
            tokio::select! {
                biased;
                verdict = self.slot.next() => match verdict {
                    Verdict::Run(connection) => return Ok(connection),
                    Verdict::Fail(error) => return Err(error),
                    Verdict::AskCancel => {}
                },
                () = responder.cancelled(), if !self.cancel_told => self.tell_cancel(),
            }
            if self.cancel_told && !self.doer.link.is_registered() {
                return Err(WireError::new(ErrorCode::Cancelled, "the kernel is gone"));
            }
        }
    }

    /// Waits for the worker's answer.
    async fn answered(
        &mut self,
        responder: &Responder,
        mut pending: PendingAnswer,
    ) -> Result<Answer, Ending> {
        loop {
            tokio::select! {
                biased;
                answer = &mut pending => return answer.map_err(Ending::Answered),
                verdict = self.slot.next() => match verdict {
                    Verdict::Fail(error) => return Err(Ending::Failed(error)),
                    Verdict::AskCancel => pending.cancel(),
                    Verdict::Run(_) => unreachable!("a call runs on one worker"),
                },
                () = responder.cancelled(), if !self.cancel_told => self.tell_cancel(),
            }
        }
    }

    /// Passes the worker's answer on; false when the worker was cut off or died over it.
    async fn deliver(&mut self, connection: &WorkerConnection, answer: Answer, responder: Responder) -> bool {
        let reply: InvocationReply = match answer.message.decode_body() {
            Ok(reply) => reply,
            Err(error) => {
                let what = format!("its reply cannot be read: {error}");
                self.doer.dispatch(Event::Misbehaved {
                    worker: connection.worker,
                    what,
                });
                responder.error(self.failure().await);
                return false;
            }
        };
        let Some(source) = answer.stream else {
            responder.reply(&reply, answer.message.raw);
            return true;
        };
        let sink = responder.reply_stream(&reply);
        tokio::select! {
            biased;
            complete = relay_stream(source, sink) => complete || connection.is_open(),
            _failed = failed(self.slot) => false,
        }
    }

    /// The error with which the Worker Handler ends this call; it always does once a worker is gone.
    async fn failure(&self) -> WireError {
        failed(self.slot).await
    }

    fn tell_cancel(&mut self) {
        self.cancel_told = true;
        let task = self.task;
        // Without a Kernel nobody can be answered, and a begun call may end in peace.
        self.doer.dispatch(if self.doer.link.is_registered() {
            Event::Cancelled { task }
        } else {
            Event::Abandoned { task }
        });
    }
}

/// The task that feeds a worker the request's stream; dropped, it ends.
struct Upload(JoinHandle<bool>);

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
}

async fn failed(slot: &CallSlot) -> WireError {
    loop {
        if let Verdict::Fail(error) = slot.next().await {
            return error;
        }
    }
}

/// Sends the call to its worker.
fn start(
    connection: &WorkerConnection,
    message: Message,
    deadline: Option<Instant>,
    stream: Option<StreamReceiver>,
) -> (PendingAnswer, Option<(StreamReceiver, StreamSender)>) {
    let Header {
        process,
        attempt,
        class,
        project,
        principal,
        trace,
        target_doee,
        ..
    } = message.header;
    let mut header = Header::new(Kind::Request, Service::Doer, Service::Worker);
    header.operation = Operation::Invoke as u16;
    header.remaining_us = deadline.map_or(0, |deadline| {
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
        trace,
        target_doee,
        ..header
    };
    let request = Message { header, ..message };
    match stream {
        None => (connection.link().start(request), None),
        Some(source) => {
            let (sink, pending) = connection.link().call_streaming(request);
            (pending, Some((source, sink)))
        }
    }
}

/// Moves a stream on, chunk by chunk, as fast as its sink takes it; true when it came whole.
pub(crate) async fn relay_stream(mut source: StreamReceiver, mut sink: StreamSender) -> bool {
    while let Some(chunk) = source.next().await {
        let Ok(chunk) = chunk else { return false };
        if sink.send(chunk).await.is_err() {
            return false;
        }
    }
    sink.finish();
    true
}

/// A worker may say that its Doee failed; it may not speak for the platform.
fn plausible(error: WireError) -> WireError {
    match error.code {
        ErrorCode::DoeeFailed | ErrorCode::Cancelled | ErrorCode::TimedOut | ErrorCode::TooLarge => error,
        _ => WireError::new(ErrorCode::DoeeFailed, error.message),
    }
}
