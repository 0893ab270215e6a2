//! Images: SIF files by content, which projects upload in pieces.
//!
//! Invariants: a file under its hash is whole, verified, on disk and read-only. A project may use what it has
//! uploaded itself, every byte of it, and is told nothing of what others have; only the room on the disk is
//! shared. What was uploaded outlives a break of the connection and a restart, and goes when nobody takes it up
//! again. An image goes when no deployment that serves refers to it, some time later. The spawner reads the
//! files; it trusts neither them nor Resadmin.

mod sif;
mod upload;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use isms_protocol::{
    ContentHash, ErrorCode, PrincipalId, ProjectId, WireError,
    resadmin::{Image, ImageState, Right, UploadImage},
};
use tokio::sync::{Mutex, Semaphore};

pub use upload::Upload;

use crate::{
    config::{Config, UPLOADS_MAX},
    files::FileError,
    manifest,
    service::{Core, Turns},
    store::StoreError,
};

/// Uploads that a project may have begun and not ended.
const UPLOADS_OF_PROJECT_MAX: usize = 4;
/// Uploads that all projects together may have begun and not ended.
const UPLOADS_BEGUN_MAX: usize = 64;
/// How long an upload that nobody goes on with is kept.
const UPLOAD_KEPT_S: u64 = 24 * 60 * 60;
/// How long an image is kept for the deployment that it was uploaded for.
pub(crate) const IMAGE_KEPT_S: u64 = 24 * 60 * 60;
/// How long an image is kept that served until now: calls of the version before may still start workers.
pub(crate) const IMAGE_RELEASED_S: u64 = 60 * 60;

/// The files, and what is going on with them.
pub(crate) struct Images {
    directory: PathBuf,
    uploads: PathBuf,
    len_max: u64,
    disk_len_max: u64,
    /// Bytes of all files, uploads included.
    stored: AtomicU64,
    /// Uploads whose bytes are coming in.
    permits: Arc<Semaphore>,
    /// One writer for each upload.
    turns: Turns,
    /// Held while a file becomes an image, and while images are removed.
    adopting: Mutex<()>,
}

/// The begin of an upload.
pub enum Begun {
    /// There is nothing to upload any more.
    Complete(ImageState),
    /// Bytes are wanted.
    Open(Upload),
}

impl Images {
    /// Opens the folders and removes what is not recorded.
    pub(crate) fn open(
        config: &Config,
        images: &HashSet<ContentHash>,
        uploads: &HashSet<(ProjectId, ContentHash)>,
    ) -> Result<Images, FileError> {
        let directory = config.directory.join("images");
        let partial = config.directory.join("uploads");
        let images: HashSet<String> = images.iter().map(ToString::to_string).collect();
        let uploads: HashSet<String> = uploads
            .iter()
            .map(|(project, image)| upload_name(*project, *image))
            .collect();
        let stored = sweep_folder(&directory, &images)? + sweep_folder(&partial, &uploads)?;
        Ok(Images {
            directory,
            uploads: partial,
            len_max: config.image_len_max,
            disk_len_max: config.images_len_max,
            stored: AtomicU64::new(stored),
            permits: Arc::new(Semaphore::new(UPLOADS_MAX)),
            turns: Turns::default(),
            adopting: Mutex::new(()),
        })
    }

    fn image_path(&self, image: ContentHash) -> PathBuf {
        self.directory.join(image.to_string())
    }

    fn upload_path(&self, project: ProjectId, image: ContentHash) -> PathBuf {
        self.uploads.join(upload_name(project, image))
    }

    /// Takes room on the disk; false when the administrator's limit leaves none.
    fn reserve(&self, len: u64) -> bool {
        let taken = |stored: u64| {
            stored
                .checked_add(len)
                .filter(|stored| *stored <= self.disk_len_max)
        };
        self.stored
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn release(&self, len: u64) {
        self.stored.fetch_sub(len, Ordering::Relaxed);
    }

    fn disk_error(&self) -> WireError {
        let message = format!(
            "the images of all projects may have {} MiB together and this one does not fit; delete a project that \
             is not needed, or have the administrator raise [images] disk_mb_max in isms.toml",
            self.disk_len_max >> 20
        );
        WireError::new(ErrorCode::LimitReached, message)
    }

    /// Removes the files of uploads that are not in a list: those of deleted projects, and those given up.
    fn remove_uploads_but(&self, recorded: &HashSet<String>) {
        let entries = match fs::read_dir(&self.uploads) {
            Ok(entries) => entries,
            Err(error) => {
                return tracing::warn!(%error, "uploads could not be listed, the next start tries again");
            }
        };
        for entry in entries.flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && !recorded.contains(&name)
                && let Some(_turn) = self.turns.take(&name)
            {
                self.remove(&entry.path());
            }
        }
    }

    /// Removes a file that is there, and gives its room back.
    fn remove(&self, path: &Path) {
        let removed = fs::metadata(path).and_then(|metadata| {
            fs::remove_file(path)?;
            Ok(metadata.len())
        });
        match removed {
            Ok(len) => self.release(len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "file could not be removed, the next start tries again");
            }
        }
    }
}

