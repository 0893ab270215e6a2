//! Projects and the versions of their Doees.

use bytes::Bytes;
use isms_protocol::{
    DoeeVersion, ErrorCode, Header, PrincipalId, ProjectId, WireError,
    commserver::ProjectRoutes,
    dbriver::Grants,
    doer::DoeeSpec,
    kernel::Durability,
    limits::{NAMED_DOEES_MAX, WORKERS_MAX},
    resadmin::{
        Callee, DescribeProject, DoeeSummary, FindCallee, Kept, NameDoees, NamedDoee, NamedDoees, Project,
    },
};

use super::Core;
use crate::store::Version;

impl Core {
    /// The routes of a project that serves.
    pub(super) async fn routes(&self, project: ProjectId) -> Result<ProjectRoutes, WireError> {
        let deployment = self.store.current(project).await?;
        deployment
            .map(|deployment| deployment.routes)
            .ok_or_else(|| unknown(&project.to_string()))
    }

    /// What the Doer must know of a version.
    pub(super) async fn doee(&self, version: DoeeVersion) -> Result<DoeeSpec, WireError> {
        Ok(self.version(version).await?.spec)
    }

    /// The binary of a version, verified.
    pub(super) async fn binary(&self, version: DoeeVersion) -> Result<Bytes, WireError> {
        let hash = self.version(version).await?.spec.binary;
        self.binaries.get(hash).await.map_err(|error| {
            tracing::error!(%version, error = &error as &dyn std::error::Error, "binary could not be read");
            WireError::new(
                ErrorCode::Internal,
                "the binary cannot be read; see Resadmin's log",
            )
        })
    }

    /// What a version of the named project may use.
    pub(super) async fn grants(&self, project: ProjectId, version: DoeeVersion) -> Result<Grants, WireError> {
        let found = self.version(version).await?;
        if found.spec.project != project {
            return Err(WireError::new(
                ErrorCode::Forbidden,
                "the function is not part of the project",
            ));
        }
        Ok(found.grants)
    }

    /// What a name stands for that the calling version, which is the Kernel's word, wants to call.
    pub(super) async fn callee(&self, header: &Header, find: FindCallee) -> Result<Callee, WireError> {
        let caller = self.version(header.calling_doee).await?.spec;
        if caller.project != header.project || !caller.calls.contains(&find.doee) {
            let text = format!(
                "`allow.call` of the function {} does not name {:?}",
                caller.name, find.doee
            );
            return Err(WireError::new(ErrorCode::Forbidden, text));
        }
        let deployed = self.store.deployed(caller.project, &find.doee).await?;
        let (spec, deadline_ms, durability) = deployed.ok_or_else(|| {
            let text = format!("the project has no function {:?} any more", find.doee);
            WireError::new(ErrorCode::NotFound, text)
        })?;
        Ok(Callee {
            version: spec.version,
            class: spec.class,
            deadline_ms,
            is_durable: durability != Some(Durability::Volatile),
        })
    }

    /// Describes a project that serves.
    pub(super) async fn describe(&self, request: DescribeProject) -> Result<Project, WireError> {
        let missing = || unknown(&request.name);
        let id = self.store.project(&request.name).await?.ok_or_else(missing)?;
        let deployment = self.store.current(id).await?.ok_or_else(missing)?;
        let doees = deployment.doees.into_iter().map(|doee| DoeeSummary {
            name: doee.name,
            version: doee.version,
            binary: doee.binary,
            deadline_ms: doee.deadline_ms,
            class: doee.class,
        });
        let routes = deployment
            .routes
            .routes
            .iter()
            .map(|route| format!("{} {}", route.method, route.path));
        Ok(Project {
            id,
            name: request.name,
            revision: deployment.routes.revision,
            doees: doees.collect(),
            databases: deployment.databases,
            routes: routes.collect(),
            settings: self.store.settings(id).await?,
        })
    }

    /// What versions are called, those of earlier deployments too.
    pub(super) async fn name_doees(&self, request: NameDoees) -> Result<NamedDoees, WireError> {
        if request.versions.len() > NAMED_DOEES_MAX {
            let message = format!("at most {NAMED_DOEES_MAX} versions are named at once");
            return Err(WireError::new(ErrorCode::Invalid, message));
        }
        let mut named = NamedDoees::default();
        for version in request.versions {
            if let Some(found) = self.store.version(version).await? {
                named.doees.push(NamedDoee {
                    version,
                    project: found.spec.project_name,
                    doee: found.spec.name,
                });
            }
        }
        Ok(named)
    }

    /// Removes a project with its data. Its name is free and its routes are gone at once; what is left
    /// to delete when it fails is deleted at the next start.
    pub(super) async fn delete_project(
        &self,
        project: ProjectId,
        principal: PrincipalId,
    ) -> Result<(), WireError> {
        let name = self
            .store
            .project_name(project)
            .await?
            .ok_or_else(|| unknown(&project.to_string()))?;
        let busy = || {
            WireError::new(
                ErrorCode::Conflict,
                format!("{name} is being deployed; try again later"),
            )
        };
        let _turn = self.turns.take(&name).ok_or_else(busy)?;
        let revision = self
            .store
            .begin_deletion(project)
            .await?
            .ok_or_else(|| unknown(&name))?;
        tracing::info!(%project, %principal, "project is deleted");
        self.finish_deletion(project, name, revision).await
    }

    /// Takes up deletions that have begun and not ended.
    pub(super) async fn resume_deletions(&self) -> Result<(), WireError> {
        for project in self.store.deletions().await? {
            let Some(revision) = self.store.begin_deletion(project).await? else {
                continue;
            };
            self.finish_deletion(project, String::new(), revision).await?;
            tracing::info!(%project, "deletion was finished");
        }
        Ok(())
    }

    async fn finish_deletion(
        &self,
        project: ProjectId,
        name: String,
        revision: u64,
    ) -> Result<(), WireError> {
        let routes = ProjectRoutes {
            project,
            name,
            revision,
            routes: Vec::new(),
        };
        self.peers.set_routes(project, &routes).await?;
        // Whoever tells the Kernel of its runs has seen by now that it is being deleted.
        drop(self.schedules_turn.lock().await);
        // After the routes, so that no more come, and before its data, which they use.
        self.peers.forget_project(project).await?;
        for version in self.store.versions(project).await? {
            self.peers.retire(project, version).await;
        }
        self.tell_settings(project).await?;
        self.tell_rates(project).await?;
        self.tell_durabilities(project).await?;
        self.peers.drop_databases(project).await?;
        self.store.end_deletion(project).await?;
        Ok(self.sweep_images().await?)
    }

    /// Which versions that are deployed keep workers uncalled.
    pub(super) async fn kept(&self) -> Result<Kept, WireError> {
        let mut kept = Kept::default();
        for project in self.store.projects().await? {
            let current = self.store.current(project.id).await?.unwrap_or_default();
            for doee in current.doees {
                let keeps = self.version(doee.version).await?.spec.workers_min > 0;
                // More than there can be workers would be no use.
                if keeps && kept.versions.len() < WORKERS_MAX {
                    kept.versions.push(doee.version);
                }
            }
        }
        Ok(kept)
    }

    async fn version(&self, version: DoeeVersion) -> Result<Version, WireError> {
        let missing = || {
            WireError::new(
                ErrorCode::NotFound,
                format!("there is no function version {version}"),
            )
        };
        self.store.version(version).await?.ok_or_else(missing)
    }
}

/// The error that there is no such project.
pub(super) fn unknown(project: &str) -> WireError {
    WireError::new(ErrorCode::NotFound, format!("there is no project {project}"))
}
