//! What the Doer receives, and its answers.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{Class, ContentHash, DecodeError, DoeeVersion, ProcessId, ProjectId};

crate::service::operations! {
    /// Runs a Doee (`target_doee`): body [`Invocation`], payload raw or as a stream; the reply's body is
    /// an [`InvocationReply`], its payload raw or a stream. The only operation dispatched against slots.
    Invoke = 1, "invoke";
    /// Builds a Doee: body [`Build`], the source tree as a tar stream; the reply's body is a
    /// [`BuildReply`], its payload the shared object as a stream.
    Build = 2, "build";
    /// Lists the [`Workers`], a part at a time: [`WorkersAfter`].
    Workers = 3, "workers";
    /// Drains and forgets a Doee version (`target_doee`) that is no longer deployed. Empty reply.
    Retire = 4, "retire";
    /// What isolation this machine offers: reply [`Isolation`]. No request body.
    Isolation = 5, "isolation";
    /// Tries whether workers can run in an [`Environment`]: the body. Empty reply once the executor of one has
    /// reported, else an error that says why not.
    TryEnvironment = 6, "try-environment";
    /// Starts the workers that a Doee version (`target_doee`), which is deployed, keeps uncalled. Empty reply, at once.
    Keep = 7, "keep";
    /// Which versions the names of the header's project stand for may have changed: a deployment serves. Empty reply, at
    /// once; from then on calls between its Doees go to what serves.
    Deployed = 8, "deployed";
}

/// A call of a Doee: what triggered it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The trigger.
    pub trigger: Trigger,
    /// HTTP method; empty for other triggers.
    pub method: String,
    /// HTTP path below the project, percent-decoded; starts with `/`.
    pub path: String,
    /// The route's pattern that matched, such as `/machines/{id}`.
    pub route: String,
    /// Values of the pattern's parameters, in its order.
    pub parameters: Vec<(String, String)>,
    /// HTTP query string as sent, without `?`.
    pub query: String,
    /// HTTP header fields: name in lower case, value.
    pub headers: Vec<(String, ByteBuf)>,
    /// Who asks, as verified; empty for nobody.
    pub principal: String,
    /// Length of the payload where it is known.
    pub payload_len: Option<u64>,
}

/// What kind of trigger a call has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// An HTTP request to one of the project's routes.
    #[default]
    Http,
    /// `isms invoke`, through the management API.
    Direct,
    /// A schedule of the manifest. Its planned time and what the manifest says about its times are the header fields
    /// `isms-planned` and `isms-schedule`; the path is `/`, there is no method.
    Schedule,
    /// Another Doee of the project. The header fields are what that one has passed; the path is `/`, there is no method.
    Call,
}

/// The head of a Doee's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationReply {
    /// HTTP status, 200 to 599.
    pub status: u16,
    /// HTTP header fields: name in lower case, value.
    pub headers: Vec<(String, String)>,
    /// Length of the payload where it is known; always known when it is inline.
    pub payload_len: Option<u64>,
}

/// Request body of [`Operation::Build`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The Doee's name, for messages.
    pub doee: String,
    /// Its language.
    pub language: Language,
    /// Where the source tree lies in its project, such as `doees/echo`: how the compiler is to call its files.
    /// Empty: by their paths in the tree.
    #[serde(default)]
    pub folder: String,
    /// The builder may use the host's network.
    #[serde(default)]
    pub network: bool,
}

/// Languages that the builder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// C17.
    C,
    /// C++20.
    Cpp,
}

/// Reply body of [`Operation::Build`]. A build that fails is a reply as well: the builder worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReply {
    /// True when a binary follows.
    pub built: bool,
    /// What the compiler said, with file names below [`Build::folder`]; cut at 32 KiB.
    pub log: String,
    /// How long it took.
    pub duration_ms: u64,
}

/// Request of [`Operation::Workers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersAfter {
    /// Those with higher numbers are listed; 0: from the first.
    pub worker: u64,
}

