//! A machine outside: a network namespace that the suite makes, with an address that exists nowhere else, and a cable
//! between it and this machine. For machines that are thrown away: their network is changed.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where a cloud tells its machines their secrets.
const METADATA: &str = "169.254.169.254";
/// This machine's address on the cable.
const OWN: &str = "169.254.0.1";
/// How long the namespace may take to be there.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// The namespace, whose last process this is. Dropped, it is gone, and the cable with it.
pub(super) struct Outside(Child);

impl Outside {
    /// Makes it, with a listener on the metadata service's address in it.
    pub(super) fn make() -> Result<(Outside, TcpListener)> {
        let holder = Command::new("unshare")
            .args(["-n", "sleep", "100000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot make a network namespace")?;
        let outside = Outside(holder);
        outside.await_namespace()?;
        let own = std::process::id().to_string();
        // The far end is made first and names its peer itself.
        outside.ip(&["link", "add", "far", "type", "veth"])?;
        outside.ip(&["link", "set", "veth0", "netns", &own])?;
        outside.ip(&["addr", "add", &format!("{METADATA}/16"), "dev", "far"])?;
        outside.ip(&["link", "set", "far", "up"])?;
        run(Command::new("ip").args(["addr", "add", &format!("{OWN}/16"), "dev", "veth0"]))?;
        run(Command::new("ip").args(["link", "set", "veth0", "up"]))?;
        let listener = outside.listen()?;
        Ok((outside, listener))
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn await_namespace(&self) -> Result<()> {
        let own = fs::read_link("/proc/self/ns/net").context("cannot see the own network namespace")?;
        let deadline = Instant::now() + MADE_WITHIN;
        while fs::read_link(self.namespace()).is_ok_and(|theirs| theirs == own) {
            ensure!(
                Instant::now() < deadline,
                "a network namespace was not made in time"
            );
            thread::yield_now();
        }
        Ok(())
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-n", "ip"]);
        run(command.args(arguments))
    }

    /// A socket stays in the namespace in which it was made, whoever has it then.
    fn listen(&self) -> Result<TcpListener> {
        let namespace = File::open(self.namespace()).context("the network namespace is gone")?;
        let listen = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the network namespace")?;
            TcpListener::bind((METADATA, 80)).context("cannot listen on the metadata address")
        };
        // A thread of its own, so that nothing else moves.
        let listening = thread::spawn(listen).join();
        listening.map_err(|_| anyhow!("the thread in the network namespace ended"))?
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
