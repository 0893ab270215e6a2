//! The root directory that all sandboxes of a shape see, read-only: staged once, bound into each.
//!
//! A worker's root holds the executor, its loader, the runtime libraries that C and C++ Doees need, and empty
//! mount points: no shell, no configuration, no device. A builder's root also shows the host's toolchain. What lies over
//! an image holds the executor and the mount points only. What is mounted is data: `policy/mounts.toml`.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io, mem,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use super::{
    elf::{self, ElfError},
    mounts::{Entry, Policy, Shape, What},
    root::Mount,
};

/// Where the system keeps shared libraries, by the distribution's habit.
pub(super) const LIBRARY_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// What a Doee may link to, whether the executor does or not.
const RUNTIME_LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];

/// Libraries that one template holds, and bytes of one of them.
pub(super) const LIBRARIES_MAX: usize = 256;
pub(super) const LIBRARY_LEN_MAX: u64 = 256 * 1024 * 1024;

/// A staged root.
#[derive(Debug)]
pub(crate) struct Template {
    root: OwnedFd,
    executable: CString,
    argument: CString,
    /// What of the host is shown in it.
    hosts: Vec<Mount>,
}

/// Why a template could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file or directory of the template, or its source.
    #[error("cannot stage {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program or library that is none.
    #[error("cannot use {path}")]
    Elf {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// A library that a program asks for.
    #[error("cannot find the shared library {name:?} that {path} needs; install it")]
    Missing {
        /// Which.
        name: OsString,
        /// Who needs it.
        path: PathBuf,
    },
}

impl Template {
    /// Stages a root of `shape` in the new directory `root`, which an earlier run may have left behind.
    /// `sdk_include` becomes `/sdk/include` of a builder.
    pub(super) fn stage(
        root: &Path,
        shape: Shape,
        policy: &Policy,
        executable: &Path,
        sdk_include: &Path,
    ) -> Result<Self, StageError> {
        remove_leftover(root)?;
        make_skeleton(root, shape, policy)?;
        copy(executable, &below(root, Path::new(executable_of(shape).0)), 0o555)?;
        match shape {
            Shape::Worker => stage_libraries(root, executable)?,
            Shape::Builder | Shape::NetworkBuilder => {
                make_directory(&root.join("sdk"))?;
                copy_tree(sdk_include, &root.join("sdk/include"))?;
            }
        }
        let hosts = policy.of(shape).map(|entry| show_host(root, entry));
        let hosts = hosts
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect();
        Self::open(root, shape, hosts)
    }

    /// Stages what lies over the images that workers run in.
    pub(super) fn stage_over_images(
        root: &Path,
        policy: &Policy,
        executable: &Path,
    ) -> Result<(), StageError> {
        remove_leftover(root)?;
        make_skeleton(root, Shape::Worker, policy)?;
        copy(
            executable,
            &below(root, Path::new(executable_of(Shape::Worker).0)),
            0o555,
        )
    }

    /// A worker's root that is mounted at `root`.
    pub(super) fn mounted(root: &Path) -> Result<Self, StageError> {
        Self::open(root, Shape::Worker, Vec::new())
    }

    fn open(root: &Path, shape: Shape, hosts: Vec<Mount>) -> Result<Self, StageError> {
        let (executable, argument) = executable_of(shape);
        Ok(Self {
            root: open_directory(root)?,
            executable: c_string(Path::new(executable))?,
            argument: c_string(Path::new(argument))?,
            hosts,
        })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn executable(&self) -> &CString {
        &self.executable
    }

    pub(super) fn argument(&self) -> &CString {
        &self.argument
    }

    /// Takes out what of the host is to be shown in it.
    pub(super) fn take_hosts(&mut self) -> Vec<Mount> {
        mem::take(&mut self.hosts)
    }
}

/// Path inside, and name, of the program of a sandbox.
fn executable_of(shape: Shape) -> (&'static str, &'static str) {
    match shape {
        Shape::Worker => ("/isms/doee-executor", "doee-executor"),
        Shape::Builder | Shape::NetworkBuilder => ("/isms/doee-builder", "doee-builder"),
    }
}

/// Makes the directories on which something is mounted in every sandbox of the shape, or may be in one.
fn make_skeleton(root: &Path, shape: Shape, policy: &Policy) -> Result<(), StageError> {
    make_directory(root)?;
    make_directory(&root.join("isms"))?;
    make_directory(&root.join("dev"))?;
    let own = |entry: &&Entry| !matches!(entry.what, What::Root | What::Host | What::Device);
    policy
        .of(shape)
        .filter(own)
        .try_for_each(|entry| make_directories(&root.join(entry.target())))
}

/// Copies the loader, and everything that the executable and a C++ Doee need to load, to the paths where the
/// loader looks by default.
fn stage_libraries(root: &Path, executable: &Path) -> Result<(), StageError> {
    let needs = read_needs(executable)?;
    if let Some(interpreter) = &needs.interpreter {
        copy(interpreter, &below(root, interpreter), 0o555)?;
    }
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut wanted: VecDeque<(OsString, PathBuf)> = needs
        .libraries
        .into_iter()
        .map(|name| (name, executable.to_owned()))
        .collect();
    for name in RUNTIME_LIBRARIES {
        if find_library(OsStr::new(name)).is_some() {
            wanted.push_back((name.into(), executable.to_owned()));
        }
    }
    while let Some((name, path)) = wanted.pop_front() {
        let is_loader = needs
            .interpreter
            .as_ref()
            .is_some_and(|path| path.file_name() == Some(&name));
        if found.contains_key(&name) || is_loader {
            continue;
        }
        let library = find_library(&name).filter(|_| found.len() < LIBRARIES_MAX);
        let library = library.ok_or_else(|| StageError::Missing {
            name: name.clone(),
            path,
        })?;
        wanted.extend(
            read_needs(&library)?
                .libraries
                .into_iter()
                .map(|name| (name, library.clone())),
        );
        found.insert(name, library);
    }
    found
        .values()
        .try_for_each(|library| copy(library, &below(root, library), 0o444))
}

fn find_library(name: &OsStr) -> Option<PathBuf> {
    // A name with a slash would leave the library directories.
    if Path::new(name).components().count() != 1 {
        return None;
    }
    LIBRARY_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| {
            // A 32-bit library of the same name may come first.
            read_needs(path).is_ok()
        })
}