impl Core {
    /// How much of an image a project has uploaded.
    pub(crate) async fn image(&self, principal: PrincipalId, asked: Image) -> Result<ImageState, WireError> {
        let image = asked.image;
        let Some(project) = self.project_of_images(principal, &asked.project).await? else {
            return Ok(ImageState {
                offset: 0,
                complete: false,
            });
        };
        if let Some(len) = self.store.project_image(project, image).await? {
            return Ok(complete(len));
        }
        Ok(ImageState {
            offset: self.uploaded(project, image)?,
            complete: false,
        })
    }

    /// Begins to take in bytes of an image, behind those that are there.
    pub(crate) async fn begin_upload(
        self: &Arc<Self>,
        principal: PrincipalId,
        asked: UploadImage,
    ) -> Result<Begun, WireError> {
        let UploadImage {
            image, len, offset, ..
        } = asked;
        let project = self.project_of_images(principal, &asked.project).await?;
        let images = &self.images;
        if len > images.len_max {
            let message = format!(
                "the image has {len} bytes; {} are allowed, the administrator sets [images] size_mb_max in isms.toml",
                images.len_max
            );
            return Err(WireError::new(ErrorCode::TooLarge, message));
        }
        if offset > len || len < sif::HEADER_LEN as u64 {
            let message = format!("an image of {len} bytes cannot go on at byte {offset}");
            return Err(WireError::new(ErrorCode::Invalid, message));
        }
        let project = match project {
            Some(project) => project,
            None => self.store.reserve_project(&asked.project).await?,
        };
        let turn = images.turns.take(&upload_name(project, image)).ok_or_else(|| {
            let message = "this image is being uploaded by somebody else; try again later";
            WireError::new(ErrorCode::Conflict, message)
        })?;
        if let Some(len) = self.store.project_image(project, image).await? {
            return Ok(Begun::Complete(complete(len)));
        }
        let permit = Arc::clone(&images.permits).try_acquire_owned().map_err(|_| {
            let message = format!("{UPLOADS_MAX} images are being uploaded; try again later");
            WireError::new(ErrorCode::Busy, message)
        })?;
        self.sweep_images().await?;
        let uploaded = self.uploaded(project, image)?;
        if uploaded != offset {
            let message = format!("{uploaded} bytes of this image are there; go on at that offset");
            return Err(WireError::new(ErrorCode::Conflict, message));
        }
        self.store
            .begin_image_upload(
                (project, image),
                (self.clock)(),
                (UPLOADS_OF_PROJECT_MAX, UPLOADS_BEGUN_MAX),
            )
            .await?;
        let room = images.stored.load(Ordering::Relaxed).saturating_add(len - offset);
        if room > images.disk_len_max {
            return Err(images.disk_error());
        }
        Upload::open(Arc::clone(self), (project, image), len, offset, (turn, permit))
            .await
            .map(Begun::Open)
    }

    /// Removes images that nothing needs, and uploads that nobody goes on with.
    pub(crate) async fn sweep_images(&self) -> Result<(), StoreError> {
        let _adopting = self.images.adopting.lock().await;
        let now = (self.clock)();
        for image in self.store.forget_images(now).await? {
            self.images.remove(&self.images.image_path(image));
            tracing::info!(%image, "image was removed, nothing refers to it");
        }
        for (project, image) in self
            .store
            .stale_uploads(now.saturating_sub(UPLOAD_KEPT_S))
            .await?
        {
            // Not under the hands of somebody who has just gone on with it.
            let Some(_turn) = self.images.turns.take(&upload_name(project, image)) else {
                continue;
            };
            self.store.end_upload(project, image).await?;
            tracing::info!(%project, %image, "upload is removed, nobody went on with it");
        }
        let recorded = self.store.uploads().await?;
        let recorded = recorded
            .iter()
            .map(|(project, image)| upload_name(*project, *image))
            .collect();
        self.images.remove_uploads_but(&recorded);
        Ok(())
    }

    /// The project that images are uploaded for, if it exists; checks that the caller may deploy it.
    async fn project_of_images(
        &self,
        principal: PrincipalId,
        name: &str,
    ) -> Result<Option<ProjectId>, WireError> {
        let principal = self.principal(principal, Right::Deploy).await?;
        if !manifest::is_name(name) {
            return Err(WireError::new(
                ErrorCode::Invalid,
                format!("{name:?} is not a project's name"),
            ));
        }
        let project = self.store.project(name).await?;
        if principal.project.is_some() && principal.project != project {
            return Err(WireError::new(
                ErrorCode::NotFound,
                format!("there is no project {name}"),
            ));
        }
        Ok(project)
    }

    /// Bytes of an upload that are there.
    fn uploaded(&self, project: ProjectId, image: ContentHash) -> Result<u64, FileError> {
        let path = self.images.upload_path(project, image);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(FileError::Io { path, source }),
        }
    }
}

fn complete(len: u64) -> ImageState {
    ImageState {
        offset: len,
        complete: true,
    }
}

fn upload_name(project: ProjectId, image: ContentHash) -> String {
    format!("{project}-{image}")
}

/// Removes what is not in a list from a folder; the bytes of what stays.
fn sweep_folder(folder: &Path, kept: &HashSet<String>) -> Result<u64, FileError> {
    let failed = |source| FileError::Io {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let mut len = 0;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
            len += entry.metadata().map_err(failed)?.len();
        } else {
            fs::remove_file(entry.path()).map_err(failed)?;
            tracing::info!(file = %entry.path().display(), "unrecorded file was removed");
        }
    }
    Ok(len)
}
