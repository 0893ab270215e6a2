//! Resadmin as a role: takes requests from the Kernel and sends back what [`Service`] answers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use isms_ipc::{Inbound, InboundRequest, Link, LinkOptions, Responder, StreamReceiver};
use isms_protocol::{
    ErrorCode, Message, WireError,
    limits::DRAIN_TIMEOUT,
    resadmin::{DeployEvent, ImageState, Operation},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    Begun, Config, OpenError, PeerAnswer, PeerRequest, Reply, Service,
    config::{ARCHIVES_MAX, IMAGES_SWEPT_EVERY, UPLOAD_SILENCE_MAX},
};

/// Requests to other services that may wait to be sent.
const PEER_REQUESTS_WAITING: usize = 16;

/// Why Resadmin ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start.
    #[error("resadmin cannot start")]
    Open(#[from] OpenError),
}

/// Serves until `shutdown` turns true and what was begun has ended.
pub async fn run(
    config: Config,
    link: LinkOptions,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let (requests, mut peer_requests) = mpsc::channel(PEER_REQUESTS_WAITING);
    let link = LinkOptions {
        concurrency: config.concurrency,
        ..link
    };
    let service = Arc::new(Service::open(config, requests, Arc::new(unix_time_s)).await?);
    let (link, mut inbox) = Link::open(link);
    let archives = Arc::new(Semaphore::new(ARCHIVES_MAX));
    let mut tasks = JoinSet::new();
    let changed = Arc::new(Notify::new());
    tasks.spawn(keep_expanding(service.clone(), changed.clone(), shutdown.clone()));
    let mut sweep = tokio::time::interval(IMAGES_SWEPT_EVERY);
    loop {
        tokio::select! {
            inbound = inbox.next() => match inbound {
                Some(Inbound::Request(request)) if is_upload(&request) => {
                    tasks.spawn(take_image(service.clone(), request));
                }
                Some(Inbound::Request(request)) => {
                    tasks.spawn(answer(service.clone(), archives.clone(), request));
                }
                Some(Inbound::Registered(_)) => {
                    changed.notify_one();
                    tasks.spawn(tell_settings(service.clone()));
                    tasks.spawn(resume_deletions(service.clone()));
                }
                Some(_) => {}
                None => break,
            },
            Some(request) = peer_requests.recv() => drop(tasks.spawn(ask(link.clone(), request))),
            _ = sweep.tick() => drop(tasks.spawn(sweep_images(service.clone()))),
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    drain(&mut tasks, &link, &mut peer_requests).await;
    link.close().await;
    Ok(())
}

/// Lets what was begun end, for as long as the drain time; what a deployment has not recorded by then
/// has not happened.
async fn drain(tasks: &mut JoinSet<()>, link: &Link, peer_requests: &mut mpsc::Receiver<PeerRequest>) {
    let until = Instant::now() + DRAIN_TIMEOUT;
    while !tasks.is_empty() {
        tokio::select! {
            _ = tasks.join_next() => {}
            Some(request) = peer_requests.recv() => drop(tasks.spawn(ask(link.clone(), request))),
            () = tokio::time::sleep_until(until) => {
                tracing::warn!(requests = tasks.len(), "drain time passed, requests were given up");
                return tasks.shutdown().await;
            }
        }
    }
}

async fn answer(service: Arc<Service>, archives: Arc<Semaphore>, mut request: InboundRequest) {
    let header = request.message.header;
    let mut permit = None;
    if header.operation == Operation::Deploy as u16 {
        permit = archives.try_acquire().ok();
        if permit.is_none() {
            let message = format!("{ARCHIVES_MAX} deployments are going on; try again later");
            return request.responder.error(WireError::new(ErrorCode::Busy, message));
        }
    }
    let payload = request.payload(Service::payload_len_max(&header)).await;
    let InboundRequest {
        message, responder, ..
    } = request;
    // A request that changes something is not broken off: what it began is to end consistently.
    let answered = async { service.handle(&header, &message.body, payload?).await }.await;
    match answered {
        Ok(Reply::Body(body)) => responder.reply_encoded(body, Bytes::new()),
        Ok(Reply::Payload(payload)) => {
            if let Err(error) = responder.reply_payload(&(), payload).await {
                tracing::debug!(process = %header.process, code = error.code.name(), "reply was not taken");
            }
        }
        Ok(Reply::Events(events)) => send_events(responder, events).await,
        Err(error) => {
            tracing::debug!(process = %header.process, code = error.code.name(), "request failed");
            responder.error(error);
        }
    }
    drop(permit);
}

/// Sends each event as a line of JSON. When nobody takes them, the deployment learns it by its channel.
async fn send_events(responder: Responder, mut events: mpsc::Receiver<DeployEvent>) {
    let process = responder.header().process;
    let mut stream = responder.reply_stream(&());
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            // A build may go on for long without a word, and nobody waits for it any more.
            _ = stream.refused() => return tracing::debug!(%process, "deployment lost its caller"),
        };
        let Some(event) = event else { break };
        let mut line = serde_json::to_vec(&event).unwrap_or_else(|_| unreachable!("an event is plain JSON"));
        line.push(b'\n');
        if stream.send(line.into()).await.is_err() {
            tracing::debug!(%process, "deployment lost its caller");
            return;
        }
    }
    stream.finish();
}

