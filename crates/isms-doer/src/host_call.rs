//! What a Doee asks of other services while it runs a call.
//!
//! The check here is only the first filter: the Kernel fills in whose call it is, and the owner of
//! the resource decides.

use std::rc::Rc;

use isms_ipc::{Answer, InboundRequest, Responder, StreamReceiver};
use isms_protocol::{ErrorCode, Header, Kind, Message, Service, WireError, commserver, dbriver};
use tokio::task::spawn_local;

use crate::{call::relay_stream, connection::WorkerConnection, service::Doer, worker_handler::Event};

/// All that a Doee may ask for.
const ALLOWED: [(Service, u16); 2] = [
    (Service::Dbriver, dbriver::Operation::Transaction as u16),
    (Service::Commserver, commserver::Operation::Fetch as u16),
];

/// Takes a worker's host call, or cuts the worker off.
pub(crate) fn accept(doer: &Rc<Doer>, connection: &WorkerConnection, request: InboundRequest) {
    let header = request.message.header;
    let worker = connection.worker;
    if !connection.runs(header.parent, header.attempt) {
        let what = "it asked on behalf of a call that it does not run".to_owned();
        return doer.dispatch(Event::Misbehaved { worker, what });
    }
    if !ALLOWED.contains(&(header.target, header.operation)) {
        let message = format!(
            "a Doee cannot ask {} for operation {}",
            header.target, header.operation
        );
        return request
            .responder
            .error(WireError::new(ErrorCode::Forbidden, message));
    }
    spawn_local(forward(Rc::clone(doer), request));
}

async fn forward(doer: Rc<Doer>, request: InboundRequest) {
    let InboundRequest {
        message,
        stream,
        responder,
        ..
    } = request;
    let outcome = tokio::select! {
        biased;
        outcome = ask(&doer, message, stream) => outcome,
        // The call has ended or its worker is gone: the question goes with it.
        () = responder.cancelled() => return,
    };
    match outcome {
        Ok(answer) => relay(responder, answer).await,
        Err(error) => responder.error(error),
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
    let Some(source) = stream else {
        return doer.link.call(request).await;
    };
    let (sink, pending) = doer.link.call_streaming(request);
    tokio::pin!(pending);
    tokio::select! {
        biased;
        answer = &mut pending => answer,
        _ = relay_stream(source, sink) => pending.await,
    }
}

async fn relay(responder: Responder, answer: Answer) {
    match answer.stream {
        None => responder.reply_encoded(answer.message.body, answer.message.raw),
        Some(source) => {
            let sink = responder.reply_stream_encoded(answer.message.body);
            relay_stream(source, sink).await;
        }
    }
}
