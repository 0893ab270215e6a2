//! Images that workers run in: copied, verified and prepared by a process of its own each, so that the spawner waits
//! for none; kept while they are used, and a few after that.
//!
//! An image lies where another role put it, who may change it at any time. So it is copied into the run directory,
//! and the copy is what its hash is taken of and what is used. A preparing process dies with the spawner, and what is
//! half done is removed. Not here: what an image is made into (`native`, `apptainer`).

mod helper;
mod stage;

use std::{
    cell::OnceCell,
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
use crate::native::{ImageRoots, Template};

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
    root: OnceCell<Template>,
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
    /// How roots are made, or why none can be.
    roots: Result<ImageRoots, String>,
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

    /// The root of native sandboxes, once the image was asked for in that form.
    pub(super) fn root(&self) -> Option<&Template> {
        self.root.get()
    }
}

impl fmt::Display for ImageHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Images {
    /// With an empty directory; what an earlier run left there is removed.
    pub(super) fn new(
        source: PathBuf,
        directory: PathBuf,
        len_max: u64,
        roots: Result<ImageRoots, String>,
    ) -> io::Result<Self> {
        remove(&directory)?;
        DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
        Ok(Self {
            source,
            directory,
            len_max,
            roots,
            staged: BTreeMap::new(),
            preparing: Vec::new(),
        })
    }

    /// The image in this form; starts to prepare it when that has to be done.
    pub(super) fn want(&mut self, image: ImageHash, form: Form, now: Instant) -> Readiness {
        if form == Form::Root
            && let Err(reason) = &self.roots
        {
            return Readiness::Refused(reason.clone());
        }
        let next = match self.staged.get_mut(&image) {
            Some(staged) => {
                staged.used = now;
                if form == Form::File || staged.image.root.get().is_some() {
                    return Readiness::Ready(Rc::clone(&staged.image));
                }
                Form::Root
            }
            // Before it can be a root, it is a file.
            None => Form::File,
        };
        if self.is_preparing(image) || self.preparing.len() >= HELPERS_MAX {
            return Readiness::Staging;
        }
        if next == Form::File && !self.make_room() {
            return Readiness::Refused(format!(
                "there are {IMAGES_MAX} images in use, which is the most; stop Doees that use others"
            ));
        }
        match self.prepare(image, next) {
            Ok(helper) => {
                self.preparing.push(Preparing {
                    image,
                    form: next,
                    helper,
                    deadline: now + STAGE_TIMEOUT,
                });
                Readiness::Staging
            }
            Err(error) => Readiness::Refused(format!("cannot stage the image {image}: {error}")),
        }
    }

    fn is_preparing(&self, image: ImageHash) -> bool {
        self.preparing.iter().any(|preparing| preparing.image == image)
    }

    fn prepare(&self, image: ImageHash, form: Form) -> io::Result<Helper> {
        let target = self.place(image);
        match (form, &self.roots) {
            (Form::Root, Ok(roots)) => Helper::start(|| roots.mount(&target, stage::FILE)),
            _ => {
                remove(&target)?;
                DirBuilder::new().mode(0o700).create(&target)?;
                let source = self.source.join(image.to_string());
                Helper::start(|| stage::file(&source, &target, image, self.len_max))
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
        // One that was killed for being late is heard of through its report.
        let in_time = self
            .preparing
            .iter()
            .filter(|preparing| !preparing.helper.is_late());
        in_time.map(|preparing| preparing.deadline).min()
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
            let done = result.and_then(|()| self.take_over(image, form, now));
            if let Err(message) = done {
                ImageRoots::unmount(&self.place(image));
                if form == Form::File {
                    let _ = remove(&self.place(image));
                }
                let message = format!("cannot use the image {image}: {message}");
                failures.push(Failure { image, form, message });
            }
        }
        failures
    }

    fn take_over(&mut self, image: ImageHash, form: Form, now: Instant) -> Result<(), String> {
        let directory = self.place(image);
        if form == Form::File {
            let root = OnceCell::new();
            let image_staged = Rc::new(StagedImage { directory, root });
            let staged = Staged {
                image: image_staged,
                used: now,
            };
            self.staged.insert(image, staged);
            return Ok(());
        }
        let root = ImageRoots::open(&directory).map_err(|error| error.to_string())?;
        if let Some(staged) = self.staged.get(&image) {
            // It is made once.
            let _ = staged.image.root.set(root);
        }
        Ok(())
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
        let is_unused = |image, staged: &Staged| !staged.is_in_use() && !self.is_preparing(image);
        let unused = self
            .staged
            .iter()
            .filter(|(image, staged)| is_unused(**image, staged));
        unused
            .map(|(image, staged)| (*image, staged.used))
            .min_by_key(|(_, used)| *used)
    }

    fn discard(&mut self, image: ImageHash) {
        self.staged.remove(&image);
        ImageRoots::unmount(&self.place(image));
        // What cannot be removed goes with the directory, at the end or at the next start.
        let _ = remove(&self.place(image));
    }

    /// Ends all that is being prepared and removes everything.
    pub(super) fn close(mut self) {
        self.preparing.clear();
        for image in std::mem::take(&mut self.staged).into_keys() {
            ImageRoots::unmount(&self.place(image));
        }
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
