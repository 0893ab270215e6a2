//! Requests that Resadmin makes of other services. They leave through a channel as messages, so that
//! everything but the link to the Kernel itself runs in a test.

use std::time::Duration;

use bytes::Bytes;
use isms_protocol::{
    Class, DecodeError, DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProcessId, ProjectId, Service,
    WireError, commserver,
    commserver::ProjectRoutes,
    dbriver::{self, Prepare, Prepared},
    doer::{self, Build, BuildReply, Environment},
    encode,
    kernel::{self, DoeeRates, DoeeRetries, ProcessQuestion, ProcessState, ProjectSettings},
    limits::ARTIFACT_LEN_MAX,
};
use tokio::sync::{mpsc, oneshot};

use crate::config::{
    BUILD_TIME_MAX, DROP_TIME_MAX, PREPARE_TIME_MAX, RETIRE_TIME_MAX, ROUTES_TIME_MAX, SETTINGS_TIME_MAX,
    TRY_TIME_MAX,
};

/// Bytes of an encoded [`Prepared`], with room to grow.
const PREPARED_LEN_MAX: usize = 256;

/// A request to another service. Whoever takes it answers once; a dropped answer reads as `Unavailable`,
/// a closed one means that nobody waits any more.
#[derive(Debug)]
pub struct PeerRequest {
    /// Header and body.
    pub message: Message,
    /// Its payload, of any length.
    pub payload: Bytes,
    /// The longest payload that the answer may have.
    pub answer_len_max: usize,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<PeerAnswer, WireError>>,
}

/// What another service answered.
#[derive(Clone, Debug, Default)]
pub struct PeerAnswer {
    /// The body of its reply.
    pub body: Bytes,
    /// The payload of its reply, collected.
    pub payload: Bytes,
    /// The process that the reply names.
    pub process: ProcessId,
}

/// The way to the other services.
#[derive(Clone)]
pub(crate) struct Peers {
    requests: mpsc::Sender<PeerRequest>,
}

impl Peers {
    pub(crate) fn new(requests: mpsc::Sender<PeerRequest>) -> Peers {
        Peers { requests }
    }

    /// Has the Doer build a source tree; returns what the compiler said and the binary, if there is one.
    pub(crate) async fn build(
        &self,
        project: ProjectId,
        build: &Build,
        sources: Bytes,
    ) -> Result<(BuildReply, Bytes), WireError> {
        let header = root_header(
            project,
            Service::Doer,
            doer::Operation::Build as u16,
            BUILD_TIME_MAX,
        );
        let message = Message::with_body(header, build);
        let answer = self.ask(message, sources, ARTIFACT_LEN_MAX as usize).await?;
        let reply = isms_protocol::decode(&answer.body).map_err(|error| undecodable("doer", &error))?;
        Ok((reply, answer.payload))
    }

    /// Has the Doer start a worker of an environment once.
    pub(crate) async fn try_environment(
        &self,
        project: ProjectId,
        environment: &Environment,
    ) -> Result<(), WireError> {
        let operation = doer::Operation::TryEnvironment as u16;
        let header = root_header(project, Service::Doer, operation, TRY_TIME_MAX);
        self.ask(Message::with_body(header, environment), Bytes::new(), 0)
            .await
            .map(drop)
    }

    /// Has DBriver bring a database up to date.
    pub(crate) async fn prepare(&self, project: ProjectId, prepare: &Prepare) -> Result<Prepared, WireError> {
        let header = root_header(
            project,
            Service::Dbriver,
            dbriver::Operation::Prepare as u16,
            PREPARE_TIME_MAX,
        );
        let answer = self
            .ask(Message::bare(header), encode(prepare).into(), PREPARED_LEN_MAX)
            .await?;
        isms_protocol::decode(&answer.payload).map_err(|error| undecodable("dbriver", &error))
    }

