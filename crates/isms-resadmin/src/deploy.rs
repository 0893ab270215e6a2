//! Deployment of a project's folder.
//!
//! Order: check everything that can be checked from the archive; build; start a worker where it is not of the
//! common kind; bring databases up to date; record the new revision in one transaction; give CommServer the routes; retire what was replaced.
//! Invariants: until the record nothing that serves has changed (but migrations, which are applied
//! wholly or not at all); a failure after it goes back to the revision before; a Doee whose binary and
//! settings are the same keeps its version, and with it its warm workers.

mod artifact;
mod environment;
mod error;

use std::sync::Arc;

use bytes::Bytes;
use isms_protocol::{
    ContentHash, DoeeVersion, PrincipalId, ProjectId,
    commserver::{HttpRoute, ProjectRoutes},
    dbriver::{Grants, Migration, Prepare, Prepared},
    doer::{DoeeSpec, Environment},
    encode,
    resadmin::DeployEvent,
};
use tokio::sync::mpsc;

use crate::{
    bundle::Bundle,
    config::MIGRATIONS_LEN_MAX,
    files,
    manifest::{self, Database, Manifest},
    service::Core,
    store::{DeployedDoee, Deployment, NewDeployment, Schedule, ScheduledCall, Version},
};
use error::DeployError;

/// What is deployed and for whom.
pub(crate) struct Request {
    pub(crate) archive: Bytes,
    /// The only project that may be deployed.
    pub(crate) only: Option<ProjectId>,
    pub(crate) principal: PrincipalId,
}

/// Deploys, and tells how it goes; the last event is `Deployed` or `Failed`. When nobody listens any
/// more it stops, unless the new revision has been recorded already.
pub(crate) async fn run(core: Arc<Core>, request: Request, events: mpsc::Sender<DeployEvent>) {
    let principal = request.principal;
    let last = match deploy(&core, request, &events).await {
        Ok(event) => event,
        Err(error) => {
            tracing::info!(%principal, code = error.code().name(), "deployment failed");
            error.into_event()
        }
    };
    events.send(last).await.ok();
}

async fn deploy(
    core: &Core,
    request: Request,
    events: &mpsc::Sender<DeployEvent>,
) -> Result<DeployEvent, DeployError> {
    let Request {
        archive,
        only,
        principal,
    } = request;
    let bundle = Bundle::read(&archive)?;
    let file = bundle.file("project.toml").ok_or(DeployError::NoManifest)?;
    let text = std::str::from_utf8(file).map_err(|_| DeployError::ManifestNotText)?;
    let manifest = manifest::parse(text)?;
    let prepares = prepares(&manifest, &bundle)?;
    let environments = environment::environments(&manifest, &bundle, &core.config)?;
    let artifacts = artifact::collect(&manifest, &bundle, &core.config.toolchain).await?;

    if let Some(only) = only
        && core.store.project(&manifest.name).await? != Some(only)
    {
        return Err(DeployError::OtherProject { name: manifest.name });
    }
    let _turn = core.turns.take(&manifest.name).ok_or_else(|| DeployError::Busy {
        name: manifest.name.clone(),
    })?;
    let project = core.store.reserve_project(&manifest.name).await?;
    environment::check_images(core, project, &manifest, &environments).await?;
    let mut binaries = Vec::new();
    for artifact in artifacts {
        check_listener(events)?;
        binaries.push(artifact.binary(core, project, events).await?);
    }
    environment::try_environments(core, project, &manifest, &environments, events).await?;
    for (name, prepare) in prepares {
        check_listener(events)?;
        let prepared = core.peers.prepare(project, &prepare).await;
        let Prepared { created, applied } = prepared.map_err(|source| DeployError::Prepare {
            database: name.clone(),
            source,
        })?;
        let migrated = DeployEvent::Migrated {
            database: name,
            created,
            applied,
        };
        events.send(migrated).await.ok();
    }
    check_listener(events)?;

    let before = core.store.current(project).await?.unwrap_or_default();
    let parts: Vec<_> = binaries.into_iter().zip(environments).collect();
    let new = compose(core, project, &manifest, &parts, &before, text);
    let after = core.store.record(new).await?;
    // Before anybody is led to the new versions.
    if before.has_rates() || after.has_rates() {
        tell_rates(core, project).await;
    }
    if before.has_durabilities() || after.has_durabilities() {
        tell_durabilities(core, project).await;
    }
    if let Err(source) = core.peers.set_routes(project, &after.routes).await {
        core.store.revert(project, before.routes.revision).await?;
        core.schedules_changed.notify_one();
        tell_rates(core, project).await;
        tell_durabilities(core, project).await;
        tell_doer(core, project, &after).await;
        return Err(DeployError::Routes { source });
    }
    tracing::info!(%project, revision = after.routes.revision, %principal, "project was deployed");
    core.schedules_changed.notify_one();
    tell_doer(core, project, &before).await;
    for replaced in replaced(&before, &after) {
        core.peers.retire(project, replaced).await;
    }
    for kept in kept(&manifest, &after) {
        core.peers.keep(project, kept).await;
    }
    let routes = manifest
        .triggers
        .iter()
        .map(|trigger| trigger.route.to_string())
        .collect();
    Ok(DeployEvent::Deployed {
        project: manifest.name,
        revision: after.routes.revision,
        routes,
    })
}

