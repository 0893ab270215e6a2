//! A spawner process with the test as its supervisor and its Doer.

use std::{
    cell::RefCell,
    env, fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use isms_sandbox::{
    linux::{
        descriptor,
        launch::{self, Launch},
        seqpacket,
    },
    native::Limits,
    probe::LayerReport,
    spawner::{
        self, EVENT_LEN_MAX, Environment, Event, FromSpawner, Request, SpawnerConfig, ToSpawner, UidRange,
    },
};

use crate::lacking;

const TIMEOUT: Duration = Duration::from_secs(20);
const DIRECTORY: &str = "ISMS_TEST_SPAWNER_DIRECTORY";
/// Set for a spawner whose kernel is to have no Landlock.
const WITHOUT_LANDLOCK: &str = "ISMS_TEST_SPAWNER_WITHOUT_LANDLOCK";
const MIB: u64 = 1024 * 1024;
pub(crate) const LIMITS: Limits = Limits {
    memory_bytes: 64 * MIB,
    cpu_permille: 1000,
    cpu_weight: 100,
    pids: 16,
};
pub(crate) const MAXIMA: Limits = Limits {
    memory_bytes: 128 * MIB,
    cpu_permille: 2000,
    cpu_weight: 10_000,
    pids: 32,
};
pub(crate) const WORKERS_MAX: u32 = 4;
pub(crate) const IMAGE_LEN_MAX: u64 = 64 * MIB;
/// Where a test leaves the settings for its spawner.
const CONFIG: &str = "spawner.toml";

pub(crate) struct Platform {
    pub(crate) directory: PathBuf,
    pub(crate) supervisor: OwnedFd,
    pub(crate) doer: OwnedFd,
    pub(crate) spawner: Child,
    pub(crate) layers: Vec<LayerReport>,
    /// Whether they are enough for workers to start.
    pub(crate) sufficient: bool,
    /// What was told of them later, to the same Doer.
    pub(crate) layers_later: RefCell<Vec<LayerReport>>,
}

/// What is special about the machine on which a spawner runs.
#[derive(Default)]
pub(crate) struct Host {
    /// Who it belongs to, if not who runs the tests.
    pub(crate) user: Option<u32>,
    /// Its run directory is a file system of so many bytes.
    pub(crate) run_bytes: Option<u64>,
    /// What it lacks.
    pub(crate) lacks: Option<Lack>,
}

/// Something that a machine may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    UserNamespaces,
    WritableControlGroups,
    ContainerRuntime,
    Landlock,
}

impl Lack {
    /// Namespaces in which a shell can make it so, and how; all of it is gone with the spawner.
    fn made_by(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Lack::UserNamespaces => Some((&["-U", "-r"], "echo 0 > /proc/sys/user/max_user_namespaces")),
            // In version 1 each controller is a mount of its own.
            Lack::WritableControlGroups => Some((
                &["-m"],
                "for at in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,ro $at || true; done 2>/dev/null",
            )),
            Lack::ContainerRuntime => Some((
                &["-m"],
                "for at in /usr/bin /usr/local/bin; do for name in apptainer singularity; do \
                 [ ! -e $at/$name ] || mount --bind /dev/null $at/$name || exit; done; done",
            )),
            Lack::Landlock => None,
        }
    }
}

/// A sandbox as its Doer sees it.
pub(crate) struct Sandbox {
    pub(crate) worker: u64,
    pub(crate) pid: u32,
    pub(crate) control: OwnedFd,
    pub(crate) data: OwnedFd,
    pub(crate) output: OwnedFd,
}

