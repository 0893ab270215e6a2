//! A whole platform of the test's own: real processes, its own data directory, ports that the system picks.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

mod http;
mod load;
mod ordinary;
mod processes;
mod roles;

pub(crate) use http::{Http, Response, exchange};
pub(crate) use load::{await_calls, post_each, under_load};
pub(crate) use ordinary::as_ordinary_user;
pub(crate) use processes::{Process, ROLES, descendants};
pub(crate) use roles::{Roles, register};

/// Time for anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Folder with `isms`, `doee-executor` and `doee-builder`; without it the tests say that they skip.
pub(crate) fn binaries() -> Option<PathBuf> {
    match std::env::var_os("ISMS_BIN_DIR") {
        Some(folder) => Some(folder.into()),
        None => {
            eprintln!("SKIPPED: ISMS_BIN_DIR is not set; run by `cargo xtask test`");
            None
        }
    }
}

/// Waits until `check` gives something; fails the test after [`SOON`].
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(
            Instant::now() < until,
            "{what} did not happen within {} s",
            SOON.as_secs()
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A running platform; dropped, it is stopped and leaves nothing.
pub(crate) struct Platform {
    pub(crate) http: SocketAddr,
    pub(crate) gate: SocketAddr,
    pub(crate) data: tempfile::TempDir,
    binaries: PathBuf,
    supervisor: Child,
    stdout: BufReader<ChildStdout>,
}

impl Platform {
    /// Starts a platform; `None` when the binaries are not there.
    pub(crate) fn start() -> Option<Platform> {
        Platform::start_with(&[])
    }

    /// Starts a platform with lines of `isms.toml`.
    pub(crate) fn start_with(settings: &[&str]) -> Option<Platform> {
        Some(Platform::start_in(
            binaries()?,
            new_data(),
            settings,
            Stdio::inherit(),
        ))
    }

    /// Starts a platform whose data lies below a folder.
    pub(crate) fn start_below(folder: &Path) -> Option<Platform> {
        let data = tempfile::Builder::new()
            .prefix("isms-test-")
            .tempdir_in(folder)
            .unwrap();
        Some(Platform::start_in(binaries()?, data, &[], Stdio::inherit()))
    }

    /// Starts a platform of the programs in a folder.
    pub(crate) fn start_from(binaries: &Path, settings: &[&str]) -> Platform {
        Platform::start_in(binaries.to_owned(), new_data(), settings, Stdio::inherit())
    }

    /// Starts a platform whose own log goes to a file.
    pub(crate) fn start_logging_to(log: &Path) -> Option<Platform> {
        let log = std::fs::File::create(log).unwrap();
        Some(Platform::start_in(binaries()?, new_data(), &[], log.into()))
    }

    fn start_in(binaries: PathBuf, data: tempfile::TempDir, settings: &[&str], log: Stdio) -> Platform {
        let config = data.path().join("isms.toml");
        std::fs::write(&config, settings.join("\n")).unwrap();
        let mut supervisor = Command::new(binaries.join("isms"))
            .args([
                "up",
                "--json",
                "--http",
                "127.0.0.1:0",
                "--gate",
                "127.0.0.1:0",
                "--config",
            ])
            .arg(&config)
            .arg("--data")
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(supervisor.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).expect("isms up prints a ready line");
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Platform {
            http: address("http"),
            gate: address("gate"),
            data,
            binaries,
            supervisor,
            stdout,
        }
    }

    /// Stops it in order and starts it again on the same data.
    pub(crate) fn restart(mut self) -> Platform {
        self.stop();
        self.restart_after_kill()
    }

    /// Starts it again on the same data after its supervisor has ended.
    pub(crate) fn restart_after_kill(mut self) -> Platform {
        let data = std::mem::replace(&mut self.data, new_data());
        let binaries = self.binaries.clone();
        drop(self);
        Platform::start_in(binaries, data, &[], Stdio::inherit())
    }

    /// One of the platform's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// The processes of the platform, by the word behind `isms` in their command line.
    pub(crate) fn process(&self, role: &str) -> Option<Process> {
        descendants(self.pid())
            .into_iter()
            .find(|process| process.is_role(role))
    }

    /// A worker of a project that waits for calls; those of older versions are draining.
    pub(crate) fn worker_of(&self, project: &str) -> Process {
        eventually("an idle worker", || {
            let mut workers = self.workers(project).into_iter();
            let worker = workers.find(|worker| worker["state"] == "idle")?;
            let mut processes = descendants(self.pid()).into_iter();
            processes.find(|process| worker["pid"] == process.pid)
        })
    }

    /// Runs `isms` against this platform.
    pub(crate) fn isms(&self, arguments: &[&str]) -> Output {
        self.isms_in(Path::new("/"), arguments)
    }

    /// Runs `isms` against this platform in a folder.
    pub(crate) fn isms_in(&self, folder: &Path, arguments: &[&str]) -> Output {
        self.command(arguments).current_dir(folder).output().unwrap()
    }

    /// `isms` with arguments, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join("isms"));
        command
            .args(arguments)
            .env("ISMS_URL", format!("http://{}", self.gate))
            .env("ISMS_TOKEN", self.admin_token())
            .stdin(Stdio::null());
        command
    }

    /// The workers of a project as `isms ps` lists them; of no project: the empty ones.
    pub(crate) fn workers(&self, project: &str) -> Vec<Value> {
        let listed: Value =
            serde_json::from_slice(&self.isms(&["ps", "--json"]).stdout).expect("isms ps prints JSON");
        let workers = listed["workers"].as_array().unwrap();
        workers
            .iter()
            .filter(|worker| worker["project_name"] == project)
            .cloned()
            .collect()
    }

    pub(crate) fn admin_token(&self) -> String {
        std::fs::read_to_string(self.data.path().join("admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Deploys a folder, which must succeed.
    pub(crate) fn deploy(&self, folder: &Path) {
        let output = self.isms(&["deploy", folder.to_str().unwrap()]);
        assert!(
            output.status.success(),
            "deploy failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Response {
        Http::connect(self.http).send(method, path, &[], body.as_bytes())
    }

    /// `GET` of a project's path.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    /// Stops it in order; every process must be gone.
    pub(crate) fn stop(&mut self) {
        let processes = descendants(self.pid());
        signal(self.pid(), rustix::process::Signal::TERM);
        let status = self.supervisor.wait().unwrap();
        assert!(status.success(), "isms up ended with {status}");
        eventually("the end of every process", || {
            processes.iter().all(|process| !process.is_alive()).then_some(())
        });
    }

    /// Kills the supervisor, and only it.
    pub(crate) fn kill_supervisor(&mut self) {
        self.supervisor.kill().unwrap();
        self.supervisor.wait().unwrap();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Ok(None) = self.supervisor.try_wait() {
            signal(self.pid(), rustix::process::Signal::TERM);
            let _ = self.supervisor.wait();
        }
        let _ = self.stdout.fill_buf();
    }
}

/// A data directory that the roles' users can reach.
fn new_data() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("isms-test-").tempdir().unwrap()
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}
