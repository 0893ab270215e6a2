//! The root directory that all sandboxes of a profile see, read-only: staged once, bound into each.
//!
//! A worker's root holds the executor, its loader, the runtime libraries that C and C++ Doees need, and empty
//! mount points: no shell, no configuration, no device. A builder's root also shows the host's toolchain.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io,
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
    Profile,
    elf::{self, ElfError},
};

/// Where the system keeps shared libraries, by the distribution's habit.
const LIBRARY_DIRECTORIES: [&str; 8] = [
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
const LIBRARIES_MAX: usize = 256;
const LIBRARY_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Directories of the host that a builder sees: what the distribution's packages keep there, and not `/usr/local`,
/// where administrators keep what is theirs. Those outside of `/usr` are links into it on a merged system.
const TOOLCHAIN_DIRECTORIES: [&str; 12] = [
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/libexec",
    "/usr/include",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc/alternatives",
];
/// The only device of a builder; a worker has none.
const NULL_DEVICE: &str = "/dev/null";

/// A staged root.
#[derive(Debug)]
pub struct Template {
    root: OwnedFd,
    executable: CString,
    argument: CString,
    binds: Vec<Bind>,
}

/// Something of the host that is bound into the root when a sandbox starts.
#[derive(Debug)]
pub(super) struct Bind {
    /// On the host.
    pub(super) source: CString,
    /// Relative to the root.
    pub(super) target: CString,
    /// A device must not be bound "nodev".
    pub(super) device: bool,
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
    /// Stages the root of `profile` in the new directory `root`, which an earlier run may have left behind.
    /// `sdk_include` becomes `/sdk/include` of a builder.
    pub fn stage(
        root: &Path,
        profile: Profile,
        executable: &Path,
        sdk_include: &Path,
    ) -> Result<Self, StageError> {
        remove_leftover(root)?;
        make_directory(root)?;
        for name in ["isms", "tmp", "proc", "dev"] {
            make_directory(&root.join(name))?;
        }
        let argument = match profile {
            Profile::Worker => c"doee-executor",
            Profile::Builder => c"doee-builder",
        };
        let inside = Path::new("isms").join(OsStr::from_bytes(argument.to_bytes()));
        copy(executable, &root.join(&inside), 0o555)?;
        let binds = match profile {
            Profile::Worker => {
                stage_libraries(root, executable)?;
                Vec::new()
            }
            Profile::Builder => {
                make_directory(&root.join("sdk"))?;
                copy_tree(sdk_include, &root.join("sdk/include"))?;
                stage_toolchain(root)?
            }
        };
        Ok(Self {
            root: open_directory(root)?,
            executable: c_string(&Path::new("/").join(inside))?,
            argument: argument.to_owned(),
            binds,
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

    pub(super) fn binds(&self) -> &[Bind] {
        &self.binds
    }
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

fn read_needs(path: &Path) -> Result<elf::Needs, StageError> {
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

/// Makes the mount points of the host's toolchain, and links where the host has links.
fn stage_toolchain(root: &Path) -> Result<Vec<Bind>, StageError> {
    let mut binds = Vec::new();
    for directory in TOOLCHAIN_DIRECTORIES.map(Path::new) {
        let Ok(metadata) = fs::symlink_metadata(directory) else {
            continue;
        };
        let target = below(root, directory);
        if metadata.is_symlink() {
            let link = fs::read_link(directory).map_err(|source| StageError::File {
                path: directory.into(),
                source,
            })?;
            symlink(link, &target).map_err(|source| StageError::File { path: target, source })?;
        } else {
            make_directories(&target)?;
            binds.push(bind(directory, false)?);
        }
    }
    copy(Path::new("/dev/null"), &root.join("dev/null"), 0o444)?;
    binds.push(bind(Path::new(NULL_DEVICE), true)?);
    Ok(binds)
}

fn bind(source: &Path, device: bool) -> Result<Bind, StageError> {
    let target = source.strip_prefix("/").unwrap_or(source);
    Ok(Bind {
        source: c_string(source)?,
        target: c_string(target)?,
        device,
    })
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

fn c_string(path: &Path) -> Result<CString, StageError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| StageError::File {
        path: path.to_owned(),
        source: error.into(),
    })
}
