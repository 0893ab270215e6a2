//! Outside: prepares a sandbox, clones its first process, maps its ids, puts it into its cgroup.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use super::{
    Group, Limits, Profile, Template,
    child::{self, Entry, INNER_ID, Plan},
    landlock::Ruleset,
    rlimit,
    sandbox::{Ends, Handshake, Sandbox},
};
use crate::{
    ablation::{self, Layer},
    linux::{check, check_long, descriptor, process, seqpacket},
    seccomp::{self, Arch, Filter, Instruction, PolicyError},
};

/// Descriptors handed to a child are moved up here, above their destinations.
const LOWEST_SOURCE: RawFd = 16;

/// A `/tmp`: files, and bytes, which count as the sandbox's memory too.
struct Temporary {
    files_max: u32,
    len_max: u64,
}

const WORKER_TEMPORARY: Temporary = Temporary {
    files_max: 4096,
    len_max: 16 * 1024 * 1024,
};
const BUILDER_TEMPORARY: Temporary = Temporary {
    files_max: 65536,
    len_max: 512 * 1024 * 1024,
};

/// What all sandboxes share, prepared once.
#[derive(Debug)]
pub(crate) struct Native {
    worker: Kind,
    builder: Kind,
    landlock: Option<Ruleset>,
    null: OwnedFd,
    memory_by_cgroup: bool,
}

#[derive(Debug)]
struct Kind {
    template: Template,
    maxima: Limits,
    filter: Vec<Instruction>,
    temporary: CString,
}

/// Who a sandbox is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// A uid and gid of its own.
    Distinct(u32),
    /// Those of the spawner, which has no privilege to map others.
    Own,
}

/// Why no sandbox can be started at all.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// A policy file that was built in is wrong.
    #[error("cannot build the system call filters: {0}")]
    Policy(String),
    /// What sandboxes have as their input.
    #[error("cannot open /dev/null")]
    Null(#[source] io::Error),
}

/// Why one sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot prepare the sandbox: {0}")]
    Prepare(io::Error),
    #[error("cannot create the sandbox's namespaces: {0}; user namespaces must be allowed")]
    Clone(io::Error),
    #[error("cannot map the sandbox's ids: {0}")]
    Map(io::Error),
    #[error("cannot put the sandbox into its cgroup: {0}")]
    Attach(io::Error),
    #[error("the sandbox could not {step}: {source}")]
    Inside { step: &'static str, source: io::Error },
}

impl Native {
    pub(crate) fn new(
        worker: Template,
        builder: Template,
        worker_maxima: &Limits,
        builder_maxima: &Limits,
        memory_by_cgroup: bool,
    ) -> Result<Self, NativeError> {
        #[cfg(feature = "ablation")]
        ablation::read();
        let kind = |template, filter: &_, maxima: &Limits, temporary| Kind {
            template,
            maxima: *maxima,
            filter: seccomp::compile(filter),
            temporary: temporary_options(maxima, temporary),
        };
        Ok(Self {
            worker: kind(
                worker,
                &policy(seccomp::worker)?,
                worker_maxima,
                &WORKER_TEMPORARY,
            ),
            builder: kind(
                builder,
                &policy(seccomp::builder)?,
                builder_maxima,
                &BUILDER_TEMPORARY,
            ),
            landlock: Ruleset::supported(),
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map_err(NativeError::Null)?
                .into(),
            memory_by_cgroup,
        })
    }

    /// Whether the kernel has Landlock.
    pub(crate) fn has_landlock(&self) -> bool {
        self.landlock.is_some()
    }

    /// Starts a sandbox. It is ready when its [`Sandbox::progress`] says so.
    pub(crate) fn start(
        &self,
        profile: Profile,
        limits: &Limits,
        ids: Ids,
        group: Option<&Group>,
        entry: &Entry<'_>,
    ) -> Result<Sandbox, StartError> {
        let kind = match profile {
            Profile::Worker => &self.worker,
            Profile::Builder => &self.builder,
        };
        let prepared = Prepared::new(&self.null).map_err(StartError::Prepare)?;
        let resource_limits =
            rlimit::of(profile, limits, &kind.maxima, self.memory_by_cgroup).map_err(StartError::Prepare)?;
        // A new mount namespace takes the working directory along; a descriptor would still point to the host's.
        // SAFETY: the root's descriptor is open.
        check(unsafe { libc::fchdir(kind.template.root().as_raw_fd()) }).map_err(StartError::Prepare)?;
        let plan = Plan {
            descriptors: prepared.inner(),
            handshake: prepared.handshake.as_raw_fd(),
            drop_groups: matches!(ids, Ids::Distinct(_)),
            id: inner_id(ids),
            binds: kind.template.binds(),
            temporary: &kind.temporary,
            temporary_executable: profile == Profile::Builder,
            limits: &resource_limits,
            landlock: self
                .landlock
                .as_ref()
                .filter(|_| !ablation::leaves_out(Layer::Landlock)),
            filter: &kind.filter,
            executable: kind.template.executable(),
            argument: kind.template.argument(),
            entry,
        };
        let (pid, pidfd) = clone(&plan, group).map_err(StartError::Clone)?;
        // From here on dropping the sandbox kills and reaps it.
        let sandbox = Sandbox::new(
            pid,
            pidfd,
            prepared.host_handshake,
            prepared.ends,
            self.memory_by_cgroup,
        );
        map_ids(pid, ids).map_err(StartError::Map)?;
        sandbox.go_ahead().map_err(StartError::Map)?;
        if let Some(group) = group {
            group.attach(pid).map_err(StartError::Attach)?;
        }
        sandbox.go_ahead().map_err(StartError::Attach)?;
        Ok(sandbox)
    }
}

