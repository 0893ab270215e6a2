//! Projects: list, show, delete.

use http::StatusCode;
use isms_protocol::{
    ProjectId, Service,
    resadmin::{Operation, Projects},
};

use super::{ASK_TIMEOUT, Answer, Call, json, no_content};
use crate::view;

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
        self.tell(header, &()).await?;
        self.gate.logs.forget(project.id);
        tracing::info!(project = project.name, by = self.caller.name, "deleted a project");
        no_content()
    }
}
