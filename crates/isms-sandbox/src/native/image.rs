//! Makes the root of native sandboxes from a SIF image: its squashfs, mounted at its offset, below the executor.
//!
//! Runs in a preparing process of the spawner; the mounts belong to the spawner's own mount namespace, so the kernel
//! takes them away, loop devices included, when spawner and workers are gone, however they went. An image is foreign:
//! its nodes and set-uid files are dead, its links are resolved within it, and nothing of it is executed here.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::{CStr, CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use super::{
    elf::{self, Needs},
    root,
    template::{LIBRARIES_MAX, LIBRARY_DIRECTORIES, LIBRARY_LEN_MAX, StageError, Template},
};
use crate::{
    linux::{check, check_long},
    sif::{self, Partition, SifError},
};

/// Names in an image's directory: where its squashfs and where its root is mounted.
const LOWER: &CStr = c"lower";
const ROOT: &CStr = c"root";
/// Directory of the templates with what lies over images.
const OVER: &str = "over-images";

/// Attempts to get a loop device that others want as well.
const LOOP_ATTEMPTS: usize = 16;
/// The cache in which a loader finds libraries outside of its directories, and how much of it is looked at.
const LOADER_CACHE: &str = "etc/ld.so.cache";
const LOADER_CACHE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// What it takes to make roots from images.
#[derive(Debug)]
pub(crate) struct ImageRoots {
    /// What lies over each image, seen from an image's directory.
    over: CString,
    /// What the executor needs of an image.
    needs: Needs,
}