/// Versions that keep workers uncalled.
fn kept(manifest: &Manifest, after: &Deployment) -> Vec<DoeeVersion> {
    let keeps = |name: &str| {
        let mut doees = manifest.doees.iter();
        doees.any(|doee| doee.name == name && doee.workers_min > 0)
    };
    let kept = after.doees.iter().filter(|doee| keeps(&doee.name));
    kept.map(|doee| doee.version).collect()
}

/// A Kernel that does not take them is told again when it registers this service anew.
async fn tell_rates(core: &Core, project: ProjectId) {
    if let Err(error) = core.tell_rates(project).await {
        tracing::warn!(%project, %error, "the Kernel did not take the rates of a project's Doees");
    }
}

/// Has the Doer ask anew which versions the project's names stand for, if it could know of those that served until now.
async fn tell_doer(core: &Core, project: ProjectId, before: &Deployment) {
    if !before.doees.is_empty() {
        core.peers.deployed(project).await;
    }
}

async fn tell_durabilities(core: &Core, project: ProjectId) {
    if let Err(error) = core.tell_durabilities(project).await {
        tracing::warn!(%project, %error, "the Kernel did not take what becomes of calls of a project's Doees");
    }
}

fn check_listener(events: &mpsc::Sender<DeployEvent>) -> Result<(), DeployError> {
    if events.is_closed() {
        Err(DeployError::Abandoned)
    } else {
        Ok(())
    }
}

/// What each database must become.
fn prepares(manifest: &Manifest, bundle: &Bundle) -> Result<Vec<(String, Prepare)>, DeployError> {
    let prepare = |database: &Database| {
        let migrations = migrations(database, bundle)?;
        let prepare = Prepare {
            database: database.name.clone(),
            disk_mb: database.disk_mb,
            migrations,
        };
        Ok((database.name.clone(), prepare))
    };
    manifest.databases.iter().map(prepare).collect()
}

/// The `.sql` files of a database's folder, in order of name.
fn migrations(database: &Database, bundle: &Bundle) -> Result<Vec<Migration>, DeployError> {
    let Some(folder) = &database.migrations else {
        return Ok(Vec::new());
    };
    let mut migrations = Vec::new();
    let mut len = 0;
    for (name, content) in bundle.folder(folder) {
        if name.contains('/') || !name.ends_with(".sql") {
            continue;
        }
        len += name.len() + content.len();
        let sql = String::from_utf8(content.to_vec()).map_err(|_| DeployError::MigrationNotText {
            path: format!("{folder}/{name}"),
        })?;
        migrations.push(Migration { name, sql });
    }
    if migrations.is_empty() {
        return Err(DeployError::NoMigrations {
            database: database.name.clone(),
            folder: folder.clone(),
        });
    }
    if len > MIGRATIONS_LEN_MAX {
        return Err(DeployError::MigrationsLen {
            database: database.name.clone(),
        });
    }
    Ok(migrations)
}

