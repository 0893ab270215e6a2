//! What the machine must have, and how it gets it.
//!
//! Debian packages are installed by `apt-get` when this is root or sudo asks no password; otherwise
//! the exact command is the error. Python packages go into an environment below the target
//! directory. Nothing is asked, and nothing outside of these two places is changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, workspace};

/// Something that a command of xtask needs: how to see that it is there, and its Debian packages.
pub(crate) struct Need {
    what: &'static str,
    probe: &'static [&'static str],
    packages: &'static [&'static str],
}

/// A C compiler that links.
pub(crate) const C_COMPILER: Need = Need {
    what: "a C compiler",
    probe: &["cc", "--version"],
    packages: &["gcc", "libc6-dev"],
};

/// A C++ compiler.
pub(crate) const CPP_COMPILER: Need = Need {
    what: "a C++ compiler",
    probe: &["c++", "--version"],
    packages: &["g++"],
};

/// Debian's Python with environments and pip; `ensurepip` is what a bare python3 lacks.
pub(crate) const PYTHON: Need = Need {
    what: "Python with venv and pip",
    probe: &["python3", "-c", "import ensurepip, venv"],
    packages: &["python3", "python3-venv", "python3-pip"],
};

/// The HTTP load generator of the benchmarks.
pub(crate) const WRK: Need = Need {
    what: "wrk",
    probe: &["sh", "-c", "command -v wrk"],
    packages: &["wrk"],
};

/// A virtual machine.
pub(crate) const QEMU: Need = Need {
    what: "QEMU",
    probe: &["qemu-system-x86_64", "--version"],
    packages: &["qemu-system-x86"],
};

impl Need {
    fn is_met(&self) -> bool {
        let [program, arguments @ ..] = self.probe else {
            return false;
        };
        command::succeeds(Command::new(program).args(arguments))
    }
}

/// Makes sure that everything in `needs` is there; installs what is not.
pub(crate) fn ensure_all(needs: &[&Need]) -> Result<()> {
    let missing: Vec<&&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    apt_install(&what.join(", "), &packages)?;
    for need in missing {
        ensure!(
            need.is_met(),
            "{} is still missing after the installation of {}",
            need.what,
            packages.join(" ")
        );
    }
    Ok(())
}

/// Makes sure that rustfmt and clippy are there.
pub(crate) fn ensure_rust_components() -> Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(subcommand, _)| !command::succeeds(&mut command::cargo([subcommand, "--version"])))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = Command::new("rustup");
    install.args(["component", "add"]).args(&missing);
    eprintln!("installing {}: {}", missing.join(", "), command::quote(&install));
    command::run(&mut install).with_context(|| format!("missing: {}", missing.join(", ")))
}

/// Makes sure that there is a Python environment with pyzmq, libzmq's binding; returns its `bin` folder.
///
/// Fails when pip cannot fetch it; the interoperability tests then skip.
pub(crate) fn ensure_pyzmq() -> Result<PathBuf> {
    let environment = workspace::tools().join("python");
    let python = environment.join("bin/python3");
    if !imports_zmq(&python) {
        eprintln!("installing pyzmq into {}", environment.display());
        fs::create_dir_all(workspace::tools())
            .with_context(|| format!("cannot create {}", workspace::tools().display()))?;
        command::run(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&environment),
        )?;
        command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "pyzmq"]))?;
        ensure!(imports_zmq(&python), "pyzmq was installed and cannot be imported");
    }
    Ok(environment.join("bin"))
}

fn imports_zmq(python: &Path) -> bool {
    command::succeeds(Command::new(python).args(["-c", "import zmq"]))
}

fn apt_install(what: &str, packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "sudo apt-get update && sudo apt-get install -y {}",
        packages.join(" ")
    );
    let has_apt = command::succeeds(Command::new("apt-get").arg("--version"));
    let Some(prefix) = privileged_prefix().filter(|_| has_apt) else {
        bail!("missing: {what}; on Debian or Ubuntu install with: {by_hand}");
    };
    eprintln!("installing {what}: apt-get install {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let words: Vec<&str> = prefix
            .iter()
            .chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .copied()
            .collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments);
        command::run(&mut command)
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], packages].concat())
        .with_context(|| format!("cannot install {what}; try: {by_hand}"))
}

/// The words before a command that must run as root; `None` when there is no way without a password.
fn privileged_prefix() -> Option<Vec<&'static str>> {
    let uid = Command::new("id").arg("-u").output().ok()?;
    if uid.stdout.trim_ascii() == b"0" {
        return Some(Vec::new());
    }
    command::succeeds(Command::new("sudo").args(["-n", "true"])).then(|| vec!["sudo", "-n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_met_only_by_a_probe_that_succeeds() {
        let need = |probe| Need {
            what: "it",
            probe,
            packages: &[],
        };
        assert!(need(&["true"]).is_met());
        assert!(!need(&["false"]).is_met());
        assert!(!need(&["/does/not/exist"]).is_met());
        assert!(!need(&[]).is_met());
    }

    #[test]
    fn nothing_is_installed_when_nothing_is_missing() {
        let need = Need {
            what: "it",
            probe: &["true"],
            packages: &["no-such-package"],
        };
        ensure_all(&[&need]).unwrap();
    }
}
