//! A platform that xtask starts: its processes, its folder, its addresses.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A running platform. Dropped, it is stopped and its folder removed.
pub(crate) struct Platform {
    /// Where projects are served, `HOST:PORT`.
    pub(crate) http: String,
    /// Where the management API is served, `HOST:PORT`.
    pub(crate) gate: String,
    binaries: PathBuf,
    data: PathBuf,
    supervisor: Child,
}

/// Where it should serve.
#[derive(Clone, Copy)]
pub(crate) struct Listen<'a> {
    pub(crate) http: &'a str,
    pub(crate) gate: &'a str,
}

impl Listen<'_> {
    /// Ports that the system picks.
    pub(crate) const ANY: Listen<'static> = Listen {
        http: "127.0.0.1:0",
        gate: "127.0.0.1:0",
    };
}

impl Platform {
    /// Starts the platform of a folder of binaries and waits until all roles serve.
    pub(crate) fn start(binaries: &Path, listen: Listen<'_>, settings: &str) -> Result<Platform> {
        // Not in the target directory, which other users may not be able to reach: roles have their own.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("isms-xtask-{}-{number}", std::process::id()));
        let (supervisor, stdout) = spawn(binaries, &data, listen, settings)?;
        let mut platform = Platform {
            http: String::new(),
            gate: String::new(),
            binaries: binaries.to_owned(),
            data,
            supervisor,
        };
        platform.await_ready(stdout)?;
        Ok(platform)
    }

    /// Stops it and starts it again with other settings, with its data and its addresses.
    pub(crate) fn restart(&mut self, settings: &str) -> Result<()> {
        self.stop();
        let listen = Listen {
            http: &self.http,
            gate: &self.gate,
        };
        let (supervisor, stdout) = spawn(&self.binaries, &self.data, listen, settings)?;
        self.supervisor = supervisor;
        self.await_ready(stdout)
    }

    fn await_ready(&mut self, stdout: ChildStdout) -> Result<()> {
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot read the ready line")?;
        ensure!(
            !line.is_empty(),
            "the platform did not start; its log above says why"
        );
        let ready: Value = serde_json::from_str(&line).context("the ready line cannot be read")?;
        let address = |name: &str| {
            ready[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {name} address"))
        };
        (self.http, self.gate) = (address("http")?, address("gate")?);
        Ok(())
    }

    /// The command `isms` with this platform as its own.
    pub(crate) fn isms(&self) -> Command {
        let mut command = Command::new(self.binaries.join("isms"));
        command.env("ISMS_URL", format!("http://{}", self.gate));
        command.env("ISMS_TOKEN", self.token());
        command
    }

    /// The administrator's token.
    pub(crate) fn token(&self) -> String {
        let token = fs::read_to_string(self.data.join("admin.token")).unwrap_or_default();
        token.trim().to_owned()
    }

    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// The platform's folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    fn stop(&mut self) {
        if let Ok(None) = self.supervisor.try_wait() {
            let stopped = self.isms().args(["down", "--data"]).arg(&self.data).status();
            if !stopped.is_ok_and(|status| status.success()) {
                // Every other process follows the supervisor.
                let _ = self.supervisor.kill();
            }
            let _ = self.supervisor.wait();
        }
    }

    /// Waits until the platform ends.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.supervisor.wait().context("cannot wait for isms up")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn spawn(binaries: &Path, data: &Path, listen: Listen<'_>, settings: &str) -> Result<(Child, ChildStdout)> {
    fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    let config = data.join("isms.toml");
    fs::write(&config, settings).with_context(|| format!("cannot write {}", config.display()))?;
    let mut supervisor = Command::new(binaries.join("isms"))
        .args(["up", "--json", "--http", listen.http, "--gate", listen.gate])
        .arg("--data")
        .arg(data)
        .arg("--config")
        .arg(&config)
        .env(
            "ISMS_LOG",
            std::env::var("ISMS_LOG").unwrap_or_else(|_| "warn".to_owned()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start isms up")?;
    let stdout = supervisor.stdout.take().context("isms up has no stdout")?;
    Ok((supervisor, stdout))
}
