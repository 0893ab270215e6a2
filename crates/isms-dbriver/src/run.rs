//! DBriver as a role: takes requests from the Kernel and sends back what [`Service`] answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use isms_ipc::{Inbound, InboundRequest, Link, LinkOptions};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service as Role, WireError, dbriver::Grants, limits::DRAIN_TIMEOUT,
    resadmin,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Config, GrantsRequest, OpenError, Service,
    uploads::{UPLOAD_TIME_MAX, Uploads},
};

/// How often idle databases are looked for.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Time for Resadmin to tell the grants of a version.
const GRANTS_TIME_MAX: Duration = Duration::from_secs(5);
/// Grants that may be asked for at the same time.
const GRANTS_ASKED_MAX: usize = 64;

/// Why DBriver ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start.
    #[error("dbriver cannot start")]
    Open(#[from] OpenError),
}

/// Serves until `shutdown` turns true and what was begun has ended.
pub async fn run(
    config: Config,
    link: LinkOptions,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let (requests, mut grants_asked) = mpsc::channel(GRANTS_ASKED_MAX);
    let link = LinkOptions {
        concurrency: config.concurrency,
        ..link
    };
    let service = Arc::new(Service::open(config, requests)?);
    let (link, mut inbox) = Link::open(link);
    let mut tasks = JoinSet::new();
    let uploads = Uploads::default();
    let mut idle_check = tokio::time::interval(IDLE_CHECK_INTERVAL);
    loop {
        tokio::select! {
            inbound = inbox.next() => match inbound {
                Some(Inbound::Request(request)) => drop(tasks.spawn(answer(service.clone(), uploads.clone(), request))),
                Some(_) => {}
                None => break,
            },
            Some(request) = grants_asked.recv() => drop(tasks.spawn(ask_grants(link.clone(), request))),
            _ = idle_check.tick() => {
                let service = service.clone();
                tasks.spawn(async move { service.close_idle().await });
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    drain(&mut tasks, &link, &mut grants_asked).await;
    service.close().await;
    link.close().await;
    Ok(())
}

/// Lets what was begun end, for as long as the drain time.
async fn drain(tasks: &mut JoinSet<()>, link: &Link, grants_asked: &mut mpsc::Receiver<GrantsRequest>) {
    let until = Instant::now() + DRAIN_TIMEOUT;
    while !tasks.is_empty() {
        tokio::select! {
            _ = tasks.join_next() => {}
            Some(request) = grants_asked.recv() => drop(tasks.spawn(ask_grants(link.clone(), request))),
            () = tokio::time::sleep_until(until) => {
                tracing::warn!(requests = tasks.len(), "drain time passed, requests were given up");
                return tasks.shutdown().await;
            }
        }
    }
}

async fn answer(service: Arc<Service>, uploads: Uploads, mut request: InboundRequest) {
    let mut header = request.message.header;
    let body = request.message.body.clone();
    let payload = receive(&uploads, &mut request).await;
    let InboundRequest {
        deadline, responder, ..
    } = request;
    if let Some(deadline) = deadline {
        // A stream takes its time, and 0 would mean that there is no deadline.
        let left = deadline
            .saturating_duration_since(std::time::Instant::now())
            .as_micros();
        header.remaining_us = u64::try_from(left).unwrap_or(u64::MAX).max(1);
    }
    let handled = async { service.handle(&header, &body, payload?).await };
    let answered = tokio::select! {
        answered = handled => answered,
        () = responder.cancelled() => Err(WireError::new(ErrorCode::Cancelled, "the call was cancelled")),
    };
    match answered {
        Ok(payload) if payload.is_empty() => responder.reply_empty(),
        Ok(payload) => {
            if let Err(error) = responder.reply_payload(&(), payload).await {
                tracing::debug!(process = %header.process, code = error.code.name(), "reply was not taken");
            }
        }
        Err(error) => {
            tracing::debug!(process = %header.process, code = error.code.name(), "request failed");
            responder.error(error);
        }
    }
}

/// Takes the payload. One that comes as a stream has a time of its own, and only so many of a project come at once.
async fn receive(uploads: &Uploads, request: &mut InboundRequest) -> Result<Bytes, WireError> {
    let header = request.message.header;
    let _upload = match request.stream {
        Some(_) => Some(uploads.begin(header.project)?),
        None => None,
    };
    let payload = request.payload(Service::payload_len_max(&header));
    tokio::time::timeout(UPLOAD_TIME_MAX, payload)
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "the transaction did not arrive within {} s",
                UPLOAD_TIME_MAX.as_secs()
            );
            Err(WireError::new(ErrorCode::TimedOut, message))
        })
}

async fn ask_grants(link: Link, request: GrantsRequest) {
    let mut header = Header::new(Kind::Request, Role::Dbriver, Role::Resadmin);
    header.operation = resadmin::Operation::Grants as u16;
    header.project = request.project;
    header.target_doee = request.version;
    header.remaining_us = u64::try_from(GRANTS_TIME_MAX.as_micros()).unwrap_or(u64::MAX);
    let answer = link.call(Message::bare(header)).await.and_then(|answer| {
        answer.message.decode_body::<Grants>().map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "grants could not be decoded"
            );
            WireError::new(ErrorCode::Internal, "the function's grants cannot be decoded")
        })
    });
    request.answer.send(answer).ok();
}