impl Platform {
    /// Starts a spawner; `None`, said aloud, where it cannot isolate.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&Host::default(), |_| ())
    }

    /// As [`Self::start`], with a spawner that belongs to the user (and the group) of that number.
    pub(crate) fn start_as(user: u32) -> Option<Self> {
        let host = Host {
            user: Some(user),
            ..Host::default()
        };
        Self::start_with(&host, |_| ())
    }

    /// As [`Self::start`], on such a host and with other settings.
    pub(crate) fn start_with(host: &Host, change: impl FnOnce(&mut SpawnerConfig)) -> Option<Self> {
        Self::start_in_any_case(host, change).filter_sufficient()
    }

    /// `None`, said aloud, where no worker starts.
    pub(crate) fn filter_sufficient(self) -> Option<Self> {
        if !self.sufficient {
            let missing: Vec<_> = self
                .layers
                .iter()
                .filter(|layer| layer.required && !layer.proven)
                .collect();
            eprintln!("SKIPPED: sandboxes cannot be isolated here: {missing:#?}");
        }
        self.sufficient.then_some(self)
    }

    /// As [`Self::start_with`], also where workers are not isolated enough to start.
    pub(crate) fn start_in_any_case(host: &Host, change: impl FnOnce(&mut SpawnerConfig)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "isms-sandbox-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = env::temp_dir().join(name);
        for part in ["", "run", "sdk", "images"] {
            fs::create_dir(directory.join(part)).unwrap();
        }
        compile(&directory.join("executor"));
        let mut config = config(&directory);
        change(&mut config);
        fs::write(directory.join(CONFIG), toml::to_string(&config).unwrap()).unwrap();
        for part in ["", "run", "sdk", "images"] {
            chown(directory.join(part), host.user, host.user).unwrap();
        }
        let (supervisor, channel) = seqpacket::pair().unwrap();
        set_timeout(&supervisor);
        let spawner = start_spawner(&directory, channel, host);
        let (doer, theirs) = seqpacket::pair().unwrap();
        let mut platform = Self {
            directory,
            supervisor,
            doer,
            spawner,
            layers: Vec::new(),
            sufficient: false,
            layers_later: RefCell::default(),
        };
        assert_eq!(platform.heard(), Some(FromSpawner::Ready));
        platform.begin_generation(theirs);
        platform
    }

    /// What the spawner tells its supervisor next; `None` when it has ended.
    pub(crate) fn heard(&self) -> Option<FromSpawner> {
        let word = receive(self.supervisor.as_fd());
        (!word.is_empty()).then(|| FromSpawner::decode(&word).unwrap())
    }

    fn begin_generation(&mut self, theirs: OwnedFd) {
        set_timeout(&self.doer);
        seqpacket::send(
            self.supervisor.as_fd(),
            &ToSpawner::Doer.encode(),
            &[theirs.as_fd()],
        )
        .unwrap();
        let Some((Event::Layers { layers, sufficient }, _)) = self.next_event() else {
            panic!("no layers")
        };
        (self.layers, self.sufficient) = (layers, sufficient);
    }

    /// Starts another spawner in the place of one that has been killed.
    pub(crate) fn restart_spawner(&mut self) {
        let (supervisor, channel) = seqpacket::pair().unwrap();
        set_timeout(&supervisor);
        self.supervisor = supervisor;
        self.spawner = start_spawner(&self.directory, channel, &Host::default());
        assert_eq!(self.heard(), Some(FromSpawner::Ready));
        self.replace_doer();
    }

    /// Replaces the Doer by a new one.
    pub(crate) fn replace_doer(&mut self) {
        let (doer, theirs) = seqpacket::pair().unwrap();
        self.doer = doer;
        self.begin_generation(theirs);
        assert!(self.sufficient, "{:#?}", self.layers);
    }

    pub(crate) fn send(&self, request: Request) {
        seqpacket::send(self.doer.as_fd(), &request.encode(), &[]).unwrap();
    }

    /// The next event about workers; `None` when the spawner has cut the channel.
    pub(crate) fn event(&self) -> Option<(Event, Vec<OwnedFd>)> {
        loop {
            match self.next_event()? {
                (Event::Layers { layers, .. }, _) => *self.layers_later.borrow_mut() = layers,
                event => return Some(event),
            }
        }
    }

    fn next_event(&self) -> Option<(Event, Vec<OwnedFd>)> {
        let mut buffer = vec![0; EVENT_LEN_MAX];
        match seqpacket::receive(self.doer.as_fd(), &mut buffer) {
            Ok(received) if received.len > 0 => Some((
                Event::decode(&buffer[..received.len]).unwrap(),
                received.descriptors,
            )),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no event: {error}"),
        }
    }

    /// Asks for a sandbox that cannot be had, and returns why.
    pub(crate) fn refusal(&self, environment: Environment) -> String {
        self.send(Request::Spawn {
            worker: 77,
            environment,
            limits: LIMITS,
        });
        match self.event().unwrap().0 {
            Event::Failed { worker: 77, message } => message,
            event => panic!("{event:?}"),
        }
    }

    /// Starts a sandbox and waits until its program is up.
    pub(crate) fn spawn(&self, worker: u64, environment: Environment, limits: Limits) -> Sandbox {
        self.send(Request::Spawn {
            worker,
            environment,
            limits,
        });
        let sandbox = self.spawned();
        assert_eq!(sandbox.worker, worker);
        sandbox
    }

    /// The next sandbox, when its program is up.
    pub(crate) fn spawned(&self) -> Sandbox {
        let (event, descriptors) = self.event().unwrap();
        let Event::Spawned { worker, pid } = event else {
            panic!("{event:?}")
        };
        let [control, data, output] = descriptors.try_into().unwrap();
        for socket in [&control, &data] {
            set_timeout(socket);
        }
        assert_eq!(receive(control.as_fd()), b"up");
        Sandbox {
            worker,
            pid,
            control,
            data,
            output,
        }
    }

    pub(crate) fn worker(&self) -> Sandbox {
        self.spawn(1, Environment::WORKER, LIMITS)
    }

    pub(crate) fn has(&self, layer: &str) -> bool {
        let report = self.layer(layer);
        if !report.proven {
            eprintln!("SKIPPED: {layer} is missing here: {report:?}");
        }
        report.proven
    }

    /// What was told of a layer at the start.
    pub(crate) fn layer(&self, name: &str) -> &LayerReport {
        let mut layers = self.layers.iter();
        layers.find(|layer| layer.name == name).unwrap()
    }

    /// Control groups of this platform that exist.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        // FNV-1a of the data directory, as the spawner names them.
        let path = fs::canonicalize(&self.directory).unwrap_or_else(|_| self.directory.clone());
        let hash = path
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        let name = format!("isms-{hash:016x}");
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        hierarchies
            .map(|hierarchy| hierarchy.path().join(&name))
            .filter(|path| path.exists())
            .collect()
    }

    /// Processes in those groups.
    pub(crate) fn processes(&self) -> Vec<String> {
        let workers = self
            .groups()
            .into_iter()
            .filter_map(|group| fs::read_dir(group).ok());
        let files = workers
            .flatten()
            .flatten()
            .map(|worker| worker.path().join("cgroup.procs"));
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .filter(|text| !text.is_empty())
            .collect()
    }

    /// Has the supervisor stop the spawner, and waits for its end.
    pub(crate) fn stop(&mut self) {
        seqpacket::send(self.supervisor.as_fd(), &ToSpawner::Stop.encode(), &[]).unwrap();
        assert!(self.wait_for_end().success());
    }

    /// Does something while the spawner stands still.
    pub(crate) fn pause_spawner(&self, act: impl FnOnce()) {
        let signal = |name: &str| {
            let status = Command::new("kill")
                .args([name, &self.spawner.id().to_string()])
                .status();
            assert!(status.unwrap().success());
        };
        signal("-STOP");
        act();
        signal("-CONT");
    }

    /// Waits until the spawner has ended by itself.
    pub(crate) fn wait_for_end(&mut self) -> process::ExitStatus {
        while self.heard().is_some() {}
        self.spawner.wait().unwrap()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = seqpacket::send(self.supervisor.as_fd(), &ToSpawner::Stop.encode(), &[]);
        let _ = self.spawner.wait();
        let groups = self.groups();
        let _ = fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            assert_eq!(groups, [] as [PathBuf; 0], "left behind");
        }
    }
}

