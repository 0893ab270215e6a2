//! The spawner's side of a start: stages what the runtime may see once, then prepares, clones and places each container.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
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
    probe,
};
use crate::{
    linux::seqpacket,
    native::{
        Group, Limits, Opening, Openings, Profile, Sandbox, StartError,
        shared::{Prepared, clone, resource_limits},
    },
    seccomp,
    spawner::HOLES_MAX,
};

/// Namespaces of the init. The runtime makes further ones below them: mounts, pids and ipc.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What the init and the runtime's helper use of a worker's group, beyond what its Doee may use.
const RUNTIME_MEMORY_BYTES: u64 = 16 * 1024 * 1024;
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
    hidden_directories: Vec<String>,
    hidden_files: Vec<String>,
    maxima: Limits,
    null: OwnedFd,
}

/// One container that is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    /// The SIF file.
    pub(crate) image: &'a Path,
    /// Uid and gid.
    pub(crate) id: u32,
    pub(crate) limits: &'a Limits,
    pub(crate) openings: &'a Openings,
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
    #[error("{path} is no character device; connect the device, or change the administrator's list")]
    Device { path: PathBuf },
    #[error("a container can be given a device by its own name in /dev only, which {path} is not")]
    NotInDev { path: PathBuf },
    #[error("{path} is no directory; make it, or change the administrator's list")]
    Directory { path: PathBuf },
    #[error("{path} cannot be given to a container: its last part may have letters, digits and -_. only")]
    Name { path: PathBuf },
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
        maxima: &Limits,
    ) -> Result<Self, ApptainerError> {
        let [profile, device_profile] = [seccomp::worker, seccomp::device_worker].map(|policy| {
            seccomp::oci_profile(policy).map_err(|error| ApptainerError::Policy(error.to_string()))
        });
        let (profile, device_profile) = (profile?, device_profile?);
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
        (0..HOLES_MAX).try_for_each(|number| {
            make_directory(&stage.join(command::DIRECTORIES).join(number.to_string()))
        })?;
        let files = [
            (command::IMAGE, ""),
            (command::EXECUTOR, ""),
            (command::EMPTY_FILE, ""),
            (command::PROFILE, &profile),
            (command::PROFILE_WITH_DEVICES, &device_profile),
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
            hidden_directories,
            hidden_files,
            maxima: *maxima,
            null: open_null()?,
        })
    }

    /// Starts the executor in a container. `group` has the limits of [`allowance`]. It is ready when its
    /// [`Sandbox::progress`] says so.
    pub(crate) fn start(&self, container: Container<'_>, group: &Group) -> Result<Sandbox, ApptainerError> {
        self.start_program(container, group, &self.executor)
    }

    /// Starts the probe in the executor's place; [`Self::judge`] reads what it says.
    pub(crate) fn start_probe(
        &self,
        container: Container<'_>,
        group: &Group,
    ) -> Result<Sandbox, ApptainerError> {
        let path = self.stage.join(command::PROBE);
        let written = fs::write(&path, probe::program(&self.executor, container.id))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        written.map_err(|source| ApptainerError::Stage {
            path: path.clone(),
            source,
        })?;
        self.start_program(container, group, &path)
    }

    /// Whether a container blocks what it must, by the first word of the probe on its control channel.
    pub(crate) fn judge(&self, control: BorrowedFd<'_>, id: u32) -> Result<(), String> {
        let mut report = [0; probe::REPORT_LEN_MAX];
        let received = seqpacket::receive(control, &mut report).map_err(|error| error.to_string())?;
        probe::judge(&report[..received.len], &self.executor, id)
    }

    fn start_program(
        &self,
        container: Container<'_>,
        group: &Group,
        program: &Path,
    ) -> Result<Sandbox, ApptainerError> {
        let Container {
            image,
            id,
            limits,
            openings,
        } = container;
        let nodes = openings
            .devices
            .iter()
            .enumerate()
            .map(node)
            .collect::<Result<Vec<_>, _>>()?;
        let devices = openings.devices.iter().map(|device| place("/dev", device));
        let directories = openings
            .directories
            .iter()
            .map(|directory| place("/data", directory));
        let binds = Binds {
            devices: &devices.collect::<Result<Vec<_>, _>>()?,
            directories: &directories.collect::<Result<Vec<_>, _>>()?,
            hidden_directories: &self.hidden_directories,
            hidden_files: &self.hidden_files,
        };
        let arguments = command::arguments(id, &binds);
        let mut bound = vec![
            bind(&self.stage, "")?,
            bind(image, command::IMAGE)?,
            bind(program, command::EXECUTOR)?,
        ];
        for (number, directory) in openings.directories.iter().enumerate() {
            let path = &directory.source;
            if !path.is_dir() {
                return Err(ApptainerError::Directory { path: path.clone() });
            }
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
        let (temporary_path, state_path) = (in_run(command::TEMPORARY), in_run(command::STATE));
        let devices_path = in_run(command::DEVICES);
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

fn node((number_of_copy, device): (usize, &Opening)) -> Result<Node, ApptainerError> {
    let shown = Path::new("/dev").join(&device.name);
    if shown != device.source {
        return Err(ApptainerError::NotInDev {
            path: device.source.clone(),
        });
    }
    let metadata = fs::metadata(&device.source).ok();
    let number = metadata.filter(|metadata| metadata.file_type().is_char_device());
    let number = number.ok_or_else(|| ApptainerError::Device {
        path: device.source.clone(),
    })?;
    Ok(Node {
        path: c_string(&shown)?,
        copy: text(format!("{}/{}/{number_of_copy}", command::RUN, command::DEVICES)),
        number: number.rdev(),
    })
}

/// Where an opening is in the container, below `directory`.
fn place(directory: &str, opening: &Opening) -> Result<String, ApptainerError> {
    let name = Path::new(&opening.name);
    match name.to_str().filter(|_| is_plain(name)) {
        Some(name) => Ok(format!("{directory}/{name}")),
        None => Err(ApptainerError::Name {
            path: opening.source.clone(),
        }),
    }
}

/// True when a name means itself on the runtime's command line, which knows `:` and `,`.
fn is_plain(name: &Path) -> bool {
    let bytes = name.as_os_str().as_bytes();
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
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
pub(super) fn text(text: String) -> CString {
    CString::new(text).unwrap_or_default()
}
