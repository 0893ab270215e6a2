//! The spawner's side of a start: stages what the runtime may see once, then prepares, clones and places each container.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use super::{
    Runtime,
    command::{self, Binds},
    init::{self, BINDS_MAX, Bind, Node, Plan},
};
use crate::{
    native::{
        Group, Limits, Profile, Sandbox, StartError,
        shared::{Prepared, clone, resource_limits},
    },
    seccomp,
    spawner::Holes,
};

/// Namespaces of the init. The runtime makes further ones below them: mounts, pids and ipc.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What the init and the runtime's helper use of a worker's group, beyond what its Doee may use.
const RUNTIME_MEMORY_BYTES: u64 = 24 * 1024 * 1024;
const RUNTIME_PIDS: u32 = 16;

/// The container's `/tmp`, which counts as the worker's memory too.
const TEMPORARY_LEN_MAX: u64 = 16 * 1024 * 1024;
const TEMPORARY_FILES_MAX: u32 = 4096;

/// What `/proc` tells of the machine and a worker need not know; native workers see none of it. The kernel's own checks
/// keep it read-only for them in any case.
const HIDDEN_OF_PROC: [&str; 19] = [
    "acpi",
    "asound",
    "bus",
    "config.gz",
    "driver",
    "fs",
    "irq",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "scsi",
    "sched_debug",
    "sys",
    "sysrq-trigger",
    "timer_list",
];

/// The backend, prepared once.
#[derive(Debug)]
pub(crate) struct Apptainer {
    program: CString,
    environment: Vec<CString>,
    /// The staged directory that becomes `/run`.
    stage: PathBuf,
    executor: PathBuf,
    device_nodes: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    hidden_directories: Vec<String>,
    hidden_files: Vec<String>,
    maxima: Limits,
    null: OwnedFd,
}

/// The administrator's lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Openings<'a> {
    pub(crate) device_nodes: &'a [PathBuf],
    pub(crate) directories: &'a [PathBuf],
}

/// Why the backend, or one container, could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApptainerError {
    #[error("cannot stage {path} for apptainer: {source}")]
    Stage { path: PathBuf, source: io::Error },
    #[error("cannot make apptainer's system call filter: {0}")]
    Policy(String),
    #[error("cannot use the path {path} for apptainer; paths of images and openings may hold no zero byte")]
    Path { path: PathBuf },
    #[error("there is no device node {path}; connect the device, or change the administrator's list")]
    NoDevice { path: PathBuf },
    #[error(
        "{path} cannot be given to an apptainer worker: it must be a character device, in /dev, named by letters, \
         digits and -_./ only"
    )]
    Device { path: PathBuf },
    #[error(
        "{path} cannot be given to an apptainer worker: its last part must be letters, digits and -_. only"
    )]
    Directory { path: PathBuf },
    #[error("there is no device or directory with this number in the administrator's lists")]
    Unlisted,
    #[error("{0}")]
    Start(#[from] StartError),
}

/// The limits of a worker's group: the Doee's, and what the runtime uses itself.
pub(crate) fn allowance(limits: &Limits) -> Limits {
    Limits {
        memory_bytes: limits.memory_bytes.saturating_add(RUNTIME_MEMORY_BYTES),
        pids: limits.pids.saturating_add(RUNTIME_PIDS),
        ..*limits
    }
}

