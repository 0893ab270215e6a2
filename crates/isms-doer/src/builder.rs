//! Builds: each in a builder sandbox of its own, which is gone afterwards.

use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc, time::Duration};

use isms_ipc::{Answer, InboundRequest};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    doer::{Build, BuildReply, Operation},
    limits::ARTIFACT_LEN_MAX,
};
use isms_sandbox::spawner::{Environment, Request};
use tokio::sync::{Semaphore, oneshot};

use crate::{connection::attach, service::Doer};

/// Builders share the spawner's numbers with workers; this bit tells them apart.
const BUILDER_BIT: u64 = 1 << 63;

/// True for a builder's number.
pub(crate) fn is_builder(worker: u64) -> bool {
    worker & BUILDER_BIT != 0
}

/// The builders under way.
pub(crate) struct Builders {
    next: u64,
    starting: HashMap<u64, oneshot::Sender<Result<Started, String>>>,
    running: HashMap<u64, oneshot::Sender<String>>,
    permits: Rc<Semaphore>,
}

struct Started {
    data: OwnedFd,
    /// Kept open: a builder whose output nobody reads would be stopped by SIGPIPE.
    _others: Vec<OwnedFd>,
    ended: oneshot::Receiver<String>,
}

impl Builders {
    pub(crate) fn new(builds_max: usize) -> Builders {
        Builders {
            next: BUILDER_BIT,
            starting: HashMap::new(),
            running: HashMap::new(),
            permits: Rc::new(Semaphore::new(builds_max)),
        }
    }
}

/// The spawner has started a builder.
pub(crate) fn started(doer: &Rc<Doer>, builder: u64, pid: u32, mut descriptors: Vec<OwnedFd>) {
    tracing::debug!(pid, "a builder started");
    let mut state = doer.state.borrow_mut();
    let Some(sender) = state.builders.starting.remove(&builder) else {
        return;
    };
    let (end, ended) = oneshot::channel();
    state.builders.running.insert(builder, end);
    if descriptors.len() == 3 {
        let data = descriptors.remove(1);
        let _ = sender.send(Ok(Started {
            data,
            _others: descriptors,
            ended,
        }));
    }
}

/// A builder could not start, or has ended.
pub(crate) fn failed(doer: &Rc<Doer>, builder: u64, how: String) {
    let mut state = doer.state.borrow_mut();
    if let Some(sender) = state.builders.starting.remove(&builder) {
        let _ = sender.send(Err(how));
    } else if let Some(sender) = state.builders.running.remove(&builder) {
        let _ = sender.send(how);
    }
}

/// Serves a request to build a Doee.
pub(crate) async fn serve(doer: Rc<Doer>, mut request: InboundRequest) {
    let outcome = match receive(&mut request).await {
        Ok((build, source)) => tokio::select! {
            outcome = build_one(&doer, &build, source) => outcome,
            () = request.responder.cancelled() => return,
        },
        Err(error) => Err(error),
    };
    match outcome {
        Ok((reply, artifact)) => {
            let _ = request.responder.reply_payload(&reply, artifact).await;
        }
        Err(error) => request.responder.error(error),
    }
}

async fn receive(request: &mut InboundRequest) -> Result<(Build, bytes::Bytes), WireError> {
    let build = request
        .message
        .decode_body()
        .map_err(|error| WireError::new(ErrorCode::Invalid, format!("the build cannot be read: {error}")))?;
    Ok((build, request.payload(ARTIFACT_LEN_MAX as usize).await?))
}

async fn build_one(
    doer: &Rc<Doer>,
    build: &Build,
    source: bytes::Bytes,
) -> Result<(BuildReply, bytes::Bytes), WireError> {
    let permits = Rc::clone(&doer.state.borrow().builders.permits);
    let _permit = permits.acquire().await.expect("the semaphore is never closed");
    let limit = Duration::from_secs(doer.config.build_s.into());
    let running = Running::start(doer, build.network).await?;
    tokio::time::timeout(limit, running.build(build, source))
        .await
        .unwrap_or_else(|_| {
            Err(WireError::new(
                ErrorCode::BuildFailed,
                format!("building {} took longer than {} s", build.doee, limit.as_secs()),
            ))
        })
}

/// A started builder; dropped, it is killed.
struct Running {
    doer: Rc<Doer>,
    builder: u64,
    started: Started,
}

impl Running {
    async fn start(doer: &Rc<Doer>, network: bool) -> Result<Running, WireError> {
        let (sender, receiver) = oneshot::channel();
        let builder = {
            let mut state = doer.state.borrow_mut();
            let builder = state.builders.next;
            state.builders.next += 1;
            state.builders.starting.insert(builder, sender);
            builder
        };
        let unavailable = |message: String| WireError::new(ErrorCode::Unavailable, message);
        let limits = doer.config.build_limits();
        let mut environment = Environment::BUILDER;
        environment.holes.network = network;
        doer.spawner
            .send(&Request::Spawn {
                worker: builder,
                environment,
                limits,
            })
            .map_err(|error| unavailable(format!("cannot ask for a builder: {error}")))?;
        let started = receiver
            .await
            .unwrap_or_else(|_| Err("the spawner's answer was incomplete".to_owned()))
            .map_err(unavailable)?;
        Ok(Running {
            doer: Rc::clone(doer),
            builder,
            started,
        })
    }

    async fn build(
        mut self,
        build: &Build,
        source: bytes::Bytes,
    ) -> Result<(BuildReply, bytes::Bytes), WireError> {
        let unavailable = |error: String| WireError::new(ErrorCode::Unavailable, error);
        let data = self
            .started
            .data
            .try_clone()
            .map_err(|error| unavailable(error.to_string()))?;
        // A builder asks nothing.
        let (link, _inbox) = attach(data, 0)
            .await
            .map_err(|error| unavailable(format!("the builder: {error}")))?;
        let mut header = Header::new(Kind::Request, Service::Doer, Service::Worker);
        header.operation = Operation::Build as u16;
        let conversation = async {
            let answer: Answer = link
                .call_payload(Message::with_body(header, build), source)
                .await?;
            let reply: BuildReply = answer.message.decode_body().map_err(|error| {
                WireError::new(
                    ErrorCode::BuildFailed,
                    format!("the builder's answer cannot be read: {error}"),
                )
            })?;
            let artifact = answer.payload(ARTIFACT_LEN_MAX as usize).await?;
            Ok::<_, WireError>((reply, artifact))
        };
        let lost = match conversation.await {
            Ok(built) => return Ok(built),
            Err(error) if error.code == ErrorCode::Unavailable => error,
            Err(error) => return Err(plausible(error)),
        };
        // How a builder ended says more than that its connection did.
        match tokio::time::timeout(Duration::from_millis(500), &mut self.started.ended).await {
            Ok(Ok(how)) => Err(WireError::new(
                ErrorCode::BuildFailed,
                format!("{how} while it built {}", build.doee),
            )),
            _ => Err(lost),
        }
    }
}

/// A builder may say what is wrong with the source, or with itself; it may not speak for the platform.
fn plausible(error: WireError) -> WireError {
    match error.code {
        ErrorCode::Invalid | ErrorCode::TooLarge | ErrorCode::BuildFailed => error,
        _ => WireError::new(ErrorCode::BuildFailed, error.message),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.doer
            .state
            .borrow_mut()
            .builders
            .running
            .remove(&self.builder);
        if let Err(error) = self.doer.spawner.send(&Request::Kill { worker: self.builder }) {
            tracing::error!(%error, "the spawner could not be asked to kill a builder");
        }
    }
}
