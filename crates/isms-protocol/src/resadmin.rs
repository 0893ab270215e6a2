//! What Resadmin receives, and its answers.

use serde::{Deserialize, Serialize};

use crate::{Class, ContentHash, DoeeVersion, PrincipalId, ProjectId, TokenHash, kernel::ProjectSettings};

crate::service::operations! {
    /// Who a token is: [`Authenticate`] → [`Principal`], or `Unauthenticated`.
    Authenticate = 1, "authenticate";
    /// All projects: no body → [`Projects`].
    Projects = 2, "projects";
    /// Routes of the header's project: no body → `commserver::ProjectRoutes` as raw bytes or stream.
    Routes = 3, "routes";
    /// What the Doer must know of `target_doee`: no body → `doer::DoeeSpec`.
    Doee = 4, "doee";
    /// The binary of `target_doee`: no body → raw bytes or stream.
    Binary = 5, "binary";
    /// Rights of `target_doee`: no body → `dbriver::Grants`.
    Grants = 6, "grants";
    /// Deploys a project folder, a tar stream: body [`Deploy`]; the reply's stream is one [`DeployEvent`]
    /// as JSON a line, the last one `deployed` or `failed`.
    Deploy = 7, "deploy";
    /// Removes the header's project with its data. Empty reply.
    DeleteProject = 8, "delete-project";
    /// Describes a project: [`DescribeProject`] → [`Project`].
    DescribeProject = 9, "describe-project";
    /// Makes a token: [`CreateToken`] → [`CreatedToken`].
    CreateToken = 10, "create-token";
    /// Lists tokens: no body → [`Tokens`].
    ListTokens = 11, "list-tokens";
    /// Revokes a token: [`RevokeToken`] → empty.
    RevokeToken = 12, "revoke-token";
    /// How much of an image a project has uploaded: [`Image`] → [`ImageState`].
    Image = 13, "image";
    /// Uploads an image, or goes on with it: body [`UploadImage`], the bytes as raw bytes or stream; →
    /// [`ImageState`]. What has arrived stays when the stream breaks off.
    UploadImage = 14, "upload-image";
    /// Changes what the header's project gets: [`ChangeProject`] → `kernel::ProjectSettings`.
    ChangeProject = 15, "change-project";
    /// What versions of Doees are called: [`NameDoees`] → [`NamedDoees`].
    NameDoees = 16, "name-doees";
    /// Which versions keep workers uncalled: no body → [`Kept`] as raw bytes or stream.
    Kept = 17, "kept";
    /// What a name stands for that `calling_doee` wants to call: [`FindCallee`] → [`Callee`]. Decided by what that version
    /// may call.
    Callee = 18, "callee";
}

/// Asks who a token is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticate {
    /// SHA-256 of the token.
    pub token: TokenHash,
}

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// Its name, for people.
    pub name: String,
    /// The only project it may touch; `None` for all.
    pub project: Option<ProjectId>,
    /// What it may do.
    pub rights: Vec<Right>,
    /// Unix time in s after which it may nothing; `None` for never.
    pub expires_at_s: Option<u64>,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Call Doees.
    Invoke,
    /// See projects, workers, processes and logs.
    Read,
    /// Deploy and delete.
    Deploy,
    /// Everything, tokens included.
    Admin,
}

/// Answer of [`Operation::Projects`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projects {
    /// In order of name.
    pub projects: Vec<ProjectSummary>,
}

/// A project in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectSummary {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// Its deployments so far.
    pub revision: u64,
}

/// Asks for a project by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeProject {
    /// Its name.
    pub name: String,
}

/// Answer of [`Operation::DescribeProject`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// Its deployments so far.
    pub revision: u64,
    /// Its Doees as deployed now.
    pub doees: Vec<DoeeSummary>,
    /// Names of its databases.
    pub databases: Vec<String>,
    /// Its routes, such as `GET /machines/{id}`.
    pub routes: Vec<String>,
    /// What it gets where it shares.
    #[serde(default)]
    pub settings: ProjectSettings,
}

/// Request body of [`Operation::ChangeProject`]; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeProject {
    /// See [`ProjectSettings::weight`].
    pub weight: Option<u32>,
    /// See [`ProjectSettings::rate_max`].
    pub rate_max: Option<u32>,
    /// See [`ProjectSettings::concurrency_max`].
    pub concurrency_max: Option<u32>,
}