pub(super) fn read_needs(path: &Path) -> Result<elf::Needs, StageError> {
    let failed = |source| StageError::File {
        path: path.to_owned(),
        source,
    };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > LIBRARY_LEN_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let file = fs::read(path).map_err(failed)?;
    elf::needs(&file).map_err(|source| StageError::Elf {
        path: path.to_owned(),
        source,
    })
}

/// Makes the place of an entry that shows the host, or a link where the host has one to another directory.
fn show_host(root: &Path, entry: &Entry) -> Result<Option<Mount>, StageError> {
    let source = Path::new(entry.path());
    if !matches!(entry.what, What::Host | What::Device) {
        return Ok(None);
    }
    // What the host does not have is not shown.
    let (Ok(metadata), Ok(own)) = (fs::metadata(source), fs::symlink_metadata(source)) else {
        return Ok(None);
    };
    let target = root.join(entry.target());
    if metadata.is_dir() && own.is_symlink() {
        let failed = |source| StageError::File {
            path: target.clone(),
            source,
        };
        let link = fs::read_link(source).map_err(failed)?;
        symlink(link, &target).map_err(failed)?;
        return Ok(None);
    }
    if metadata.is_dir() {
        make_directories(&target)?;
    } else {
        copy(Path::new("/dev/null"), &target, 0o444)?;
    }
    Ok(Some(Mount::Host {
        source: c_string(source)?,
        target: c_string(Path::new(entry.target()))?,
        attributes: entry.attributes(),
    }))
}

/// The place in the root of an absolute path.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn remove_leftover(root: &Path) -> Result<(), StageError> {
    match fs::remove_dir_all(root) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StageError::File {
            path: root.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), StageError> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    // The umask of the process must not lock sandboxes out.
    let opened = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    opened.map_err(|source| StageError::File {
        path: path.to_owned(),
        source,
    })
}

fn make_directories(path: &Path) -> Result<(), StageError> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    missing.reverse();
    missing.into_iter().try_for_each(make_directory)
}

/// Copies a file's bytes (of a device: none) with a fixed mode.
fn copy(source: &Path, target: &Path, mode: u32) -> Result<(), StageError> {
    if let Some(directory) = target.parent() {
        make_directories(directory)?;
    }
    let copied = (|| {
        let mut target = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(target)?;
        let source = File::open(source)?;
        if source.metadata()?.is_file() {
            io::copy(&mut &source, &mut target)?;
        }
        target.set_permissions(fs::Permissions::from_mode(mode))
    })();
    copied.map_err(|error| StageError::File {
        path: source.to_owned(),
        source: error,
    })
}

/// Copies a small tree of regular files, without following links.
fn copy_tree(source: &Path, target: &Path) -> Result<(), StageError> {
    let failed = |error| StageError::File {
        path: source.to_owned(),
        source: error,
    };
    make_directory(target)?;
    for entry in fs::read_dir(source).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&from, &to)?;
        } else if kind.is_file() {
            copy(&from, &to, 0o444)?;
        }
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, StageError> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path);
    opened.map(OwnedFd::from).map_err(|source| StageError::File {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn c_string(path: &Path) -> Result<CString, StageError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| StageError::File {
        path: path.to_owned(),
        source: error.into(),
    })
}
