//! Why a deployment fails.

use isms_protocol::{ContentHash, ErrorCode, WireError, limits::ARTIFACT_LEN_MAX, resadmin::DeployEvent};

use crate::{
    bundle::BundleError, config::MIGRATIONS_LEN_MAX, elf::ElfError, files::FileError,
    manifest::ManifestError, store::StoreError,
};

/// The step of a deployment that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the folder has no project.toml")]
    NoManifest,
    #[error("project.toml is not UTF-8")]
    ManifestNotText,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{path} is not UTF-8")]
    MigrationNotText { path: String },
    #[error("database {database}: the folder {folder} has no .sql file")]
    NoMigrations { database: String, folder: String },
    #[error("database {database}: its migrations are longer than {MIGRATIONS_LEN_MAX} bytes")]
    MigrationsLen { database: String },
    #[error("doee {doee}: the folder {folder} has no file")]
    NoSource { doee: String, folder: String },
    #[error("doee {doee}: its source is longer than {ARTIFACT_LEN_MAX} bytes")]
    SourceLen { doee: String },
    #[error("doee {doee}: the file {path} does not exist")]
    NoBinary { doee: String, path: String },
    #[error("doee {doee}: its binary is refused: {reason}")]
    Binary { doee: String, reason: ElfError },
    #[error("doee {doee}: {path} is not in the archive; give the file or folder of its image")]
    NoImage { doee: String, path: String },
    #[error(
        "doee {doee}: the archive has no reference in the place of {path}; upload the image, and put a file with \
         `sha256:` and its hash there"
    )]
    ImageReference { doee: String, path: String },
    #[error(
        "doee {doee}: the image {path} (sha256:{image}) has not been uploaded for this project; upload it first"
    )]
    ImageMissing {
        doee: String,
        path: String,
        image: ContentHash,
    },
    #[error(
        "doee {doee}: {kind} {path} is not open to projects on this platform; the administrator allows it by \
         [workers] {setting} in isms.toml"
    )]
    Opening {
        doee: String,
        kind: &'static str,
        path: String,
        setting: &'static str,
    },
    #[error(
        "build.network: builds may not use the network on this platform; the administrator allows it by [build] \
         network = true in isms.toml"
    )]
    BuildNetwork,
    #[error("doee {doee}: a worker was started once and failed: {source}")]
    Try {
        doee: String,
        #[source]
        source: WireError,
    },
    #[error("this token may not deploy the project {name}")]
    OtherProject { name: String },
    #[error("another deployment of {name} is going on; try again when it has ended")]
    Busy { name: String },
    #[error("doee {doee} does not build:\n{log}")]
    Build { doee: String, log: String },
    #[error("doee {doee} cannot be built: {source}")]
    Builder {
        doee: String,
        #[source]
        source: WireError,
    },
    #[error("database {database}: {source}")]
    Prepare {
        database: String,
        #[source]
        source: WireError,
    },
    #[error("the routes were refused: {source}")]
    Routes {
        #[source]
        source: WireError,
    },
    #[error("the caller went away")]
    Abandoned,
    #[error("the archive could not be read in time")]
    Stopped,
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeployError {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            DeployError::Bundle(BundleError::Len { .. } | BundleError::Entries)
            | DeployError::MigrationsLen { .. }
            | DeployError::SourceLen { .. } => ErrorCode::TooLarge,
            DeployError::Bundle(_)
            | DeployError::NoManifest
            | DeployError::ManifestNotText
            | DeployError::Manifest(_)
            | DeployError::MigrationNotText { .. }
            | DeployError::NoMigrations { .. }
            | DeployError::NoSource { .. }
            | DeployError::NoBinary { .. }
            | DeployError::NoImage { .. }
            | DeployError::ImageReference { .. } => ErrorCode::Invalid,
            DeployError::ImageMissing { .. } => ErrorCode::NotFound,
            DeployError::Binary { .. } | DeployError::Build { .. } => ErrorCode::BuildFailed,
            DeployError::OtherProject { .. } | DeployError::Opening { .. } | DeployError::BuildNetwork => {
                ErrorCode::Forbidden
            }
            DeployError::Busy { .. } => ErrorCode::Conflict,
            DeployError::Builder { source, .. }
            | DeployError::Prepare { source, .. }
            | DeployError::Try { source, .. }
            | DeployError::Routes { source } => source.code,
            DeployError::Abandoned => ErrorCode::Cancelled,
            DeployError::Store(StoreError::TooMany { .. }) => ErrorCode::LimitReached,
            DeployError::Stopped | DeployError::File(_) | DeployError::Store(_) => ErrorCode::Internal,
        }
    }

    /// The last event of a deployment that failed. What failed inside is logged and not told.
    pub(crate) fn into_event(self) -> DeployEvent {
        let code = self.code();
        let message = match self {
            DeployError::Store(error) => WireError::from(error).message,
            DeployError::File(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "artifact could not be stored"
                );
                "Resadmin cannot store the artifact; see its log".to_owned()
            }
            error => error.to_string(),
        };
        DeployEvent::Failed {
            code: code.name().to_owned(),
            message,
        }
    }
}
