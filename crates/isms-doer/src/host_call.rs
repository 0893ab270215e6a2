//! What a Doee asks of other services while it runs a call.
//!
//! The check here is only the first filter: the Kernel fills in whose call it is, and the owner of
//! the resource decides.

use std::rc::Rc;

use isms_ipc::{Answer, InboundRequest, Responder, StreamReceiver};
use isms_protocol::{ErrorCode, Header, Kind, Message, Service, WireError};
use tokio::task::spawn_local;

use crate::{
    call::relay_stream,
    connection::WorkerConnection,
    heard,
    invoke::{self, Outgoing},
    service::Doer,
    worker_handler::Event,
};

/// Takes a worker's host call, or cuts the worker off.
pub(crate) fn accept(doer: &Rc<Doer>, connection: &Rc<WorkerConnection>, request: InboundRequest) {
    let header = request.message.header;
    let worker = connection.worker;
    if let Err(what) = heard::host_call(&header, connection.runs(header.parent, header.attempt)) {
        return doer.dispatch(Event::Misbehaved { worker, what });
    }
    let outgoing = match header.target == Service::Doer {
        true => match invoke::read(&request.message, connection) {
            Ok(outgoing) => Some(outgoing),
            Err(what) => return doer.dispatch(Event::Misbehaved { worker, what }),
        },
        false => None,
    };
    spawn_local(forward(Rc::clone(doer), request, outgoing));
}

async fn forward(doer: Rc<Doer>, request: InboundRequest, outgoing: Option<Outgoing>) {
    let InboundRequest {
        message,
        stream,
        responder,
        ..
    } = request;
    let outcome = tokio::select! {
        biased;
        outcome = ask_of_call(&doer, message, stream, outgoing) => outcome,
        // The call has ended or its worker is gone: the question goes with it.
        () = responder.cancelled() => return,
    };
    match outcome {
        Ok(answer) => relay(responder, answer).await,
        Err(error) => responder.error(error),
    }
}

/// Asks once the Kernel knows the call that asks: one that has just come may not know a durable one yet.
async fn ask_of_call(
    doer: &Rc<Doer>,
    message: Message,
    stream: Option<StreamReceiver>,
    outgoing: Option<Outgoing>,
) -> Result<Answer, WireError> {
    let durable = doer.state.borrow().durables.get(message.header.parent);
    if let Some(durable) = durable
        && !durable.is_known(&doer.link).await
    {
        let error = "the kernel is not reachable at the moment, or the call is not wanted any more";
        return Err(WireError::new(ErrorCode::Unavailable, error));
    }
    match outgoing {
        Some(outgoing) => invoke::make(doer, outgoing, message, stream).await,
        None => ask(doer, message, stream).await,
    }
}

async fn ask(doer: &Doer, message: Message, stream: Option<StreamReceiver>) -> Result<Answer, WireError> {
    let Header {
        target,
        operation,
        parent,
        attempt,
        class,
        remaining_us,
        trace,
        ..
    } = message.header;
    let header = Header {
        operation,
        parent,
        attempt,
        class,
        remaining_us,
        trace,
        ..Header::new(Kind::Request, Service::Doer, target)
    };
    let request = Message { header, ..message };
    let Some(mut source) = stream else {
        return doer.link.call(request).await;
    };
    let (sink, pending) = doer.link.call_streaming(request);
    tokio::pin!(pending);
    // It owns the source, since what comes after the relay has ended is to be thrown away.
    let relay = async move { relay_stream(&mut source, sink).await };
    tokio::select! {
        biased;
        answer = &mut pending => answer,
        _ = relay => pending.await,
    }
}

async fn relay(responder: Responder, answer: Answer) {
    match answer.stream {
        None => responder.reply_encoded(answer.message.body, answer.message.raw),
        Some(mut source) => {
            let sink = responder.reply_stream_encoded(answer.message.body);
            relay_stream(&mut source, sink).await;
        }
    }
}
