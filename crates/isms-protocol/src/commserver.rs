//! What CommServer receives.

use serde::{Deserialize, Serialize};

use crate::{Class, DoeeVersion, ProjectId};

crate::service::operations! {
    /// Replaces the routes of a project: [`ProjectRoutes`] as raw bytes or stream. Empty reply, sent
    /// when the next request will see them. A project without routes is forgotten.
    SetRoutes = 1, "set-routes";
}

/// All routes of a project; also Resadmin's answer to `resadmin::Operation::Routes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRoutes {
    /// Which project.
    pub project: ProjectId,
    /// Its name: the first segment of the path.
    pub name: String,
    /// Counts up with each deployment; an older revision than the known one is ignored.
    pub revision: u64,
    /// Routes.
    pub routes: Vec<HttpRoute>,
}

/// One HTTP trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// Method, in upper case.
    pub method: String,
    /// Pattern below the project, such as `/machines/{id}/summary`.
    pub path: String,
    /// Who may call.
    pub auth: Auth,
    /// Name of the Doee.
    pub doee: String,
    /// Version to run.
    pub version: DoeeVersion,
    /// Class of the call.
    pub class: Class,
    /// Deadline of the call.
    pub deadline_ms: u32,
    /// Largest request body.
    pub body_len_max: u64,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody.
    None,
    /// Whoever has a token of the project with the right `invoke`.
    Token,
}
