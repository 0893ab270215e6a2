//! The state machine of Resadmin: a request comes in, its answer goes out.

mod projects;
mod rights;
mod schedules;
mod settings;
mod tokens;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use isms_protocol::{
    DecodeError, ErrorCode, Header, WireError, encode,
    resadmin::{
        Authenticate, CreateToken, Deploy, DeployEvent, DescribeProject, NameDoees, Operation, Projects,
        RevokeToken, Right,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use crate::{
    config::{ARCHIVE_LEN_MAX, Config, EVENTS_WAITING_MAX},
    deploy,
    files::{FileError, Files},
    images::{Begun, Images},
    peers::{PeerRequest, Peers},
    store::{Store, StoreError},
};

/// Tells the Unix time in s.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Resadmin.
pub struct Service {
    core: Arc<Core>,
}

/// What requests and deployments share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) binaries: Files,
    pub(crate) sources: Files,
    pub(crate) images: Images,
    pub(crate) peers: Peers,
    pub(crate) clock: Clock,
    pub(crate) turns: Turns,
    /// Held while settings of projects change and while the Kernel is told of them.
    pub(crate) settings_turn: tokio::sync::Mutex<()>,
    /// Held while the Kernel is told of the runs of a project.
    pub(crate) schedules_turn: tokio::sync::Mutex<()>,
    /// Woken when a deployment may have changed schedules.
    pub(crate) schedules_changed: tokio::sync::Notify,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// A body, encoded.
    Body(Bytes),
    /// A payload, inline or as a stream.
    Payload(Bytes),
    /// A stream of events, each to be sent as a line of JSON; ends with the channel.
    Events(mpsc::Receiver<DeployEvent>),
}

/// Why Resadmin cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store in {path}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Service {
    /// Opens the data directory and records the administrator's token.
    pub async fn open(
        config: Config,
        peers: mpsc::Sender<PeerRequest>,
        clock: Clock,
    ) -> Result<Service, OpenError> {
        let path = config.directory.clone();
        std::fs::create_dir_all(&path).map_err(|source| OpenError::Directory {
            path: path.clone(),
            source,
        })?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Store {
            path: path.clone(),
            source,
        };
        let store_failed = |error: StoreError| failed(error.into());
        let file_failed = |error: FileError| failed(error.into());
        let store = Store::open(&path.join("resadmin.sqlite"))
            .await
            .map_err(store_failed)?;
        store
            .set_administrator(config.admin_token_hash, clock())
            .await
            .map_err(store_failed)?;
        let recorded = store.binaries().await.map_err(store_failed)?;
        let binaries = Files::open(path.join("binaries"), &recorded).map_err(file_failed)?;
        let recorded = store.sources().await.map_err(store_failed)?;
        let sources = Files::open(path.join("sources"), &recorded).map_err(file_failed)?;
        let images = Images::open(
            &config,
            &store.images().await.map_err(store_failed)?,
            &store.uploads().await.map_err(store_failed)?,
        )
        .map_err(file_failed)?;
        let peers = Peers::new(peers);
        let core = Core {
            config,
            store,
            binaries,
            sources,
            images,
            peers,
            clock,
            turns: Turns::default(),
            settings_turn: tokio::sync::Mutex::default(),
            schedules_turn: tokio::sync::Mutex::default(),
            schedules_changed: tokio::sync::Notify::new(),
        };
        Ok(Service { core: Arc::new(core) })
    }

    /// The longest payload that a request may have.
    pub fn payload_len_max(header: &Header) -> usize {
        match Operation::from_u16(header.operation) {
            Some(Operation::Deploy) => ARCHIVE_LEN_MAX,
            _ => 0,
        }
    }