impl Apptainer {
    /// Stages in the new directory `stage`. `executor` is a file that every uid may read and execute.
    pub(crate) fn prepare(
        runtime: &Runtime,
        stage: &Path,
        executor: &Path,
        openings: Openings<'_>,
        maxima: &Limits,
    ) -> Result<Self, ApptainerError> {
        let profile = seccomp::oci_profile().map_err(|error| ApptainerError::Policy(error.to_string()))?;
        let directories = [
            "",
            command::TEMPORARY,
            command::STATE,
            command::DEVICES,
            command::DIRECTORIES,
            command::EMPTY_DIRECTORY,
        ];
        directories
            .iter()
            .try_for_each(|name| make_directory(&stage.join(name)))?;
        (0..openings.directories.len()).try_for_each(|number| {
            make_directory(&stage.join(command::DIRECTORIES).join(number.to_string()))
        })?;
        let files = [
            (command::IMAGE, ""),
            (command::EXECUTOR, ""),
            (command::EMPTY_FILE, ""),
            (command::PROFILE, &profile),
            (command::CONFIGURATION, &command::configuration(false)),
            (command::CONFIGURATION_WITH_DEVICES, &command::configuration(true)),
        ];
        files
            .iter()
            .try_for_each(|(name, text)| make_file(&stage.join(name), text))?;
        let hidden = HIDDEN_OF_PROC.map(|name| format!("/proc/{name}"));
        let hidden: Vec<String> = hidden
            .into_iter()
            .filter(|path| Path::new(path).exists())
            .collect();
        let (hidden_directories, hidden_files) =
            hidden.into_iter().partition(|path| Path::new(path).is_dir());
        Ok(Self {
            program: c_string(&runtime.program)?,
            environment: command::environment(),
            stage: stage.to_owned(),
            executor: executor.to_owned(),
            device_nodes: openings.device_nodes.to_vec(),
            directories: openings.directories.to_vec(),
            hidden_directories,
            hidden_files,
            maxima: *maxima,
            null: open_null()?,
        })
    }

    /// Starts a worker with the uid and gid `id` in the SIF file `image`. `group` has the limits of [`allowance`]. It
    /// is ready when its [`Sandbox::progress`] says so.
    pub(crate) fn start(
        &self,
        image: &Path,
        limits: &Limits,
        id: u32,
        group: &Group,
        holes: &Holes,
    ) -> Result<Sandbox, ApptainerError> {
        let devices = chosen(holes.devices, &self.device_nodes)?;
        let directories = chosen(holes.directories, &self.directories)?;
        let nodes = devices
            .iter()
            .map(|(number, path)| node(*number, path))
            .collect::<Result<Vec<_>, _>>()?;
        let places = directories
            .iter()
            .map(|(_, path)| place_inside(path))
            .collect::<Result<Vec<_>, _>>()?;
        let binds = Binds {
            devices: devices.iter().filter_map(|(_, path)| path.to_str()).collect(),
            directories: directories
                .iter()
                .map(|(number, _)| *number)
                .zip(places.iter().map(String::as_str))
                .collect(),
            hidden_directories: &self.hidden_directories,
            hidden_files: &self.hidden_files,
        };
        let arguments = command::arguments(id, &binds);
        let mut bound = vec![
            bind(&self.stage, "")?,
            bind(image, command::IMAGE)?,
            bind(&self.executor, command::EXECUTOR)?,
        ];
        for (number, path) in &directories {
            bound.push(bind(path, &format!("{}/{number}", command::DIRECTORIES))?);
        }
        bound.truncate(BINDS_MAX);
        self.clone_init(&arguments, &bound, &nodes, limits, id, group)
            .map_err(ApptainerError::from)
    }

    fn clone_init(
        &self,
        arguments: &[CString],
        binds: &[Bind],
        nodes: &[Node],
        limits: &Limits,
        id: u32,
        group: &Group,
    ) -> Result<Sandbox, StartError> {
        let prepared = Prepared::new(&self.null, None).map_err(StartError::Prepare)?;
        // Counted per uid, so the runtime, which is root, does not count. It cannot be changed from outside later; what
        // the Doee is given then is the group's.
        let per_uid = Limits {
            pids: self.maxima.pids,
            ..*limits
        };
        let resource_limits =
            resource_limits(Profile::Worker, &per_uid, &self.maxima, true).map_err(StartError::Prepare)?;
        let temporary_len = TEMPORARY_LEN_MAX.min(self.maxima.memory_bytes / 2);
        let temporary = text(format!(
            "size={temporary_len},nr_inodes={TEMPORARY_FILES_MAX},mode=0700,uid={id},gid={id}"
        ));
        let in_run = |name| text(format!("{}/{name}", command::RUN));
        let (temporary_path, state_path, devices_path) = (
            in_run(command::TEMPORARY),
            in_run(command::STATE),
            in_run(command::DEVICES),
        );
        let (arguments, environment) = (init::pointers(arguments), init::pointers(&self.environment));
        let plan = Plan {
            descriptors: prepared.inner(),
            handshake: prepared.handshake.as_raw_fd(),
            binds,
            temporary: (&temporary_path, &temporary),
            state: (&state_path, c"size=1m,nr_inodes=64,mode=0700"),
            devices: (&devices_path, c"size=64k,nr_inodes=128,mode=0755"),
            nodes,
            id,
            limits: &resource_limits,
            program: &self.program,
            arguments: &arguments,
            environment: &environment,
        };
        let (pid, pidfd) = clone(NAMESPACES, Some(group), &|| init::run(&plan)).map_err(StartError::Clone)?;
        // From here on dropping the sandbox kills and reaps it.
        let sandbox =
            Sandbox::new(pid, pidfd, prepared.host_handshake, prepared.ends, true).started_by_runtime();
        group.attach(pid).map_err(StartError::Attach)?;
        sandbox.go_ahead().map_err(StartError::Attach)?;
        Ok(sandbox)
    }
}

