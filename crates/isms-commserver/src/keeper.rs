//! Hears the Kernel. Keeps the route table true: takes what deployments push, and pulls everything from
//! Resadmin after each registration, until it has succeeded once. Hands requests to servers outside on.

use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use isms_ipc::{Inbound, InboundRequest, Inbox, Link};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, ProjectId, Service, WireError,
    commserver::{Operation, ProjectRoutes},
    decode,
    resadmin::{self, ProjectSummary, Projects},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    egress::Egress,
    table::{PROJECTS_MAX, RouteTable},
};

/// Bytes of one project's routes.
const ROUTES_LEN_MAX: usize = 4 * 1024 * 1024;
/// How long Resadmin may take for one answer, and a pushing service for its stream.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to pull: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

type Pull = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs until the link is closed.
pub(crate) async fn keep(mut inbox: Inbox, link: Link, table: Arc<RouteTable>, egress: Arc<Egress>) {
    let mut pull: Option<Pull> = None;
    // They end with the link at the latest: without it nobody wants their answers.
    let mut fetches = JoinSet::new();
    loop {
        let inbound = tokio::select! {
            inbound = inbox.next() => inbound,
            () = async { if let Some(pull) = &mut pull { pull.await } }, if pull.is_some() => {
                pull = None;
                continue;
            }
            Some(_) = fetches.join_next(), if !fetches.is_empty() => continue,
        };
        match inbound {
            None => return,
            Some(Inbound::Registered(generation)) => {
                tracing::info!(generation = generation.0, "registered with the kernel");
                pull = Some(Box::pin(pull_until_done(link.clone(), table.clone())));
            }
            Some(Inbound::Lost) => {
                tracing::warn!("lost the kernel");
                pull = None;
            }
            Some(Inbound::Request(request)) if is_fetch(&request) => {
                let egress = egress.clone();
                fetches.spawn(async move { egress.serve(request).await });
            }
            Some(Inbound::Request(request)) => answer(request, &table).await,
            Some(Inbound::Other(message)) => {
                tracing::debug!(kind = ?message.header.kind, "ignored a message");
            }
        }
    }
}

fn is_fetch(request: &InboundRequest) -> bool {
    request.message.header.operation == Operation::Fetch as u16
}

async fn answer(mut request: InboundRequest, table: &RouteTable) {
    let taken = match Operation::from_u16(request.message.header.operation) {
        Some(Operation::SetRoutes) => take_routes(&mut request, table).await,
        _ => Err(WireError::new(
            ErrorCode::Invalid,
            "commserver does not know this operation",
        )),
    };
    match taken {
        Ok(()) => request.responder.reply_empty(),
        Err(error) => request.responder.error(error),
    }
}

async fn take_routes(request: &mut InboundRequest, table: &RouteTable) -> Result<(), WireError> {
    let payload = timeout(EXCHANGE_TIMEOUT, request.payload(ROUTES_LEN_MAX))
        .await
        .map_err(|_| WireError::new(ErrorCode::TimedOut, "the routes did not arrive in time"))??;
    let routes = decode_routes(&payload)?;
    let header = &request.message.header;
    if !header.project.is_none() && header.project != routes.project {
        return Err(WireError::new(
            ErrorCode::Forbidden,
            "the routes belong to another project than the request",
        ));
    }
    table.push(&routes)?;
    tracing::info!(
        project = routes.name,
        revision = routes.revision,
        routes = routes.routes.len(),
        "took routes"
    );
    Ok(())
}

async fn pull_until_done(link: Link, table: Arc<RouteTable>) {
    let mut pause = RETRY_MIN;
    while let Err(error) = pull_all(&link, &table).await {
        tracing::debug!(code = error.code.name(), %error, "pull of routes failed");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn pull_all(link: &Link, table: &RouteTable) -> Result<(), WireError> {
    table.begin_pull();
    let projects = pull_projects(link).await?;
    let mut found = HashSet::with_capacity(projects.len());
    for project in &projects {
        match pull_routes(link, project.id).await {
            Ok(routes) => {
                // One project's bad routes are no reason to serve none of the others.
                if let Err(error) = table.pulled(&routes) {
                    tracing::error!(project = project.name, %error, "resadmin gave routes that cannot be served");
                }
                found.insert(project.id);
            }
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    table.end_pull(&found);
    tracing::info!(projects = found.len(), "pulled all routes");
    Ok(())
}

async fn pull_projects(link: &Link) -> Result<Vec<ProjectSummary>, WireError> {
    let answer = link
        .call(ask(resadmin::Operation::Projects, ProjectId::NONE))
        .await?;
    let projects: Projects = answer.message.decode_body().map_err(|_| malformed())?;
    let mut projects = projects.projects;
    projects.truncate(PROJECTS_MAX);
    Ok(projects)
}

async fn pull_routes(link: &Link, project: ProjectId) -> Result<ProjectRoutes, WireError> {
    let answer = link.call(ask(resadmin::Operation::Routes, project)).await?;
    let routes = decode_routes(&answer.payload(ROUTES_LEN_MAX).await?)?;
    if routes.project != project {
        Err(malformed())
    } else {
        Ok(routes)
    }
}

fn ask(operation: resadmin::Operation, project: ProjectId) -> Message {
    Message::bare(Header {
        operation: operation as u16,
        project,
        remaining_us: EXCHANGE_TIMEOUT.as_micros() as u64,
        ..Header::new(Kind::Request, Service::Commserver, Service::Resadmin)
    })
}

fn decode_routes(payload: &[u8]) -> Result<ProjectRoutes, WireError> {
    decode(payload).map_err(|_| WireError::new(ErrorCode::Invalid, "the routes cannot be decoded"))
}

fn malformed() -> WireError {
    WireError::new(ErrorCode::Internal, "resadmin gave a malformed answer")
}