    /// Answers a request.
    pub async fn handle(&self, header: &Header, body: &[u8], payload: Bytes) -> Result<Reply, WireError> {
        let operation = Operation::from_u16(header.operation)
            .ok_or_else(|| WireError::new(ErrorCode::Invalid, "Resadmin does not know this operation"))?;
        rights::check_sender(header.sender, operation)?;
        let core = &*self.core;
        match operation {
            Operation::Authenticate => reply(&core.authenticate(decoded::<Authenticate>(body)?).await?),
            Operation::Projects => reply(&Projects {
                projects: core.store.projects().await?,
            }),
            Operation::Routes => Ok(Reply::Payload(encode(&core.routes(header.project).await?).into())),
            Operation::Doee => reply(&core.doee(header.target_doee).await?),
            Operation::Binary => Ok(Reply::Payload(core.binary(header.target_doee).await?)),
            Operation::Kept => Ok(Reply::Payload(encode(&core.kept().await?).into())),
            Operation::Callee => reply(&core.callee(header, decoded(body)?).await?),
            Operation::Grants => reply(&core.grants(header.project, header.target_doee).await?),
            Operation::Deploy => self.deploy(header, decoded(body)?, payload).await,
            Operation::DeleteProject => {
                core.authorize(header.principal, Right::Deploy, Some(header.project))
                    .await?;
                core.delete_project(header.project, header.principal).await?;
                Ok(Reply::Body(Bytes::new()))
            }
            Operation::DescribeProject => reply(&core.describe(decoded::<DescribeProject>(body)?).await?),
            Operation::NameDoees => reply(&core.name_doees(decoded::<NameDoees>(body)?).await?),
            Operation::CreateToken => reply(&core.create_token(header, decoded::<CreateToken>(body)?).await?),
            Operation::ListTokens => reply(&core.tokens(header).await?),
            Operation::RevokeToken => {
                core.revoke_token(header, decoded::<RevokeToken>(body)?).await?;
                Ok(Reply::Body(Bytes::new()))
            }
            Operation::Image => reply(&core.image(header.principal, decoded(body)?).await?),
            Operation::ChangeProject => {
                let change = decoded(body)?;
                reply(
                    &core
                        .change_project(header.principal, header.project, change)
                        .await?,
                )
            }
            Operation::UploadImage => Err(WireError::new(
                ErrorCode::Invalid,
                "the bytes of an image are taken as they come, by `begin_upload`",
            )),
        }
    }

    /// Begins to take in an image, whose bytes follow.
    pub async fn begin_upload(&self, header: &Header, body: &[u8]) -> Result<Begun, WireError> {
        rights::check_sender(header.sender, Operation::UploadImage)?;
        self.core.begin_upload(header.principal, decoded(body)?).await
    }

    /// Removes images that nothing needs any more.
    pub async fn sweep_images(&self) -> Result<(), WireError> {
        Ok(self.core.sweep_images().await?)
    }

    /// Tells a Kernel that has just come what projects get.
    pub async fn tell_settings(&self) -> Result<(), WireError> {
        self.core.tell_all_settings().await
    }

    /// Sees to it that of each schedule the next run waits at the Kernel; returns when this is to be looked at again, in
    /// s since 1970. `is_start` is true until it has succeeded once.
    pub async fn expand_schedules(&self, is_start: bool) -> Result<Option<u64>, WireError> {
        self.core.expand_schedules(is_start).await
    }

    /// Waits until a deployment may have changed schedules.
    pub async fn schedules_changed(&self) {
        self.core.schedules_changed.notified().await;
    }

    /// Takes up the deletions of projects that a former run has begun.
    pub async fn resume_deletions(&self) -> Result<(), WireError> {
        self.core.resume_deletions().await
    }

    async fn deploy(&self, header: &Header, deploy: Deploy, archive: Bytes) -> Result<Reply, WireError> {
        let principal = self.core.principal(header.principal, Right::Deploy).await?;
        let only = match (principal.project, deploy.only) {
            (Some(own), Some(asked)) if own != asked => return Err(rights::forbidden(Right::Deploy)),
            (own, asked) => own.or(asked),
        };
        let (events, received) = mpsc::channel(EVENTS_WAITING_MAX);
        let request = deploy::Request {
            archive,
            only,
            principal: principal.id,
        };
        // It ends by itself: each step has a time limit, and it watches whether its events are wanted.
        tokio::spawn(deploy::run(self.core.clone(), request, events));
        Ok(Reply::Events(received))
    }
}

fn reply<T: Serialize>(body: &T) -> Result<Reply, WireError> {
    Ok(Reply::Body(encode(body).into()))
}

fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    isms_protocol::decode(body).map_err(|error: DecodeError| {
        let cause = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        WireError::new(
            ErrorCode::Invalid,
            format!("the request cannot be decoded{cause}"),
        )
    })
}

/// One deployment or deletion of a project at a time.
#[derive(Clone, Default)]
pub(crate) struct Turns {
    taken: Arc<Mutex<HashSet<String>>>,
}

/// A turn; given back when dropped.
pub(crate) struct Turn {
    turns: Turns,
    name: String,
}

impl Turns {
    /// Takes a project's turn, unless somebody else has it.
    pub(crate) fn take(&self, name: &str) -> Option<Turn> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(name.to_owned()).then(|| Turn {
            turns: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}