    /// Has DBriver delete a project's databases.
    pub(crate) async fn drop_databases(&self, project: ProjectId) -> Result<(), WireError> {
        let header = root_header(
            project,
            Service::Dbriver,
            dbriver::Operation::Drop as u16,
            DROP_TIME_MAX,
        );
        self.ask(Message::bare(header), Bytes::new(), 0).await.map(drop)
    }

    /// Gives CommServer a project's routes. One that is not there asks for them when it starts.
    pub(crate) async fn set_routes(
        &self,
        project: ProjectId,
        routes: &ProjectRoutes,
    ) -> Result<(), WireError> {
        let header = root_header(
            project,
            Service::Commserver,
            commserver::Operation::SetRoutes as u16,
            ROUTES_TIME_MAX,
        );
        match self.ask(Message::bare(header), encode(routes).into(), 0).await {
            Err(error) if error.code == ErrorCode::Unavailable => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Has the Doer forget a version. A failure harms nobody: its workers end when they are idle.
    pub(crate) async fn retire(&self, project: ProjectId, version: DoeeVersion) {
        let mut header = root_header(
            project,
            Service::Doer,
            doer::Operation::Retire as u16,
            RETIRE_TIME_MAX,
        );
        header.target_doee = version;
        if let Err(error) = self.ask(Message::bare(header), Bytes::new(), 0).await {
            tracing::warn!(%version, error = %error, "version was not retired");
        }
    }

    /// Has the Doer start the workers that a version keeps. One that is not there asks when it starts.
    pub(crate) async fn keep(&self, project: ProjectId, version: DoeeVersion) {
        let operation = doer::Operation::Keep as u16;
        let mut header = root_header(project, Service::Doer, operation, RETIRE_TIME_MAX);
        header.target_doee = version;
        if let Err(error) = self.ask(Message::bare(header), Bytes::new(), 0).await {
            tracing::warn!(%version, error = %error, "version's workers start when it is called");
        }
    }

    /// Tells the Doer that names of a project may stand for other versions. One that is not there remembers nothing.
    pub(crate) async fn deployed(&self, project: ProjectId) {
        let operation = doer::Operation::Deployed as u16;
        let header = root_header(project, Service::Doer, operation, RETIRE_TIME_MAX);
        if let Err(error) = self.ask(Message::bare(header), Bytes::new(), 0).await {
            tracing::warn!(%project, %error, "the doer was not told of a deployment");
        }
    }

    /// Tells the Kernel what a project gets. One that is not there is told when it is back.
    pub(crate) async fn set_project(
        &self,
        project: ProjectId,
        settings: &ProjectSettings,
    ) -> Result<(), WireError> {
        let operation = kernel::Operation::SetProject as u16;
        let header = root_header(project, Service::Kernel, operation, SETTINGS_TIME_MAX);
        match self
            .ask(Message::with_body(header, settings), Bytes::new(), 0)
            .await
        {
            Err(error) if error.code == ErrorCode::Unavailable => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Tells the Kernel how many calls of a project's Doees are accepted. One that is not there is told when it is
    /// back.
    pub(crate) async fn set_rates(&self, project: ProjectId, rates: &DoeeRates) -> Result<(), WireError> {
        let operation = kernel::Operation::SetRates as u16;
        let header = root_header(project, Service::Kernel, operation, SETTINGS_TIME_MAX);
        match self.ask(Message::with_body(header, rates), Bytes::new(), 0).await {
            Err(error) if error.code == ErrorCode::Unavailable => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Tells the Kernel what becomes of asynchronous calls of a project's Doees. One that is not there is told when it
    /// is back.
    pub(crate) async fn set_retries(
        &self,
        project: ProjectId,
        retries: &DoeeRetries,
    ) -> Result<(), WireError> {
        let operation = kernel::Operation::SetRetries as u16;
        let header = root_header(project, Service::Kernel, operation, SETTINGS_TIME_MAX);
        match self
            .ask(Message::with_body(header, retries), Bytes::new(), 0)
            .await
        {
            Err(error) if error.code == ErrorCode::Unavailable => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Has the Kernel stop and forget all calls of a project that is deleted. Unlike with settings, a Kernel that is
    /// not there must be told before the deletion may count as done.
    pub(crate) async fn forget_project(&self, project: ProjectId) -> Result<(), WireError> {
        let operation = kernel::Operation::ForgetProject as u16;
        let header = root_header(project, Service::Kernel, operation, SETTINGS_TIME_MAX);
        self.ask(Message::bare(header), Bytes::new(), 0).await.map(drop)
    }

    /// Gives the Kernel a durable call for later; `front` is its key and its time, as they stand before its payload.
    /// It has no deadline, since its time is counted from its run on, and that is the Doee's own limit.
    pub(crate) async fn invoke_later(
        &self,
        project: ProjectId,
        (version, class): (DoeeVersion, Class),
        invocation: Vec<u8>,
        front: Vec<u8>,
    ) -> Result<ProcessId, WireError> {
        let header = Header {
            flags: Flags::ASYNC
                .with(Flags::DURABLE)
                .with(Flags::KEYED)
                .with(Flags::LATER),
            class,
            target_doee: version,
            ..root_header(
                project,
                Service::Doer,
                doer::Operation::Invoke as u16,
                Duration::ZERO,
            )
        };
        let message = Message {
            body: invocation.into(),
            ..Message::bare(header)
        };
        let answer = self.ask(message, front.into(), 0).await?;
        Ok(answer.process)
    }

    /// How far an asynchronous call is.
    pub(crate) async fn process(
        &self,
        project: ProjectId,
        process: ProcessId,
    ) -> Result<ProcessState, WireError> {
        self.ask_about(project, process, kernel::Operation::Process).await
    }

    /// Cancels an asynchronous call.
    pub(crate) async fn cancel(
        &self,
        project: ProjectId,
        process: ProcessId,
    ) -> Result<ProcessState, WireError> {
        self.ask_about(project, process, kernel::Operation::Cancel).await
    }

    async fn ask_about(
        &self,
        project: ProjectId,
        process: ProcessId,
        operation: kernel::Operation,
    ) -> Result<ProcessState, WireError> {
        let header = root_header(project, Service::Kernel, operation as u16, SETTINGS_TIME_MAX);
        let question = ProcessQuestion {
            process,
            wait_ms: 0,
            any_principal: false,
        };
        let answer = self
            .ask(Message::with_body(header, &question), Bytes::new(), 0)
            .await?;
        isms_protocol::decode(&answer.body).map_err(|error| undecodable("kernel", &error))
    }

    async fn ask(
        &self,
        message: Message,
        payload: Bytes,
        answer_len_max: usize,
    ) -> Result<PeerAnswer, WireError> {
        let target = message.header.target;
        let unavailable = || {
            WireError::new(
                ErrorCode::Unavailable,
                format!("{target} cannot be asked for now"),
            )
        };
        let (answer, answered) = oneshot::channel();
        let request = PeerRequest {
            message,
            payload,
            answer_len_max,
            answer,
        };
        self.requests.send(request).await.map_err(|_| unavailable())?;
        answered.await.map_err(|_| unavailable())?
    }
}

/// The header of a request that Resadmin makes for a project. It names no principal: only edges vouch
/// for one, and Resadmin has checked this one's rights itself.
fn root_header(project: ProjectId, target: Service, operation: u16, time: Duration) -> Header {
    let mut header = Header::new(Kind::Request, Service::Resadmin, target);
    header.operation = operation;
    header.project = project;
    header.remaining_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    header
}

fn undecodable(who: &str, error: &DecodeError) -> WireError {
    tracing::error!(
        service = who,
        error = error as &dyn std::error::Error,
        "answer could not be decoded"
    );
    WireError::new(
        ErrorCode::Internal,
        format!("the answer of {who} cannot be decoded"),
    )
}
