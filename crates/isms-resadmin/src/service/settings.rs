//! What projects get where they share the platform: kept here, enforced by the Kernel.
//!
//! Invariant: what the Kernel is told is what the store holds at that moment, and one telling ends before the next
//! begins, so the last one is right. A Kernel that is not there is told when this service registers with it.

use isms_protocol::{
    ErrorCode, PrincipalId, ProjectId, WireError,
    kernel::{DoeeRate, DoeeRates, DoeeRetries, DoeeRetry, ProjectSettings},
    resadmin::{ChangeProject, Right},
};

use super::{Core, projects::unknown};
use crate::store::DeployedDoee;

impl Core {
    /// Changes what a project gets.
    pub(super) async fn change_project(
        &self,
        principal: PrincipalId,
        project: ProjectId,
        change: ChangeProject,
    ) -> Result<ProjectSettings, WireError> {
        // Shares are at the expense of others, so a project's own administrator does not decide.
        self.authorize(principal, Right::Admin, None).await?;
        let settings = {
            let _turn = self.settings_turn.lock().await;
            let before = self.store.settings(project).await?;
            let settings = ProjectSettings {
                weight: change.weight.unwrap_or(before.weight),
                rate_max: change.rate_max.unwrap_or(before.rate_max),
                concurrency_max: change.concurrency_max.unwrap_or(before.concurrency_max),
            };
            let invalid = |error: isms_protocol::kernel::SettingsError| {
                WireError::new(ErrorCode::Invalid, error.to_string())
            };
            settings.check().map_err(invalid)?;
            if !self.store.set_settings(project, &settings).await? {
                return Err(unknown(&project.to_string()));
            }
            settings
        };
        tracing::info!(%project, %principal, weight = settings.weight, rate_max = settings.rate_max, concurrency_max = settings.concurrency_max, "project's settings were changed");
        self.tell_settings(project).await?;
        Ok(settings)
    }

    /// Tells the Kernel what a project gets.
    pub(super) async fn tell_settings(&self, project: ProjectId) -> Result<(), WireError> {
        let _turn = self.settings_turn.lock().await;
        let settings = self.store.settings(project).await?;
        self.peers.set_project(project, &settings).await
    }

    /// Tells the Kernel how many calls of a project's Doees are accepted.
    pub(crate) async fn tell_rates(&self, project: ProjectId) -> Result<(), WireError> {
        let _turn = self.settings_turn.lock().await;
        let current = self.store.current(project).await?.unwrap_or_default();
        let rate = |doee: &DeployedDoee| {
            Some(DoeeRate {
                doee: doee.version,
                rate: doee.rate?,
            })
        };
        let doees = current.doees.iter().filter_map(rate).collect();
        self.peers.set_rates(project, &DoeeRates { doees }).await
    }

    /// Tells the Kernel what becomes of asynchronous calls of a project's Doees.
    pub(crate) async fn tell_durabilities(&self, project: ProjectId) -> Result<(), WireError> {
        let _turn = self.settings_turn.lock().await;
        let current = self.store.current(project).await?.unwrap_or_default();
        let durability = |doee: &DeployedDoee| {
            Some(DoeeRetry {
                doee: doee.version,
                durability: doee.durability?,
            })
        };
        let doees = current.doees.iter().filter_map(durability).collect();
        self.peers.set_retries(project, &DoeeRetries { doees }).await
    }

    /// Tells a Kernel that has just come, and knows of nobody, what all projects get.
    pub(super) async fn tell_all_settings(&self) -> Result<(), WireError> {
        for project in self.store.projects_with_doee_settings().await? {
            self.tell_rates(project).await?;
            self.tell_durabilities(project).await?;
        }
        for project in self.store.projects_with_settings().await? {
            self.tell_settings(project).await?;
        }
        Ok(())
    }
}