fn policy(filter: fn(Arch) -> Result<Filter, PolicyError>) -> Result<Filter, NativeError> {
    filter(Arch::HOST).map_err(|error| NativeError::Policy(error.to_string()))
}

fn temporary_options(maxima: &Limits, temporary: &Temporary) -> CString {
    let len = temporary.len_max.min(maxima.memory_bytes / 2);
    if ablation::leaves_out(Layer::TmpLimits) {
        return CString::from(c"mode=0700");
    }
    let options = format!("size={len},nr_inodes={},mode=0700", temporary.files_max);
    CString::new(options).unwrap_or_default()
}

/// The channels of a new sandbox, both sides.
struct Prepared {
    null: OwnedFd,
    output: OwnedFd,
    control: OwnedFd,
    data: OwnedFd,
    handshake: OwnedFd,
    host_handshake: Handshake,
    ends: Ends,
}

impl Prepared {
    fn new(null: &OwnedFd) -> io::Result<Self> {
        let (host_control, control) = seqpacket::pair()?;
        let (host_data, data) = descriptor::stream_pair()?;
        let (host_output, output) = descriptor::pipe()?;
        let (host_handshake, handshake) = descriptor::stream_pair()?;
        let up = |fd| descriptor::move_above(fd, LOWEST_SOURCE);
        descriptor::set_nonblocking(host_handshake.as_fd(), true)?;
        Ok(Self {
            null: up(null.try_clone()?)?,
            output: up(output)?,
            control: up(control)?,
            data: up(data)?,
            handshake: up(handshake)?,
            host_handshake: Handshake(host_handshake),
            ends: Ends {
                control: host_control,
                data: host_data,
                output: host_output,
            },
        })
    }

    /// In the order of their numbers inside.
    fn inner(&self) -> [RawFd; 5] {
        [&self.null, &self.output, &self.output, &self.control, &self.data].map(AsRawFd::as_raw_fd)
    }
}

/// The namespaces of a sandbox.
const NAMESPACES: [(libc::c_int, Layer); 7] = [
    (libc::CLONE_NEWUSER, Layer::UserNamespace),
    (libc::CLONE_NEWNS, Layer::MountNamespace),
    (libc::CLONE_NEWPID, Layer::PidNamespace),
    (libc::CLONE_NEWNET, Layer::NetworkNamespace),
    (libc::CLONE_NEWIPC, Layer::IpcNamespace),
    (libc::CLONE_NEWUTS, Layer::UtsNamespace),
    (libc::CLONE_NEWCGROUP, Layer::CgroupNamespace),
];

/// Clones the first process of the sandbox; it runs [`child::run`].
fn clone(plan: &Plan<'_>, group: Option<&Group>) -> io::Result<(u32, OwnedFd)> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let namespaces = NAMESPACES
        .iter()
        .filter(|(_, layer)| !ablation::leaves_out(*layer))
        .fold(0, |flags, (flag, _)| flags | flag);
    let into_group = group.and_then(Group::unified);
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args is a valid one that asks for nothing.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces as u64 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(directory) = &into_group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of memory and stack; it only runs `child::run`, which
    // does not return and keeps to system calls.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if result == 0 {
        child::run(plan);
    }
    let pid = check_long(result)?;
    // SAFETY: the kernel stored a new descriptor of ours there.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The id that the first process takes: a mapped one, or where nothing is mapped its id on the host.
fn inner_id(ids: Ids) -> u32 {
    match ids {
        _ if !ablation::leaves_out(Layer::UserNamespace) => INNER_ID,
        Ids::Distinct(id) if !ablation::leaves_out(Layer::SubUid) => id,
        _ => process::effective_uid(),
    }
}

fn map_ids(pid: u32, ids: Ids) -> io::Result<()> {
    if ablation::leaves_out(Layer::UserNamespace) {
        return Ok(());
    }
    let (uid, gid) = match ids {
        Ids::Distinct(_) if ablation::leaves_out(Layer::SubUid) => (0, 0),
        Ids::Distinct(id) => (id, id),
        Ids::Own => {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
            // SAFETY: cannot fail.
            (process::effective_uid(), unsafe { libc::getegid() })
        }
    };
    fs::write(format!("/proc/{pid}/uid_map"), format!("{INNER_ID} {uid} 1\n"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{INNER_ID} {gid} 1\n"))
}
