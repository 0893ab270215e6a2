//! What one sandbox gets beside its root: device nodes and directories of the host, as the administrator lists them.

use std::{
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

use super::{
    mounts::{Entry, READ_ONLY},
    root::{self, Mount},
    steps::Step,
};
use crate::linux::{check, check_long};

/// Granted openings of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    pub(crate) devices: Vec<Opening>,
    pub(crate) directories: Vec<Opening>,
    /// The host's network.
    pub(crate) network: bool,
}

/// Something of the host, and its name inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) source: PathBuf,
    pub(crate) name: OsString,
}

/// Why something of the host cannot be given to a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    #[error("cannot use {path}: {source}")]
    Source { path: PathBuf, source: io::Error },
    #[error("{path} is no character device; only such nodes can be given to a worker")]
    NotADevice { path: PathBuf },
    #[error("{path} is no directory")]
    NotADirectory { path: PathBuf },
    #[error("cannot make a device node of its own for the worker: {0}")]
    Node(io::Error),
}

/// Openings as a sandbox's start needs them.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) mounts: Vec<Mount>,
    /// A mount for [`root::HANDED`].
    pub(super) handed: Option<OwnedFd>,
    /// Paths of the device nodes inside.
    pub(super) devices: Vec<CString>,
}

impl Openings {
    /// Whether anything is mounted for them.
    pub(crate) fn has_mounts(&self) -> bool {
        !self.devices.is_empty() || !self.directories.is_empty()
    }
}

impl Granted {
    /// Adds device nodes as `entry` says. With `owner`, this process is privileged and makes nodes that belong to
    /// that host uid; without, the sandbox gets the host's nodes with the rights of this process.
    pub(super) fn add_devices(
        &mut self,
        entry: &Entry,
        devices: &[Opening],
        owner: Option<u32>,
    ) -> Result<(), OpeningError> {
        if devices.is_empty() {
            return Ok(());
        }
        let attributes = entry.attributes();
        let numbers = devices.iter().map(device_number).collect::<Result<Vec<_>, _>>()?;
        match owner {
            Some(owner) => {
                let nodes = devices.iter().map(|device| device.name.as_os_str()).zip(numbers);
                let mount = nodes_of_its_own(nodes, owner, attributes).map_err(OpeningError::Node)?;
                self.handed = Some(mount);
                let target = c_string(Path::new(entry.target()))?;
                self.mounts.push(Mount::Handed { target });
            }
            None => self.add_places(
                entry,
                devices,
                |target| Mount::File { target },
                attributes & !READ_ONLY,
            )?,
        }
        for device in devices {
            self.devices
                .push(c_string(&Path::new(entry.path()).join(&device.name))?);
        }
        Ok(())
    }

    /// Adds directories as `entry` says.
    pub(super) fn add_directories(
        &mut self,
        entry: &Entry,
        directories: &[Opening],
    ) -> Result<(), OpeningError> {
        if directories.is_empty() {
            return Ok(());
        }
        for directory in directories {
            let path = directory.source.clone();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(OpeningError::NotADirectory { path }),
                Err(source) => return Err(OpeningError::Source { path, source }),
            }
        }
        self.add_places(
            entry,
            directories,
            |target| Mount::Directory { target },
            entry.attributes(),
        )
    }

    /// A small file system at the entry's place with a place in it for each opening, on which that is mounted.
    fn add_places(
        &mut self,
        entry: &Entry,
        openings: &[Opening],
        place: impl Fn(CString) -> Mount,
        attributes: u64,
    ) -> Result<(), OpeningError> {
        let top = c_string(Path::new(entry.target()))?;
        self.mounts.push(Mount::New {
            kind: c"tmpfs",
            target: top.clone(),
            flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            options: PLACES.to_owned(),
            step: Step::Granted,
        });
        for opening in openings {
            let target = c_string(&Path::new(entry.target()).join(&opening.name))?;
            self.mounts.push(place(target.clone()));
            self.mounts.push(Mount::Host {
                source: c_string(&opening.source)?,
                target,
                attributes,
            });
        }
        self.mounts.push(Mount::Seal {
            target: top,
            attributes: READ_ONLY,
        });
        Ok(())
    }
}

/// Room for the places of all openings that there can be, and for no content.
const PLACES: &std::ffi::CStr = c"size=4096,nr_inodes=128,mode=0755";

fn device_number(device: &Opening) -> Result<u64, OpeningError> {
    let path = device.source.clone();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_char_device() => Ok(metadata.rdev()),
        Ok(_) => Err(OpeningError::NotADevice { path }),
        Err(source) => Err(OpeningError::Source { path, source }),
    }
}

/// A file system that holds nothing but these nodes, which belong to `owner` alone. It is attached nowhere, and goes
/// with its descriptor and the sandbox that attaches it.
fn nodes_of_its_own<'a>(
    nodes: impl Iterator<Item = (&'a OsStr, u64)>,
    owner: u32,
    attributes: u64,
) -> io::Result<OwnedFd> {
    let mount = new_tmpfs(attributes & !READ_ONLY)?;
    let directory = mount.as_raw_fd();
    for (name, number) in nodes {
        let name = CString::new(name.as_bytes())?;
        // SAFETY: C strings and plain numbers.
        unsafe {
            check(libc::mknodat(
                directory,
                name.as_ptr(),
                libc::S_IFCHR | 0o600,
                number,
            ))?;
            check(libc::fchownat(
                directory,
                name.as_ptr(),
                owner,
                owner,
                libc::AT_SYMLINK_NOFOLLOW,
            ))?;
        }
    }
    root::set_attributes(directory, c"", libc::AT_EMPTY_PATH, attributes)?;
    Ok(mount)
}

fn new_tmpfs(attributes: u64) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let owned = |fd: libc::c_long| {
        // SAFETY: a call has just returned this descriptor, so it is open and ours.
        unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
    };
    // SAFETY: C strings, null pointers where the kernel wants none, and plain numbers.
    unsafe {
        let context = check_long(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC))?;
        let context = owned(context);
        let options = [(c"size", c"4096"), (c"nr_inodes", c"128"), (c"mode", c"0755")];
        let set = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
            check_long(libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key,
                value,
                0,
            ))
        };
        for (key, value) in options {
            set(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
        }
        set(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        let mount = libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes as libc::c_uint,
        );
        check_long(mount).map(owned)
    }
}

fn c_string(path: &Path) -> Result<CString, OpeningError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| OpeningError::Source {
        path: path.to_owned(),
        source: error.into(),
    })
}
