//! Outside: prepares a sandbox, clones its first process, maps its ids, puts it into its cgroup.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use super::{
    Group, ImageRoots, Limits, Openings, Profile, StageError, Template,
    child::{self, Entry, INNER_ID, Never, Plan},
    landlock::Ruleset,
    mounts::{Policy, Shape, What},
    network::Networks,
    openings::{Granted, OpeningError},
    rlimit,
    root::{self, Mount},
    sandbox::{Ends, Handshake, Sandbox},
    steps::Step,
};
use crate::{
    ablation::{self, Layer},
    linux::{check, check_long, descriptor, process, seqpacket},
    seccomp::{self, Arch, Filter, Instruction},
};

/// What each native sandbox has for itself, besides a network.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Descriptors handed to a child are moved up here, above their destinations.
const LOWEST_SOURCE: RawFd = 16;

/// What all sandboxes share, prepared once.
#[derive(Debug)]
pub(crate) struct Native {
    policy: Policy,
    worker: Kind,
    builder: Kind,
    /// Where the administrator allows builders the network.
    network_builder: Option<Kind>,
    /// Filter of workers with a device.
    device_filter: Vec<Instruction>,
    landlock: Option<Ruleset>,
    null: OwnedFd,
    memory_by_cgroup: bool,
    networks: Networks,
}

#[derive(Debug)]
struct Kind {
    template: Template,
    maxima: Limits,
    filter: Vec<Instruction>,
    /// Attributes of the root.
    attributes: u64,
    mounts: Vec<Mount>,
    devices: Vec<CString>,
}

/// From what the sandboxes are made.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    /// A new directory below which the templates are staged.
    pub(crate) templates: &'a Path,
    pub(crate) executor: &'a Path,
    pub(crate) builder: &'a Path,
    pub(crate) sdk_include: &'a Path,
    pub(crate) worker_maxima: &'a Limits,
    pub(crate) builder_maxima: &'a Limits,
    /// There may be builders with network.
    pub(crate) builder_network: bool,
    pub(crate) memory_by_cgroup: bool,
}

