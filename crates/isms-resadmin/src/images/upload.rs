//! One upload under way: takes in bytes, and makes the file an image when it is whole.
//!
//! Bytes go to the file in large pieces. Dropped, it keeps what is in the file; [`Upload::keep`] also what is not
//! there yet.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use isms_protocol::{ContentHash, ErrorCode, ProjectId, WireError, resadmin::ImageState};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::{IMAGE_KEPT_S, complete, sif};
use crate::{
    files::{FileError, blocking, sync_folder},
    service::{Core, Turn},
};

/// Bytes that are gathered before they are written.
const PIECE_LEN: usize = 1024 * 1024;

/// Bytes of an image that come in.
pub struct Upload {
    core: Arc<Core>,
    project: ProjectId,
    image: ContentHash,
    file: Arc<fs::File>,
    /// Length of the whole image.
    len: u64,
    /// Bytes that are in the file.
    written: u64,
    gathered: BytesMut,
    _alone: (Turn, OwnedSemaphorePermit),
}

/// What a whole file turned out to be.
enum Verdict {
    Good,
    Bad(String),
}

impl Upload {
    pub(super) async fn open(
        core: Arc<Core>,
        (project, image): (ProjectId, ContentHash),
        len: u64,
        written: u64,
        alone: (Turn, OwnedSemaphorePermit),
    ) -> Result<Upload, WireError> {
        let path = core.images.upload_path(project, image);
        let opened = blocking(move || {
            let mut options = fs::OpenOptions::new();
            options
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)
                .map_err(|source| FileError::Io { path, source })
        });
        Ok(Upload {
            file: Arc::new(opened.await?),
            core,
            project,
            image,
            len,
            written,
            gathered: BytesMut::new(),
            _alone: alone,
        })
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let so_far = self.written + (self.gathered.len() + bytes.len()) as u64;
        if so_far > self.len {
            let message = format!(
                "more bytes came than the image's {}; what is there is kept",
                self.len
            );
            return Err(WireError::new(ErrorCode::Invalid, message));
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_LEN {
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends before the stream did; what has come is kept, and the client goes on behind it.
    pub async fn keep(mut self) -> Result<ImageState, WireError> {
        self.flush().await?;
        let file = Arc::clone(&self.file);
        let (images, path) = (
            &self.core.images,
            self.core.images.upload_path(self.project, self.image),
        );
        blocking(move || file.sync_data().map_err(|source| FileError::Io { path, source })).await?;
        sync_folder(images.uploads.clone()).await?;
        Ok(ImageState {
            offset: self.written,
            complete: false,
        })
    }

    /// Ends after the last byte of the stream; makes the file an image if it is whole.
    pub async fn finish(mut self) -> Result<ImageState, WireError> {
        self.flush().await?;
        if self.written < self.len {
            return self.keep().await;
        }
        match self.verify().await? {
            Verdict::Good => self.adopt().await,
            Verdict::Bad(message) => {
                self.core.store.end_upload(self.project, self.image).await?;
                let images = &self.core.images;
                images.remove(&images.upload_path(self.project, self.image));
                Err(WireError::new(ErrorCode::Invalid, message))
            }
        }
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        let piece: Bytes = self.gathered.split().freeze();
        let len = piece.len() as u64;
        let images = &self.core.images;
        if !images.reserve(len) {
            return Err(images.disk_error());
        }
        let (file, written) = (Arc::clone(&self.file), self.written);
        let path = images.upload_path(self.project, self.image);
        let outcome = blocking(move || {
            // What was written of a piece that does not fit would count as uploaded.
            let outcome = (&*file).write_all(&piece).inspect_err(|_| {
                file.set_len(written).ok();
            });
            outcome.map_err(|source| FileError::Io { path, source })
        });
        match outcome.await {
            Ok(()) => {
                self.written += len;
                Ok(())
            }
            Err(error) => {
                images.release(len);
                Err(write_error(error))
            }
        }
    }

    /// Reads the file back: what is on the disk is what counts.
    async fn verify(&self) -> Result<Verdict, FileError> {
        let path = self.core.images.upload_path(self.project, self.image);
        let wanted = self.image;
        blocking(move || {
            verify(
                &mut fs::File::open(&path).map_err(|source| FileError::Io {
                    path: path.clone(),
                    source,
                })?,
                wanted,
            )
            .map_err(|source| FileError::Io { path, source })
        })
        .await
    }

    async fn adopt(self) -> Result<ImageState, WireError> {
        let Upload {
            core,
            project,
            image,
            file,
            len,
            ..
        } = self;
        let images = &core.images;
        let _adopting = images.adopting.lock().await;
        let (from, to) = (images.upload_path(project, image), images.image_path(image));
        if to.exists() {
            // Somebody else has uploaded the same: one file is enough.
            images.remove(&from);
        } else {
            blocking(move || {
                file.set_permissions(fs::Permissions::from_mode(0o444))
                    .and_then(|()| file.sync_all())
                    .and_then(|()| fs::rename(&from, &to))
                    .map_err(|source| FileError::Io { path: from, source })
            })
            .await?;
            sync_folder(images.directory.clone()).await?;
        }
        let kept_until_s = (core.clock)().saturating_add(IMAGE_KEPT_S);
        core.store.add_image(project, image, len, kept_until_s).await?;
        tracing::info!(%project, %image, len, "image was uploaded");
        Ok(complete(len))
    }
}

fn verify(file: &mut fs::File, wanted: ContentHash) -> io::Result<Verdict> {
    let mut header = [0; sif::HEADER_LEN];
    file.read_exact(&mut header)?;
    if let Err(error) = sif::check(&header) {
        return Ok(Verdict::Bad(error.to_string()));
    }
    let mut hasher = Sha256::new_with_prefix(header);
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            len => hasher.update(&piece[..len]),
        }
    }
    let found = ContentHash(hasher.finalize().into());
    Ok(if found == wanted {
        Verdict::Good
    } else {
        Verdict::Bad(format!(
            "what was uploaded has the hash {found} and not {wanted}: it was damaged on the way or changed \
             meanwhile; upload it again"
        ))
    })
}

/// The error of a write; a full disk is told, since the client can do nothing else about it.
fn write_error(error: FileError) -> WireError {
    match &error {
        FileError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "image could not be stored"
            );
            let message = "the platform's disk is full; what is uploaded is kept, go on when there is room";
            WireError::new(ErrorCode::LimitReached, message)
        }
        _ => error.into(),
    }
}