/// The entries of `list` whose bits are set; a bit beyond its end is an error.
fn chosen(bits: u64, list: &[PathBuf]) -> Result<Vec<(usize, &PathBuf)>, ApptainerError> {
    (0..u64::BITS as usize)
        .filter(|number| bits >> number & 1 == 1)
        .map(|number| {
            list.get(number)
                .map(|path| (number, path))
                .ok_or(ApptainerError::Unlisted)
        })
        .collect()
}

fn node(number: usize, path: &Path) -> Result<Node, ApptainerError> {
    let bad = || ApptainerError::Device {
        path: path.to_owned(),
    };
    if !path.starts_with("/dev") || !is_plain(path, b"-_./") {
        return Err(bad());
    }
    let metadata = fs::symlink_metadata(path).map_err(|_| ApptainerError::NoDevice {
        path: path.to_owned(),
    })?;
    if !metadata.file_type().is_char_device() {
        return Err(bad());
    }
    Ok(Node {
        path: c_string(path)?,
        copy: text(format!("{}/{}/{number}", command::RUN, command::DEVICES)),
        number: metadata.rdev(),
    })
}

/// Where a directory of the administrator's list is in the container.
fn place_inside(path: &Path) -> Result<String, ApptainerError> {
    path.file_name()
        .filter(|name| is_plain(Path::new(name), b"-_."))
        .and_then(|name| name.to_str())
        .map(|name| format!("/data/{name}"))
        .ok_or_else(|| ApptainerError::Directory {
            path: path.to_owned(),
        })
}

/// True when a path means itself on the runtime's command line, which knows `:` and `,`.
fn is_plain(path: &Path, allowed: &[u8]) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || allowed.contains(byte))
}

fn bind(source: &Path, name: &str) -> Result<Bind, ApptainerError> {
    Ok(Bind {
        source: c_string(source)?,
        target: c_string(&Path::new(command::RUN).join(name))?,
    })
}

fn make_directory(path: &Path) -> Result<(), ApptainerError> {
    let made =
        fs::create_dir(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    made.map_err(|source| ApptainerError::Stage {
        path: path.to_owned(),
        source,
    })
}

fn make_file(path: &Path, text: &str) -> Result<(), ApptainerError> {
    let made =
        fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o444)));
    made.map_err(|source| ApptainerError::Stage {
        path: path.to_owned(),
        source,
    })
}

fn open_null() -> Result<OwnedFd, ApptainerError> {
    let path = Path::new("/dev/null");
    let opened = File::options().read(true).write(true).open(path);
    opened.map(OwnedFd::from).map_err(|source| ApptainerError::Stage {
        path: path.to_owned(),
        source,
    })
}

fn c_string(path: &Path) -> Result<CString, ApptainerError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| ApptainerError::Path {
        path: path.to_owned(),
    })
}

/// A text of ours, which holds no zero byte.
fn text(text: String) -> CString {
    CString::new(text).unwrap_or_default()
}
