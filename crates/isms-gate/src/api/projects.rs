//! Projects: list, show, change, delete.

use http::StatusCode;
use isms_http::{Incoming, Problem, Upload};
use isms_protocol::{
    ErrorCode, ProjectId, Service,
    kernel::ProjectSettings,
    resadmin::{ChangeProject, Operation, Projects},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{ASK_TIMEOUT, Answer, Call, json, no_content, object};
use crate::view;

/// Bytes of a change.
const BODY_LEN_MAX: u64 = 16 * 1024;

/// What a caller may change; what is absent stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    rate_max: Option<u32>,
    #[serde(default)]
    concurrency_max: Option<u32>,
}

impl Call<'_> {
    pub(super) async fn list_projects(&self) -> Answer {
        let header = self.header(
            Service::Resadmin,
            Operation::Projects as u16,
            ProjectId::NONE,
            ASK_TIMEOUT,
        );
        let mut projects: Projects = self.ask_bare(header).await?;
        projects.projects.retain(|project| self.sees(project.id));
        json(StatusCode::OK, &projects)
    }

    pub(super) async fn show_project(&self) -> Answer {
        let project = self.project(self.parameter(0)).await?;
        json(StatusCode::OK, &view::project(&project))
    }

    /// Changes what a project gets; answers with all that it gets then.
    pub(super) async fn change_project(&self, body: Incoming) -> Answer {
        // What one project gets, others do not: only who administers all of them decides.
        if self.caller.project.is_some() {
            let detail = "only an administrator of all projects sets what a project gets";
            return Err(Problem::new(ErrorCode::Forbidden, detail));
        }
        let upload = Upload {
            body,
            len_max: BODY_LEN_MAX,
            deadline: Instant::now() + ASK_TIMEOUT,
        };
        let change: Change = object(&upload.whole().await?, "a change of a project")?;
        let project = self.project(self.parameter(0)).await?;
        let operation = Operation::ChangeProject as u16;
        let header = self.header(Service::Resadmin, operation, project.id, ASK_TIMEOUT);
        let change = ChangeProject {
            weight: change.weight,
            rate_max: change.rate_max,
            concurrency_max: change.concurrency_max,
        };
        let settings: ProjectSettings = self.ask(header, &change).await?;
        json(StatusCode::OK, &settings)
    }

    /// Deletes a project with its data.
    pub(super) async fn delete_project(&self) -> Answer {
        let project = self.project(self.parameter(0)).await?;
        // Data may have to be removed, so it gets the time of a deployment.
        let within = self.gate.config.deploy_timeout();
        let header = self.header(
            Service::Resadmin,
            Operation::DeleteProject as u16,
            project.id,
            within,
        );
        let told = self.tell(header, &()).await;
        // Also when it is not done yet: the name is free by then.
        self.gate.names.forget(&project.name);
        told?;
        self.gate.logs.forget(project.id);
        self.gate.traces.forget(project.id);
        tracing::info!(project = project.name, by = self.caller.name, "deleted a project");
        no_content()
    }
}