impl Sandbox {
    /// Sends a command to the program inside and returns its answer.
    pub(crate) fn ask(&self, command: &str) -> String {
        seqpacket::send(self.control.as_fd(), command.as_bytes(), &[]).unwrap();
        String::from_utf8(receive(self.control.as_fd())).unwrap()
    }

    /// Waits until every process of the sandbox is gone, seen by the end of its socket.
    pub(crate) fn wait_for_death(&self) {
        assert_eq!(receive(self.control.as_fd()), b"");
        let exists = Path::new("/proc").join(self.pid.to_string()).join("exe").exists();
        assert!(!exists, "process {} still runs", self.pid);
    }
}

fn compile(program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/executor.c");
    let arguments = ["-O1", "-Wall", "-o"];
    let compiler = Command::new("cc")
        .args(arguments)
        .arg(program)
        .arg(source)
        .arg("-ldl")
        .arg("-lpthread")
        .status();
    assert!(compiler.unwrap().success());
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// This test binary again, as [`spawner_process`].
fn start_spawner(directory: &Path, channel: OwnedFd, host: &Host) -> Child {
    let mut program = env::current_exe().unwrap();
    if host.user.is_some() {
        // Where the build lies, in a home directory perhaps, another user may not go. `cp` copies, because
        // a descriptor open for writing here could be inherited by a child that another thread starts.
        let copy = directory.join("spawner");
        let status = Command::new("cp").arg(&program).arg(&copy).status();
        assert!(status.unwrap().success());
        program = copy;
    }
    let mut command = match (host.run_bytes, host.lacks.and_then(Lack::made_by)) {
        (None, None) => Command::new(program),
        // In namespaces of their own, so that nothing of it is left behind, whatever happens.
        (Some(bytes), _) => {
            let script = r#"mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@""#;
            let mut command = Command::new("unshare");
            command.args(["-m", "--", "/bin/sh", "-c", script, &bytes.to_string()]);
            command.arg(directory.join("run")).arg(program);
            command
        }
        (None, Some((namespaces, script))) => {
            let mut command = Command::new("unshare");
            command.args(namespaces).args(["--", "/bin/sh", "-c"]);
            command.arg(format!(r#"{script}; exec "$0" "$@""#)).arg(program);
            command
        }
    };
    if let Some(user) = host.user {
        command.uid(user).gid(user);
    }
    command.args([
        "platform::spawner_process",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(DIRECTORY, directory).stdout(process::Stdio::null());
    if host.lacks == Some(Lack::Landlock) {
        command.env(WITHOUT_LANDLOCK, "1");
    }
    let launch = Launch {
        descriptors: vec![channel],
        new_session: true,
        ..Launch::default()
    };
    launch::arrange(&mut command, launch).unwrap();
    command.spawn().unwrap()
}

/// The settings of a spawner, without openings.
fn config(directory: &Path) -> SpawnerConfig {
    SpawnerConfig {
        data_directory: directory.to_owned(),
        run_directory: directory.join("run"),
        socket_directory: directory.join("run"),
        executor: directory.join("executor"),
        builder: directory.join("executor"),
        sdk_include: directory.join("sdk"),
        uids: UidRange { first: 0, count: 8 },
        workers_max: WORKERS_MAX,
        worker_maxima: MAXIMA,
        builder_maxima: MAXIMA,
        images: directory.join("images"),
        image_len_max: IMAGE_LEN_MAX,
        device_nodes: Vec::new(),
        directories: Vec::new(),
        builder_network: false,
        required_layers: Vec::new(),
    }
}

#[test]
#[ignore = "the spawner's process, which the tests start themselves"]
fn spawner_process() {
    let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    if env::var_os(WITHOUT_LANDLOCK).is_some() {
        lacking::hide_landlock();
    }
    let supervisor = descriptor::take_inherited(launch::FIRST_DESCRIPTOR).unwrap();
    let config = fs::read_to_string(directory.join(CONFIG)).unwrap();
    let mut config: SpawnerConfig = toml::from_str(&config).unwrap();
    config.uids.first = 500_000 + process::id() * 16;
    spawner::run(config, supervisor).unwrap();
}

/// A datagram within the deadline; empty when the peer has gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    match seqpacket::receive(socket, &mut buffer) {
        Ok(received) => buffer[..received.len].to_vec(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Vec::new(),
        Err(error) => panic!("nothing came: {error}"),
    }
}

pub(crate) fn set_timeout(socket: &OwnedFd) {
    // The option is one of every socket, whatever its type.
    UnixStream::from(socket.try_clone().unwrap())
        .set_read_timeout(Some(TIMEOUT))
        .unwrap();
}