/// Why an image cannot be a root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error(transparent)]
    Sif(#[from] SifError),
    #[error("cannot {what}")]
    Step {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot get a loop device; load the kernel's module `loop`")]
    Loop(#[source] io::Error),
    #[error("the kernel refuses its squashfs, which is damaged or compressed in a way that it does not know")]
    Squashfs(#[source] io::Error),
    #[error("it has musl for its C library; build it from a distribution with glibc")]
    Musl,
    #[error("it lacks the loader {0}; build it from a distribution with glibc for this machine")]
    NoLoader(PathBuf),
    #[error("its {0} is not a program for this machine")]
    Foreign(PathBuf),
    #[error("it lacks the shared library {} that {} needs; install it in the image", name.display(), by.display())]
    NoLibrary { name: OsString, by: OsString },
    #[error("its {} is too old: it lacks the version {}; build it from a newer distribution", library.display(), version.display())]
    TooOld { library: OsString, version: OsString },
}

impl ImageRoots {
    /// Stages what lies over images in `templates`; `images` is the directory of the images' directories.
    pub(super) fn new(
        templates: &Path,
        images: &Path,
        executor: &Path,
        stage: impl FnOnce(&Path) -> Result<(), StageError>,
    ) -> Result<Self, StageError> {
        let over = templates.join(OVER);
        stage(&over)?;
        // Relative, because a path may hold the characters by which overlay's options are divided.
        let relative = match images.parent().map(|parent| over.strip_prefix(parent)) {
            Some(Ok(path)) => Path::new("../..").join(path),
            _ => over,
        };
        Ok(Self {
            over: super::template::c_string(&relative)?,
            needs: super::template::read_needs(executor)?,
        })
    }

    /// Mounts the image in `file` as a root below `directory`. To be called in a process of its own, whose working
    /// directory it changes.
    pub(crate) fn mount(&self, directory: &Path, file: &str) -> Result<(), ImageError> {
        let step = |what| move |source| ImageError::Step { what, source };
        std::env::set_current_dir(directory).map_err(step("enter its directory"))?;
        let file = File::open(file).map_err(step("open it"))?;
        let partition = sif::read(&file)?;
        for name in [LOWER, ROOT] {
            let name = OsStr::from_bytes(name.to_bytes());
            match fs::create_dir(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(step("make a directory for it")(error));
                }
                _ => {}
            }
        }
        // The mount holds the device when this descriptor is closed.
        let (_device, path) = attach_loop(&file, &partition).map_err(ImageError::Loop)?;
        let flags = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOSUID;
        root::mount(Some(&path), LOWER, Some(c"squashfs"), flags, None).map_err(ImageError::Squashfs)?;
        Tree::open(LOWER)
            .map_err(step("look into it"))?
            .check(&self.needs)?;
        let over = OsStr::from_bytes(self.over.to_bytes());
        // An image may hold marks of overlay's own; those that lead elsewhere are not followed.
        let options = format!(
            "lowerdir={}:lower,redirect_dir=nofollow,metacopy=off",
            over.display()
        );
        let options = CString::new(options).map_err(|error| step("name its layers")(error.into()))?;
        root::mount(Some(c"overlay"), ROOT, Some(c"overlay"), flags, Some(&options))
            .map_err(step("mount the executor over it"))
    }

    /// The root that was mounted.
    pub(crate) fn open(directory: &Path) -> Result<Template, StageError> {
        Template::mounted(&directory.join(OsStr::from_bytes(ROOT.to_bytes())))
    }

    /// Takes away what was mounted, if anything. Sandboxes that run in it keep it.
    pub(crate) fn unmount(directory: &Path) {
        for name in [ROOT, LOWER] {
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            let Ok(path) = super::template::c_string(&path) else {
                continue;
            };
            let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
            // SAFETY: a C string and plain numbers. Nothing to unmount is fine.
            unsafe { libc::umount2(path.as_ptr(), flags) };
        }
    }
}

/// Gives this process a mount namespace of its own, into which the host's changes come and from which none go.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    root::mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None)
}

/// The kernel's `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    len_max: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_len: u32,
    flags: u32,
    names_and_keys: [u64; 22],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// A read-only loop device on the partition, which goes when nobody uses it any more; and its path.
fn attach_loop(file: &File, partition: &Partition) -> io::Result<(File, CString)> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: partition.offset,
        len_max: partition.len,
        number: 0,
        encrypt_type: 0,
        encrypt_key_len: 0,
        flags: READ_ONLY | AUTOCLEAR,
        names_and_keys: [0; 22],
        reserved: [0; 8],
    };
    for _ in 0..LOOP_ATTEMPTS {
        // SAFETY: takes no argument.
        let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
        let path = format!("/dev/loop{number}");
        let device = File::open(&path)?;
        // SAFETY: `config` is laid out as the kernel's struct and only read.
        match check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) }) {
            Ok(_) => return Ok((device, CString::new(path)?)),
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// A directory out of which no path leads, whatever links are in it.
struct Tree(File);

impl Tree {
    fn open(path: &CStr) -> io::Result<Self> {
        File::open(OsStr::from_bytes(path.to_bytes())).map(Self)
    }

    /// Checks that the executor can be loaded here.
    fn check(&self, needs: &Needs) -> Result<(), ImageError> {
        if let Some(loader) = &needs.interpreter {
            let Some(bytes) = self.read(loader, LIBRARY_LEN_MAX) else {
                return Err(if self.has_musl() {
                    ImageError::Musl
                } else {
                    ImageError::NoLoader(loader.clone())
                });
            };
            elf::needs(&bytes).map_err(|_| ImageError::Foreign(loader.clone()))?;
        }
        let loader_name = needs.interpreter.as_deref().and_then(Path::file_name);
        let mut found = BTreeSet::new();
        let program = OsString::from("the executor");
        let mut wanted: VecDeque<(OsString, OsString)> = needs
            .libraries
            .iter()
            .map(|name| (name.clone(), program.clone()))
            .collect();
        while let Some((name, by)) = wanted.pop_front() {
            if Some(name.as_os_str()) == loader_name || !found.insert(name.clone()) {
                continue;
            }
            let Some((bytes, library)) = self.library(&name).filter(|_| found.len() <= LIBRARIES_MAX) else {
                if self.is_in_cache(&name) {
                    continue;
                }
                return Err(ImageError::NoLibrary { name, by });
            };
            wanted.extend(library.libraries.into_iter().map(|wants| (wants, name.clone())));
            let versions = needs.versions.iter().filter(|(library, _)| *library == name);
            for (library, version) in versions {
                if !contains_string(&bytes, version) {
                    let (library, version) = (library.clone(), version.clone());
                    return Err(ImageError::TooOld { library, version });
                }
            }
        }
        Ok(())
    }

    /// The library of this name where the loader looks for it, for this machine.
    fn library(&self, name: &OsStr) -> Option<(Vec<u8>, Needs)> {
        if Path::new(name).components().count() != 1 {
            return None;
        }
        LIBRARY_DIRECTORIES.iter().find_map(|directory| {
            let bytes = self.read(&Path::new(directory).join(name), LIBRARY_LEN_MAX)?;
            let needs = elf::needs(&bytes).ok()?;
            Some((bytes, needs))
        })
    }

    fn has_musl(&self) -> bool {
        ["lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"]
            .iter()
            .any(|path| self.open_within(Path::new(path)).is_ok())
    }

    /// The image's own cache of libraries in other directories names it; whether it is right, the loader will say.
    fn is_in_cache(&self, name: &OsStr) -> bool {
        self.read(Path::new(LOADER_CACHE), LOADER_CACHE_LEN_MAX)
            .is_some_and(|cache| contains_string(&cache, name))
    }

    fn read(&self, path: &Path, len_max: u64) -> Option<Vec<u8>> {
        let file = self.open_within(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > len_max {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn open_within(&self, path: &Path) -> io::Result<File> {
        const RESOLVE_NO_MAGICLINKS: u64 = 2;
        const RESOLVE_IN_ROOT: u64 = 16;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let how: [u64; 3] = [flags as u64, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS];
        // SAFETY: a C string, and an array laid out as the kernel's `struct open_how`; the new descriptor is ours.
        unsafe {
            let opened = libc::syscall(
                libc::SYS_openat2,
                self.0.as_raw_fd(),
                path.as_ptr(),
                how.as_ptr(),
                size_of_val(&how),
            );
            check_long(opened).map(|fd| File::from_raw_fd(fd as RawFd))
        }
    }
}

/// Whether the bytes hold this string, ended by a zero as in a table of strings.
fn contains_string(bytes: &[u8], string: &OsStr) -> bool {
    let wanted = [string.as_bytes(), &[0]].concat();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
