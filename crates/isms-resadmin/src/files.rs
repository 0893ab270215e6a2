//! Files by the SHA-256 of their content: binaries and sources. Images are kept in `images.rs`.
//!
//! Invariants: a file under its final name is whole and on disk, folder entry included; it is recorded
//! in the store only after that; what is not recorded is swept at the next start.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use isms_protocol::{ContentHash, ErrorCode, WireError};
use sha2::{Digest, Sha256};

const TEMPORARY_PREFIX: &str = "new-";

/// A folder of files by content.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

/// Why a file cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: its content has another hash")]
    Damaged { path: PathBuf },
    #[error("a file task was stopped")]
    Stopped,
}

impl From<FileError> for WireError {
    fn from(error: FileError) -> WireError {
        tracing::error!(error = &error as &dyn std::error::Error, "file could not be used");
        WireError::new(ErrorCode::Internal, "Resadmin cannot use its files; see its log")
    }
}

impl Files {
    /// Opens the folder and removes whatever is not recorded.
    pub(crate) fn open(directory: PathBuf, recorded: &HashSet<ContentHash>) -> Result<Files, FileError> {
        let failed = |source| FileError::Io {
            path: directory.clone(),
            source,
        };
        fs::create_dir_all(&directory).map_err(failed)?;
        let recorded: HashSet<String> = recorded.iter().map(ToString::to_string).collect();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry
                .file_name()
                .to_str()
                .is_none_or(|name| !recorded.contains(name))
            {
                fs::remove_file(entry.path()).map_err(failed)?;
                tracing::info!(file = %entry.path().display(), "unrecorded file was removed");
            }
        }
        Ok(Files { directory })
    }

    /// Stores content durably.
    pub(crate) async fn put(&self, content: Bytes) -> Result<ContentHash, FileError> {
        let directory = self.directory.clone();
        blocking(move || {
            let hash = hash(&content);
            write(&directory, &hash, &content).map_err(|source| FileError::Io {
                path: directory.join(hash.to_string()),
                source,
            })?;
            Ok(hash)
        })
        .await
    }

    /// Reads content and verifies it.
    pub(crate) async fn get(&self, wanted: ContentHash) -> Result<Bytes, FileError> {
        let path = self.directory.join(wanted.to_string());
        blocking(move || {
            let content = fs::read(&path).map_err(|source| FileError::Io {
                path: path.clone(),
                source,
            })?;
            if hash(&content) != wanted {
                return Err(FileError::Damaged { path });
            }
            Ok(content.into())
        })
        .await
    }
}

/// SHA-256 of bytes.
pub(crate) fn hash(content: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(content).into())
}

fn write(directory: &Path, hash: &ContentHash, content: &[u8]) -> io::Result<()> {
    let path = directory.join(hash.to_string());
    if path.exists() {
        return Ok(());
    }
    let temporary = directory.join(format!(
        "{TEMPORARY_PREFIX}{hash}-{}",
        isms_protocol::ProcessId::generate()
    ));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    fs::File::open(directory)?.sync_all()
}

/// Makes the entries of a folder durable.
pub(crate) async fn sync_folder(folder: PathBuf) -> Result<(), FileError> {
    blocking(move || {
        let synced = fs::File::open(&folder).and_then(|file| file.sync_all());
        synced.map_err(|source| FileError::Io { path: folder, source })
    })
    .await
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(FileError::Stopped))
}