fn compose(
    core: &Core,
    project: ProjectId,
    manifest: &Manifest,
    parts: &[((ContentHash, u64), Environment)],
    before: &Deployment,
    text: &str,
) -> NewDeployment {
    let mut versions = Vec::new();
    let mut doees = Vec::new();
    for (doee, ((binary, binary_len), environment)) in manifest.doees.iter().zip(parts) {
        let mut spec = DoeeSpec {
            version: DoeeVersion::NONE,
            project,
            project_name: manifest.name.clone(),
            name: doee.name.clone(),
            class: doee.class,
            memory_mb: doee.memory_mb,
            timeout_ms: doee.timeout_ms,
            workers_min: doee.workers_min,
            workers_max: doee.workers_max,
            params: doee.params.clone(),
            binary: *binary,
            binary_len: *binary_len,
            environment: environment.clone(),
            concurrency: doee.concurrency,
            reserved: doee.reserved,
            calls: doee.calls.clone(),
        };
        let grants = Grants {
            databases: doee.sql.clone(),
            http: doee.http.clone(),
        };
        let settings = files::hash(&encode(&(&spec, &grants)));
        let kept = before
            .doees
            .iter()
            .find(|known| known.name == doee.name && known.settings == settings);
        let version = kept.map_or_else(DoeeVersion::generate, |known| known.version);
        if kept.is_none() {
            spec.version = version;
            versions.push(Version { spec, grants });
        }
        let (name, deadline_ms) = (doee.name.clone(), doee.deadline_ms);
        doees.push(DeployedDoee {
            name,
            version,
            binary: *binary,
            settings,
            deadline_ms,
            class: doee.class,
            image: environment.image,
            rate: doee.rate,
            durability: doee.durability,
        });
    }
    let routes = ProjectRoutes {
        project,
        name: manifest.name.clone(),
        revision: 0,
        routes: routes(manifest, &doees),
    };
    let databases = manifest
        .databases
        .iter()
        .map(|database| database.name.clone())
        .collect();
    let schedules = schedules(manifest, &doees);
    let deployment = Deployment {
        routes,
        databases,
        schedules,
        doees,
    };
    NewDeployment {
        deployment,
        versions,
        manifest: text.to_owned(),
        deployed_at_s: (core.clock)(),
    }
}

fn routes(manifest: &Manifest, deployed: &[DeployedDoee]) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for trigger in &manifest.triggers {
        let deployed = named(deployed, &trigger.doee);
        routes.push(HttpRoute {
            method: trigger.route.method.clone(),
            path: trigger.route.path.clone(),
            auth: trigger.auth,
            doee: trigger.doee.clone(),
            version: deployed.version,
            class: trigger.class,
            deadline_ms: trigger.deadline_ms,
            body_len_max: trigger.body_len_max,
        });
    }
    routes
}

fn schedules(manifest: &Manifest, deployed: &[DeployedDoee]) -> Vec<Schedule> {
    let schedule = |trigger: &manifest::ScheduleTrigger| Schedule {
        times: trigger.times.clone(),
        doee: trigger.doee.clone(),
        call: ScheduledCall {
            version: named(deployed, &trigger.doee).version,
            class: trigger.class,
        },
    };
    manifest.schedules.iter().map(schedule).collect()
}

fn named<'d>(deployed: &'d [DeployedDoee], name: &str) -> &'d DeployedDoee {
    let found = deployed.iter().find(|doee| doee.name == name);
    found.unwrap_or_else(|| unreachable!("the manifest's triggers name its Doees"))
}

/// Versions that served before and no longer do.
fn replaced(before: &Deployment, after: &Deployment) -> Vec<DoeeVersion> {
    let serves = |version| after.doees.iter().any(|doee| doee.version == version);
    before
        .doees
        .iter()
        .map(|doee| doee.version)
        .filter(|version| !serves(*version))
        .collect()
}
