//! Images that workers run in: copied, verified and prepared by a process of its own each, so that the spawner waits
//! for none; kept while they are used, and a few after that.
//!
//! An image lies where another role put it, who may change it at any time. So it is copied into the run directory,
//! and the copy is what its hash is taken of and what is used. A preparing process dies with the spawner, and what is
//! half done is removed. Not here: what an image is made into (`native`, `apptainer`).

mod helper;
mod stage;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, DirBuilder},
    io,
    os::{fd::BorrowedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use self::helper::{Helper, Outcome};
use super::environment::ImageHash;

/// Images being prepared at a time; further ones wait. Each reads and hashes at the speed of a core.
const HELPERS_MAX: usize = 2;
/// How long one may take.
const STAGE_TIMEOUT: Duration = Duration::from_secs(120);
/// Staged images at a time, used or not.
const IMAGES_MAX: usize = 32;
/// Staged images that stay although nobody has used them for a while.
const UNUSED_KEPT: usize = 4;
/// That while.
const UNUSED_MAX: Duration = Duration::from_secs(600);

/// What an image is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// The SIF file itself, verified.
    File,
    /// The root of native sandboxes.
    Root,
}

/// An image that is ready for use. As long as somebody holds one, it stays.
#[derive(Debug)]
pub(crate) struct StagedImage {
    directory: PathBuf,
}

/// How far an image is.
#[derive(Debug)]
pub(super) enum Readiness {
    Ready(Rc<StagedImage>),
    /// Ask again after the next call of [`Images::reap`].
    Staging,
    Refused(String),
}

/// A preparation that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) image: ImageHash,
    pub(super) form: Form,
    pub(super) message: String,
}

/// All images of a spawner.
#[derive(Debug)]
pub(super) struct Images {
    /// Where another role keeps them.
    source: PathBuf,
    /// Where they are staged: a directory each, named by its hash.
    directory: PathBuf,
    len_max: u64,
    staged: BTreeMap<ImageHash, Staged>,
    preparing: Vec<Preparing>,
}

#[derive(Debug)]
struct Staged {
    image: Rc<StagedImage>,
    used: Instant,
}

#[derive(Debug)]
struct Preparing {
    image: ImageHash,
    form: Form,
    helper: Helper,
    deadline: Instant,
}

impl StagedImage {
    /// The SIF file: verified, checked to be for this machine, and the spawner's own.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join(stage::FILE)
    }
}

impl fmt::Display for ImageHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Images {
    /// With an empty directory; what an earlier run left there is removed.
    pub(super) fn new(source: PathBuf, directory: PathBuf, len_max: u64) -> io::Result<Self> {
        remove(&directory)?;
        DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
        Ok(Self {
            source,
            directory,
            len_max,
            staged: BTreeMap::new(),
            preparing: Vec::new(),
        })
    }

    /// The image in this form; starts to prepare it when that has to be done.
    pub(super) fn want(&mut self, image: ImageHash, form: Form, now: Instant) -> Readiness {
        if form == Form::Root {
            return Readiness::Refused("images are not served by the native backend yet".to_owned());
        }
        if let Some(staged) = self.staged.get_mut(&image) {
            staged.used = now;
            return Readiness::Ready(Rc::clone(&staged.image));
        }
        let is_preparing = self.preparing.iter().any(|preparing| preparing.image == image);
        if is_preparing || self.preparing.len() >= HELPERS_MAX {
            return Readiness::Staging;
        }
        if !self.make_room() {
            return Readiness::Refused(format!(
                "there are {IMAGES_MAX} images in use, which is the most; stop Doees that use others"
            ));
        }
        match self.prepare(image, form) {
            Ok(helper) => {
                self.preparing.push(Preparing {
                    image,
                    form,
                    helper,
                    deadline: now + STAGE_TIMEOUT,
                });
                Readiness::Staging
            }
            Err(error) => Readiness::Refused(format!("cannot stage the image {image}: {error}")),
        }
    }

    fn prepare(&self, image: ImageHash, form: Form) -> io::Result<Helper> {
        let target = self.place(image);
        match form {
            Form::File | Form::Root => {
                remove(&target)?;
                DirBuilder::new().mode(0o700).create(&target)?;
                let source = self.source.join(image.to_string());
                let len_max = self.len_max;
                Helper::start(move || stage::file(&source, &target, image, len_max))
            }
        }
    }

    fn place(&self, image: ImageHash) -> PathBuf {
        self.directory.join(image.to_string())
    }

    /// What to wait for, beside [`Self::deadline`].
    pub(super) fn watches(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.preparing.iter().map(|preparing| preparing.helper.report())
    }

    /// When to look again at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.preparing.iter().map(|preparing| preparing.deadline).min()
    }

    /// Takes over what is prepared; returns what could not be.
    pub(super) fn reap(&mut self, now: Instant) -> Vec<Failure> {
        let mut failures = Vec::new();
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for mut preparing in self.preparing.drain(..) {
            let late = now >= preparing.deadline;
            match preparing.helper.outcome(late) {
                Outcome::Running => running.push(preparing),
                Outcome::Done(result) => ended.push((preparing, result)),
            }
        }
        self.preparing = running;
        for (Preparing { image, form, .. }, result) in ended {
            match result {
                Ok(()) => self.take_over(image, now),
                Err(message) => {
                    let _ = remove(&self.place(image));
                    let message = format!("cannot use the image {image}: {message}");
                    failures.push(Failure { image, form, message });
                }
            }
        }
        failures
    }

    fn take_over(&mut self, image: ImageHash, now: Instant) {
        let staged = StagedImage {
            directory: self.place(image),
        };
        self.staged.insert(
            image,
            Staged {
                image: Rc::new(staged),
                used: now,
            },
        );
    }

    /// Removes what nobody has used for a while, all but a few.
    pub(super) fn sweep(&mut self, now: Instant) {
        for staged in self.staged.values_mut() {
            if staged.is_in_use() {
                staged.used = now;
            }
        }
        while self.staged.len() > UNUSED_KEPT {
            let oldest = self.longest_unused();
            let Some((image, used)) = oldest.filter(|(_, used)| now.duration_since(*used) >= UNUSED_MAX)
            else {
                return;
            };
            let _ = used;
            self.discard(image);
        }
    }

    /// Room for one more image; the longest unused one goes for it.
    fn make_room(&mut self) -> bool {
        while self.staged.len() + self.preparing.len() >= IMAGES_MAX {
            match self.longest_unused() {
                Some((image, _)) => self.discard(image),
                None => return false,
            }
        }
        true
    }

    fn longest_unused(&self) -> Option<(ImageHash, Instant)> {
        let unused = self.staged.iter().filter(|(_, staged)| !staged.is_in_use());
        unused
            .map(|(image, staged)| (*image, staged.used))
            .min_by_key(|(_, used)| *used)
    }

    fn discard(&mut self, image: ImageHash) {
        self.staged.remove(&image);
        // What cannot be removed goes with the directory, at the end or at the next start.
        let _ = remove(&self.place(image));
    }

    /// Ends all that is being prepared and removes everything.
    pub(super) fn close(mut self) {
        self.preparing.clear();
        self.staged.clear();
        let _ = remove(&self.directory);
    }
}

impl Staged {
    fn is_in_use(&self) -> bool {
        Rc::strong_count(&self.image) > 1
    }
}

/// Removes a directory and all that is in it; one that does not exist is fine.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
