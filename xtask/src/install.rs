//! What the machine must have, and how it gets it.
//!
//! Debian packages are installed by `apt-get` when this is root or sudo asks no password; otherwise
//! the exact command is the error. Python packages go into an environment below the target
//! directory, Apptainer by a script of its own. Nothing is asked, and nothing else is changed.

use std::{
    env, fs,
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

/// What packs a directory into an image.
pub(crate) const MKSQUASHFS: Need = Need {
    what: "mksquashfs",
    probe: &["sh", "-c", "command -v mksquashfs"],
    packages: &["squashfs-tools"],
};

/// The HTTP load generator of the benchmarks.
pub(crate) const WRK: Need = Need {
    what: "wrk",
    probe: &["sh", "-c", "command -v wrk"],
    packages: &["wrk"],
};

/// A virtual machine.
const QEMU: Need = Need {
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

/// Makes sure that Apptainer, or Singularity, is there. No release of Debian up to 12 packages it, so it is fetched and
/// fitted by `xtask/apptainer/install.sh`, as root on Debian 12 for x86-64.
///
/// Fails where it cannot be had; the tests on it then skip.
pub(crate) fn ensure_apptainer() -> Result<()> {
    if ["apptainer", "singularity"]
        .iter()
        .any(|program| command::succeeds(Command::new(program).arg("--version")))
    {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    ensure!(
        is_debian_12(&release) && env::consts::ARCH == "x86_64",
        "it can be installed for you on Debian 12 for x86-64 only; elsewhere see https://apptainer.org"
    );
    ensure!(
        privileged_prefix().is_some_and(|prefix| prefix.is_empty()),
        "only root can install it: sudo xtask/apptainer/install.sh"
    );
    let script = workspace::root().join("xtask/apptainer/install.sh");
    eprintln!("installing Apptainer: {}", script.display());
    command::run(&mut Command::new(script))
}

/// What the virtual machine has of Debian beside a kernel: a shell, and what packs images with its libraries.
const GUEST_PACKAGES: [&str; 7] = [
    "busybox-static",
    "squashfs-tools",
    "liblz4-1",
    "liblzma5",
    "liblzo2-2",
    "libzstd1",
    "zlib1g",
];

/// Makes sure that a virtual machine can be run: QEMU, and below the target directory Debian's cloud kernel and
/// [`GUEST_PACKAGES`], which are unpacked and not installed. Returns their folder.
pub(crate) fn ensure_guest() -> Result<PathBuf> {
    ensure!(
        env::consts::ARCH == "x86_64",
        "the virtual machine is one of x86-64"
    );
    ensure_all(&[&QEMU])?;
    let folder = workspace::tools().join("guest");
    let complete = folder.join("complete");
    let packages = GUEST_PACKAGES.join(" ");
    if fs::read_to_string(&complete).is_ok_and(|unpacked| unpacked == packages) {
        return Ok(folder);
    }
    if folder.exists() {
        // Of other packages, or not finished.
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let kernel = match cloud_kernel()? {
        Some(kernel) => kernel,
        None => {
            update_package_lists()?;
            cloud_kernel()?.context("apt knows no linux-image-cloud-amd64")?
        }
    };
    eprintln!("downloading {kernel} {packages}, which are unpacked and not installed");
    let mut download = Command::new("apt-get");
    download.args(["download", "-q", &kernel]).args(GUEST_PACKAGES);
    command::run(download.current_dir(&folder)).context("the guest's packages cannot be had")?;
    for entry in fs::read_dir(&folder)
        .context("cannot list the packages")?
        .flatten()
    {
        let package = entry.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            command::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&folder))?;
            fs::remove_file(&package).context("cannot remove a package")?;
        }
    }
    fs::write(complete, packages).context("cannot mark the guest's packages as complete")?;
    Ok(folder)
}

/// The files and folders of the installed Apptainer, as Debian's package has them; none where it came otherwise.
pub(crate) fn apptainer_files() -> Vec<PathBuf> {
    let output = Command::new("dpkg").args(["-L", "apptainer"]).output();
    let listed = output.ok().filter(|output| output.status.success());
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().map(PathBuf::from).collect()
}

/// Whether this machine runs an ordinary kernel in a virtual machine. One that is a virtual machine itself may have the
/// device, for guests that were made to do without the processor's help, and lacks the processor's flags.
pub(crate) fn has_hardware_virtualisation() -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = processors
        .split_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"));
    can && Path::new("/dev/kvm").exists()
}

/// The package that Debian's newest cloud kernel is in; `None` when apt has no list of packages.
fn cloud_kernel() -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()
        .context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned))
}

fn is_debian_12(release: &str) -> bool {
    ["ID=debian", "VERSION_ID=\"12\""]
        .iter()
        .all(|wanted| release.lines().any(|line| line == *wanted))
}

fn imports_zmq(python: &Path) -> bool {
    command::succeeds(Command::new(python).args(["-c", "import zmq"]))
}

/// Fetches the lists of Debian's packages, which a fresh system may lack.
pub(crate) fn update_package_lists() -> Result<()> {
    let prefix = privileged_prefix()
        .context("missing: Debian's lists of packages; get them with: sudo apt-get update")?;
    apt_get(&prefix, &["update", "-q"])
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
    apt_get(&prefix, &["update", "-q"])?;
    let install = [&["install", "-q", "-y", "--no-install-recommends"], packages].concat();
    apt_get(&prefix, &install).with_context(|| format!("cannot install {what}; try: {by_hand}"))
}

/// Runs apt-get as root; `prefix` is what makes it so.
fn apt_get(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    let words: Vec<&str> = prefix
        .iter()
        .chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .copied()
        .collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(arguments);
    command::run(&mut command)
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
    fn debian_12_is_told_from_what_resembles_it() {
        assert!(is_debian_12(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(!is_debian_12("VERSION_ID=\"13\"\nID=debian\n"));
        assert!(!is_debian_12("VERSION_ID=\"12\"\nID=elsewhere\nID_LIKE=debian\n"));
        assert!(!is_debian_12(""));
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