/// One sandbox that is to be started.
pub(crate) struct Start<'a> {
    pub(crate) profile: Profile,
    pub(crate) limits: &'a Limits,
    pub(crate) ids: Ids,
    pub(crate) group: Option<&'a Group>,
    /// Its root, when it is another one than its profile's.
    pub(crate) image: Option<&'a Template>,
    pub(crate) openings: &'a Openings,
    pub(crate) entry: &'a Entry<'a>,
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
    #[error("cannot use the policies of sandboxes: {0}")]
    Policy(String),
    /// A root.
    #[error("cannot stage the sandboxes' root")]
    Stage(#[from] StageError),
    /// What sandboxes have as their input.
    #[error("cannot open /dev/null")]
    Null(#[source] io::Error),
}

/// Why one sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot prepare the sandbox: {0}")]
    Prepare(io::Error),
    #[error("cannot grant the sandbox an opening: {0}")]
    Opening(#[from] OpeningError),
    #[error("builders have no network here; the administrator can allow it")]
    NoNetwork,
    #[error("cannot create the sandbox's namespaces: {0}; user namespaces must be allowed")]
    Clone(io::Error),
    #[error("cannot enter the host's network namespace: {0}")]
    Network(io::Error),
    #[error("cannot map the sandbox's ids: {0}")]
    Map(io::Error),
    #[error("cannot put the sandbox into its cgroup: {0}")]
    Attach(io::Error),
    #[error("the sandbox could not {step}: {source}")]
    Inside { step: &'static str, source: io::Error },
}

impl Native {
    /// Stages the roots and prepares what all sandboxes share.
    pub(crate) fn new(ingredients: &Ingredients<'_>) -> Result<Self, NativeError> {
        let mounts = Policy::built_in().map_err(policy_error)?;
        let kind = |shape, name: &str, filter| Kind::new(&mounts, ingredients, shape, name, filter);
        let network_builder = ingredients.builder_network.then(|| {
            kind(
                Shape::NetworkBuilder,
                "network-builder",
                policy(seccomp::network_builder)?,
            )
        });
        Ok(Self {
            worker: kind(Shape::Worker, "worker", policy(seccomp::worker)?)?,
            builder: kind(Shape::Builder, "builder", policy(seccomp::builder)?)?,
            network_builder: network_builder.transpose()?,
            device_filter: seccomp::compile(&policy(seccomp::device_worker)?),
            landlock: Ruleset::supported().filter(|_| !ablation::leaves_out(Layer::Landlock)),
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map_err(NativeError::Null)?
                .into(),
            memory_by_cgroup: ingredients.memory_by_cgroup,
            policy: mounts,
            networks: Networks::new(),
        })
    }

    /// Whether the kernel has Landlock.
    pub(crate) fn has_landlock(&self) -> bool {
        self.landlock.is_some()
    }

    /// Makes ahead what the next sandbox needs and takes long.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.networks.prepare()
    }

    /// Whether the kernel's Landlock keeps signals and abstract sockets within a sandbox.
    pub(crate) fn has_landlock_scopes(&self) -> bool {
        self.landlock.is_some_and(|ruleset| ruleset.has_scopes())
    }

    /// The bytes and files of a worker's `/tmp`.
    pub(crate) fn worker_temporary(&self) -> (u64, u32) {
        let mut entries = self.policy.of(Shape::Worker);
        let temporary = entries.find(|entry| entry.what == What::Tmpfs);
        temporary.map_or((0, 0), |entry| (entry.bytes(&self.worker.maxima), entry.files()))
    }

    /// Prepares roots made from images, whose directories are in `images`.
    pub(crate) fn image_roots(
        &self,
        ingredients: &Ingredients<'_>,
        images: &Path,
    ) -> Result<ImageRoots, StageError> {
        let stage = |over: &Path| Template::stage_over_images(over, &self.policy, ingredients.executor);
        ImageRoots::new(ingredients.templates, images, ingredients.executor, stage)
    }

    fn kind(&self, start: &Start<'_>) -> Result<&Kind, StartError> {
        match start.profile {
            Profile::Worker => Ok(&self.worker),
            Profile::Builder if start.openings.network => {
                self.network_builder.as_ref().ok_or(StartError::NoNetwork)
            }
            Profile::Builder => Ok(&self.builder),
        }
    }

    /// What a worker is granted beside its root.
    fn grant(&self, start: &Start<'_>) -> Result<Granted, StartError> {
        let mut granted = Granted::default();
        if !start.openings.has_mounts() {
            return Ok(granted);
        }
        let owner = match start.ids {
            Ids::Distinct(uid) => Some(uid),
            Ids::Own => None,
        };
        for entry in self.policy.of(Shape::Worker) {
            match entry.what {
                What::Devices => granted.add_devices(entry, &start.openings.devices, owner)?,
                What::Directories => granted.add_directories(entry, &start.openings.directories)?,
                _ => {}
            }
        }
        Ok(granted)
    }

    /// Starts a sandbox. It is ready when its [`Sandbox::progress`] says so.
    pub(crate) fn start(&self, start: &Start<'_>) -> Result<Sandbox, StartError> {
        let (kind, ids) = (self.kind(start)?, ablation::ids(start.ids));
        let template = start.image.unwrap_or(&kind.template);
        let granted = self.grant(start)?;
        let prepared = Prepared::new(&self.null, granted.handed).map_err(StartError::Prepare)?;
        let limits = rlimit::of(start.profile, start.limits, &kind.maxima, self.memory_by_cgroup);
        let limits = limits.map_err(StartError::Prepare)?;
        // A new mount namespace takes the working directory along; a descriptor would still point to the host's.
        // SAFETY: the root's descriptor is open.
        check(unsafe { libc::fchdir(template.root().as_raw_fd()) }).map_err(StartError::Prepare)?;
        let (devices, filter) = if granted.devices.is_empty() {
            (&kind.devices, &kind.filter)
        } else {
            (&granted.devices, &self.device_filter)
        };
        let plan = Plan {
            descriptors: prepared.inner(),
            handshake: prepared.handshake.as_raw_fd(),
            handed: prepared.handed.as_ref().map(AsRawFd::as_raw_fd),
            drop_groups: matches!(ids, Ids::Distinct(_)),
            id: ablation::inner_id(ids),
            root: root::Plan {
                attributes: kind.attributes,
                mounts: &kind.mounts,
                granted: &granted.mounts,
            },
            devices,
            network: start.openings.network,
            limits: &limits,
            landlock: self.landlock.as_ref(),
            filter,
            executable: template.executable(),
            argument: template.argument(),
            entry: start.entry,
        };
        let network = self.networks.of(plan.network).map_err(StartError::Network)?;
        let cloned = clone(ablation::namespaces(NAMESPACES) | network, start.group, &|| {
            child::run(&plan)
        });
        let (pid, pidfd) = cloned.map_err(StartError::Clone)?;
        // From here on dropping the sandbox kills and reaps it.
        let sandbox = Sandbox::new(
            pid,
            pidfd,
            prepared.host_handshake,
            prepared.ends,
            self.memory_by_cgroup,
        );
        ablation::unless(Layer::UserNamespace, || map_ids(pid, ids)).map_err(StartError::Map)?;
        sandbox.go_ahead().map_err(StartError::Map)?;
        if let Some(group) = start.group {
            group.attach(pid).map_err(StartError::Attach)?;
        }
        sandbox.go_ahead().map_err(StartError::Attach)?;
        Ok(sandbox)
    }
}

impl Kind {
    fn new(
        policy: &Policy,
        ingredients: &Ingredients<'_>,
        shape: Shape,
        name: &str,
        filter: Filter,
    ) -> Result<Self, NativeError> {
        let (program, maxima) = match shape {
            Shape::Worker => (ingredients.executor, ingredients.worker_maxima),
            Shape::Builder | Shape::NetworkBuilder => (ingredients.builder, ingredients.builder_maxima),
        };
        let root = ingredients.templates.join(name);
        let mut template = Template::stage(&root, shape, policy, program, ingredients.sdk_include)?;
        let mut mounts = template.take_hosts();
        let (mut devices, mut attributes) = (Vec::new(), 0);
        for entry in policy.of(shape) {
            let (kind, step): (&CStr, _) = match entry.what {
                What::Tmpfs => (c"tmpfs", Step::Temporary),
                What::Proc => (c"proc", Step::Proc),
                What::Root => {
                    attributes = entry.attributes();
                    continue;
                }
                What::Device => {
                    devices.push(CString::new(entry.path()).map_err(policy_error)?);
                    continue;
                }
                What::Host | What::Devices | What::Directories => continue,
            };
            mounts.push(Mount::New {
                kind,
                target: CString::new(entry.target()).map_err(policy_error)?,
                flags: entry.mount_flags(),
                options: entry.options(maxima),
                step,
            });
        }
        Ok(Self {
            template,
            maxima: *maxima,
            filter: seccomp::compile(&filter),
            attributes,
            mounts,
            devices,
        })
    }
}

fn policy(filter: fn(Arch) -> Result<Filter, seccomp::PolicyError>) -> Result<Filter, NativeError> {
    filter(Arch::HOST).map_err(policy_error)
}

fn policy_error(error: impl std::error::Error) -> NativeError {
    NativeError::Policy(error.to_string())
}

/// The channels of a new sandbox, both sides.
pub(crate) struct Prepared {
    null: OwnedFd,
    output: OwnedFd,
    control: OwnedFd,
    data: OwnedFd,
    pub(crate) handshake: OwnedFd,
    handed: Option<OwnedFd>,
    pub(crate) host_handshake: Handshake,
    pub(crate) ends: Ends,
}

impl Prepared {
    pub(crate) fn new(null: &OwnedFd, handed: Option<OwnedFd>) -> io::Result<Self> {
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
            handed: handed.map(up).transpose()?,
            host_handshake: Handshake(host_handshake),
            ends: Ends {
                control: host_control,
                data: host_data,
                output: host_output,
            },
        })
    }

    /// In the order of their numbers inside.
    pub(crate) fn inner(&self) -> [RawFd; 5] {
        [&self.null, &self.output, &self.output, &self.control, &self.data].map(AsRawFd::as_raw_fd)
    }
}

/// Clones the first process of a sandbox, into new namespaces and its v2 group; it runs `child`. Returns its pid and
/// pidfd.
pub(crate) fn clone(
    namespaces: libc::c_int,
    group: Option<&Group>,
    child: &dyn Fn() -> Never,
) -> io::Result<(u32, OwnedFd)> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
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
    // SAFETY: without CLONE_VM the new process has its own copy of memory and stack; it only runs `child`, which does
    // not return and keeps to system calls.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if result == 0 {
        child();
    }
    let pid = check_long(result)?;
    // SAFETY: the kernel stored a new descriptor of ours there.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

fn map_ids(pid: u32, ids: Ids) -> io::Result<()> {
    let (uid, gid) = match ids {
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
