//! What CommServer receives.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{Class, DoeeVersion, ProjectId};

/// First segment below a project that no trigger may claim: `/PROJECT/.processes/ID` is an asynchronous call.
pub const PROCESSES_SEGMENT: &str = ".processes";

crate::service::operations! {
    /// Replaces the routes of a project: [`ProjectRoutes`] as raw bytes or stream. Empty reply, sent
    /// when the next request will see them. A project without routes is forgotten.
    SetRoutes = 1, "set-routes";
    /// Sends an HTTP request to a server outside for the calling Doee: body [`Fetch`], the request's body
    /// raw or as a stream. The reply's body is a [`FetchReply`], the answer's body raw or a stream. Checked
    /// against the grants of `calling_doee`.
    Fetch = 2, "fetch";
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

/// An HTTP request to a server outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Method, in upper case; one of [`FETCH_METHODS`].
    pub method: String,
    /// Absolute URL with the scheme `http` or `https`.
    pub url: String,
    /// Header fields: name in lower case, value. None of the connection, and not `host`.
    pub headers: Vec<(String, ByteBuf)>,
    /// Length of the body.
    pub body_len: u64,
    /// Time until the whole answer is there; 0 for as long as the call has.
    pub timeout_ms: u32,
    /// Redirects that are followed; at most `limits::FETCH_REDIRECTS_MAX`.
    pub redirects_max: u32,
}

/// The head of a server's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReply {
    /// HTTP status, 200 to 999.
    pub status: u16,
    /// Header fields: name in lower case, value. None of the connection.
    pub headers: Vec<(String, ByteBuf)>,
    /// Length of the body where the server said it.
    pub body_len: Option<u64>,
    /// The URL that answered: the last one of the redirects that were followed.
    pub url: String,
}

/// Methods that a request to a server outside may have.
pub const FETCH_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