/// Answer of [`Operation::Kept`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Versions that are deployed, at most [`crate::limits::WORKERS_MAX`].
    pub versions: Vec<DoeeVersion>,
}

/// Asks which Doee is to be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindCallee {
    /// Its name, in the project of the caller.
    pub doee: String,
}

/// Answer of [`Operation::Callee`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callee {
    /// The version that serves.
    pub version: DoeeVersion,
    /// Its class.
    pub class: Class,
    /// Its deadline.
    pub deadline_ms: u32,
    /// Asynchronous calls of it are durable.
    pub is_durable: bool,
}

/// Asks for the names of versions of Doees, at most [`crate::limits::NAMED_DOEES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameDoees {
    /// The versions, of whatever projects and deployments.
    pub versions: Vec<DoeeVersion>,
}

/// Answer of [`Operation::NameDoees`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDoees {
    /// Those that exist.
    pub doees: Vec<NamedDoee>,
}

/// What a version of a Doee is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDoee {
    /// Which.
    pub version: DoeeVersion,
    /// Name of its project.
    pub project: String,
    /// Its own.
    pub doee: String,
}

/// A Doee as deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeSummary {
    /// Its name.
    pub name: String,
    /// The version that serves.
    pub version: DoeeVersion,
    /// Its binary.
    pub binary: ContentHash,
    /// The deadline of a direct call.
    pub deadline_ms: u32,
    /// Its class.
    #[serde(default)]
    pub class: Class,
}

/// Request body of [`Operation::Deploy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// When set: only a project of this id may be deployed (a token's scope).
    pub only: Option<ProjectId>,
}

/// Asks for an image of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Name of the project, which need not exist yet.
    pub project: String,
    /// SHA-256 of the SIF file.
    pub image: ContentHash,
}

/// Request body of [`Operation::UploadImage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadImage {
    /// Name of the project, which need not exist yet.
    pub project: String,
    /// SHA-256 of the SIF file.
    pub image: ContentHash,
    /// Length of the SIF file.
    pub len: u64,
    /// Where in it the bytes begin: what the project has uploaded so far.
    pub offset: u64,
}

/// Answer of [`Operation::Image`] and [`Operation::UploadImage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageState {
    /// Bytes that are there.
    pub offset: u64,
    /// The image is whole and verified: the project may use it.
    pub complete: bool,
}

/// What a deployment tells while it goes on; JSON with the tag `event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum DeployEvent {
    /// A Doee's build starts.
    Building {
        /// Which.
        doee: String,
    },
    /// A Doee's binary is there.
    Built {
        /// Which.
        doee: String,
        /// True when the same source was built before.
        cached: bool,
        /// How long it took.
        duration_ms: u64,
        /// Warnings of the compiler.
        log: String,
    },
    /// A worker has started once in a Doee's environment, which is not the common one.
    Tried {
        /// Which.
        doee: String,
        /// How long it took.
        duration_ms: u64,
    },
    /// A database is up to date.
    Migrated {
        /// Which.
        database: String,
        /// True when it was made now.
        #[serde(default)]
        created: bool,
        /// Migrations that were applied now.
        #[serde(default)]
        applied: u32,
    },
    /// The new version serves. Last event.
    Deployed {
        /// The project's name.
        project: String,
        /// Its revision now.
        revision: u64,
        /// Its routes, such as `GET /machines/{id}`.
        routes: Vec<String>,
    },
    /// Nothing has changed: the old version keeps serving. Last event.
    Failed {
        /// The code's name, such as `BuildFailed`.
        code: String,
        /// What failed, why, what to do.
        message: String,
    },
}

/// Request body of [`Operation::CreateToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateToken {
    /// For people.
    pub name: String,
    /// Name of the only project it may touch; `None` for all.
    pub project: Option<String>,
    /// What it may do.
    pub rights: Vec<Right>,
    /// Life in s; `None` for ever.
    pub expires_in_s: Option<u64>,
}

/// Answer of [`Operation::CreateToken`]: the only time that the token is seen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// Its principal.
    pub id: PrincipalId,
    /// The token.
    pub token: String,
}

/// Answer of [`Operation::ListTokens`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Principals of all tokens.
    pub tokens: Vec<Principal>,
}

/// Request body of [`Operation::RevokeToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeToken {
    /// Whose.
    pub id: PrincipalId,
}