fn is_upload(request: &InboundRequest) -> bool {
    request.message.header.operation == Operation::UploadImage as u16
}

/// Takes in the bytes of an image as they come.
async fn take_image(service: Arc<Service>, request: InboundRequest) {
    let InboundRequest {
        message,
        stream,
        responder,
        ..
    } = request;
    match receive_image(&service, message, stream, &responder).await {
        Ok(state) => responder.reply(&state, Bytes::new()),
        Err(error) => {
            tracing::debug!(process = %responder.header().process, code = error.code.name(), "upload failed");
            responder.error(error);
        }
    }
}

async fn receive_image(
    service: &Service,
    message: Message,
    stream: Option<StreamReceiver>,
    responder: &Responder,
) -> Result<ImageState, WireError> {
    let mut upload = match service.begin_upload(&message.header, &message.body).await? {
        Begun::Complete(state) => return Ok(state),
        Begun::Open(upload) => upload,
    };
    upload.write(&message.raw).await?;
    let Some(mut stream) = stream else {
        return upload.finish().await;
    };
    let broken = loop {
        let next = tokio::select! {
            next = timeout(UPLOAD_SILENCE_MAX, stream.next()) => next,
            () = responder.cancelled() => break WireError::new(ErrorCode::Cancelled, "the upload was cancelled"),
        };
        match next {
            Ok(Some(Ok(bytes))) => upload.write(&bytes).await?,
            Ok(Some(Err(error))) => break error,
            Ok(None) => return upload.finish().await,
            Err(_) => {
                let message = format!(
                    "no byte came for {} s; what has come is kept, go on behind it",
                    UPLOAD_SILENCE_MAX.as_secs()
                );
                break WireError::new(ErrorCode::TimedOut, message);
            }
        }
    };
    upload.keep().await?;
    Err(broken)
}

async fn sweep_images(service: Arc<Service>) {
    if let Err(error) = service.sweep_images().await {
        tracing::warn!(error = %error, "images that nothing needs could not be removed, the next sweep tries again");
    }
}

async fn tell_settings(service: Arc<Service>) {
    if let Err(error) = service.tell_settings().await {
        tracing::warn!(error = %error, "the Kernel did not take the settings of projects, it has defaults until it registers this service again");
    }
}

/// The first pause after schedules could not be expanded, and the longest.
const EXPAND_PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// Schedules are looked at this often at least, since the machine's clock may be set.
const EXPAND_EVERY: Duration = Duration::from_secs(60);

/// Expands schedules when a run is due, when a deployment has changed them, and when the Kernel is back.
async fn keep_expanding(service: Arc<Service>, registered: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
    // Nobody can be told before.
    tokio::select! {
        () = registered.notified() => {}
        _ = shutdown.wait_for(|stop| *stop) => return,
    }
    let (mut is_start, mut pause) = (true, EXPAND_PAUSES[0]);
    loop {
        let wait = match service.expand_schedules(is_start).await {
            Ok(next) => {
                (is_start, pause) = (false, EXPAND_PAUSES[0]);
                next.map_or(EXPAND_EVERY, until).min(EXPAND_EVERY)
            }
            Err(_) => {
                let wait = pause;
                pause = (2 * pause).min(EXPAND_PAUSES[1]);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = service.schedules_changed() => {}
            () = registered.notified() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// How long it is until a time in s since 1970.
fn until(due_s: u64) -> Duration {
    let due = UNIX_EPOCH.checked_add(Duration::from_secs(due_s));
    let left = due.and_then(|due| due.duration_since(SystemTime::now()).ok());
    // A little later, so that the clock has reached it.
    left.unwrap_or_default() + Duration::from_millis(5)
}

async fn resume_deletions(service: Arc<Service>) {
    if let Err(error) = service.resume_deletions().await {
        tracing::warn!(error = %error, "deletion of a project could not be finished, the next start tries again");
    }
}

/// Carries a request to another service and its answer back; gives it up when nobody waits any more.
async fn ask(link: Link, request: PeerRequest) {
    let PeerRequest {
        message,
        payload,
        answer_len_max,
        mut answer,
    } = request;
    let asked = async {
        let reply = link.call_payload(message, payload).await?;
        let body = reply.message.body.clone();
        let process = reply.message.header.process;
        Ok(PeerAnswer {
            process,
            body,
            payload: reply.payload(answer_len_max).await?,
        })
    };
    tokio::select! {
        result = asked => drop(answer.send(result)),
        () = answer.closed() => {}
    }
}

fn unix_time_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