/// Answer of [`Operation::Workers`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Tasks that were accepted and whose worker is starting.
    pub waiting: u32,
    /// Tasks that are assigned to a worker and have not begun.
    pub ready: u32,
    /// Tasks that have begun.
    pub running: u32,
    /// There are workers after the last of these.
    #[serde(default)]
    pub more: bool,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Number of the worker within this Doer.
    pub worker: u64,
    /// Its init process, as the host sees it.
    pub pid: u32,
    /// State: starting, empty, assigned, initialized, idle, busy, draining, dead.
    pub state: String,
    /// Whose Doee; `NONE` while empty.
    pub project: ProjectId,
    /// Name of the project; empty while the worker is.
    pub project_name: String,
    /// Name of the Doee; empty while the worker is.
    pub doee: String,
    /// Its version.
    pub version: DoeeVersion,
    /// The call it works on.
    pub process: ProcessId,
    /// Calls that it has answered.
    pub calls: u64,
    /// Age in ms.
    pub age_ms: u64,
    /// Who makes its walls.
    #[serde(default)]
    pub backend: Backend,
    /// The image that its root is made of.
    #[serde(default)]
    pub image: Option<ContentHash>,
}

/// A value of the manifest's `params`, handed to `initialize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Parameter {
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(String),
}

/// All that the Doer must know of a Doee version; Resadmin's answer to `resadmin::Operation::Doee`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoeeSpec {
    /// Which version.
    pub version: DoeeVersion,
    /// Whose.
    pub project: ProjectId,
    /// Name of the project.
    pub project_name: String,
    /// Name of the Doee.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Memory of one worker.
    pub memory_mb: u32,
    /// Time of one call, from begun.
    pub timeout_ms: u32,
    /// Workers that are kept.
    pub workers_min: u32,
    /// Workers at most.
    pub workers_max: u32,
    /// Given to `initialize`, in the manifest's order.
    pub params: Vec<(String, Parameter)>,
    /// The shared object.
    pub binary: ContentHash,
    /// Its length.
    pub binary_len: u64,
    /// What its workers consist of.
    #[serde(default)]
    pub environment: Environment,
    /// Calls of it that run at the same time; 0 for as many as its workers run.
    #[serde(default)]
    pub concurrency: u32,
    /// Workers reserved for its calls of class realtime, of high and above, of normal and above.
    #[serde(default)]
    pub reserved: [u32; 3],
    /// Doees of its project that it may call, by their names.
    // Left out where there is none, so that what was recorded before has the same bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
}

/// What a worker consists of, as a manifest asks for it. Body of [`Operation::TryEnvironment`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Environment {
    /// Who makes its walls.
    pub backend: Backend,
    /// SHA-256 of the SIF file that its root is made of; `None` for the platform's own root.
    pub image: Option<ContentHash>,
    /// Device nodes that it may use: absolute paths out of the administrator's list.
    pub device_nodes: Vec<String>,
    /// Directories that it may read: absolute paths out of the administrator's list.
    pub directories: Vec<String>,
}

/// Who makes the walls of a worker. A number on the wire, so that a full list of workers fits a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Backend {
    /// The platform itself.
    #[default]
    Native = 0,
    /// Apptainer, or Singularity where only that is installed.
    Apptainer = 1,
}

impl Backend {
    /// The name that manifests and `isms ps` use.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Native => "native",
            Backend::Apptainer => "apptainer",
        }
    }
}

impl From<Backend> for u8 {
    fn from(backend: Backend) -> u8 {
        backend as u8
    }
}

impl TryFrom<u8> for Backend {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Backend, DecodeError> {
        match value {
            0 => Ok(Backend::Native),
            1 => Ok(Backend::Apptainer),
            _ => Err(DecodeError::Field {
                field: "backend",
                value: value.into(),
            }),
        }
    }
}

/// Answer of [`Operation::Isolation`]: the layers and what proved each at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Every layer that the native backend knows.
    pub layers: Vec<IsolationLayer>,
    /// True when workers may start.
    pub sufficient: bool,
}

/// One layer of isolation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationLayer {
    /// Name, such as `seccomp`.
    pub name: String,
    /// An operation that it must block was blocked.
    pub proven: bool,
    /// The operation, or why the layer is absent.
    pub detail: String,
    /// Without it no worker starts.
    pub required: bool,
}
