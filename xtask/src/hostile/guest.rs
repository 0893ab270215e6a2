//! A virtual machine that is thrown away: Debian's cloud kernel and a root in memory with the platform's binaries.
//!
//! Nothing of it is installed: the packages are unpacked below the target directory. The guest has no network and no
//! disk. It is told what to do on the kernel's command line and answers on its second serial port.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::archive::Archive;
use crate::{command, install};

/// Longer than a guest is ever silent: its slowest probe, on a slow machine.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// For a guest that runs on the hardware to boot.
const HELLO_MAX: Duration = Duration::from_secs(20);
const MEMORY_MB: u32 = 1536;

/// The first process, which moves the root out of the place where it cannot be pivoted away, and the second.
const FIRST: &str = include_str!("guest/first.sh");
const SECOND: &str = include_str!("guest/second.sh");
/// What the kernel starts for a process that dumps core: it shows whether a worker can make it run.
const KEEP_CORE: &str = include_str!("guest/keep-core.sh");

/// What the sandbox's tests compile, compiled before.
const CC: &str = include_str!("guest/cc.sh");

/// Something that can be booted any number of times.
pub(super) struct Guest {
    kernel: PathBuf,
    root: PathBuf,
    accelerated: bool,
}

impl Guest {
    /// Makes sure that there are QEMU, a kernel and a shell, and packs a root with `files` (name inside, file outside)
    /// below `/suite` and the shared libraries that they need. `name` tells it from other guests.
    pub(super) fn prepare(name: &str, files: &[(String, PathBuf)]) -> Result<Guest> {
        let unpacked = install::ensure_guest()?;
        let kernel = find(&unpacked.join("boot"), "vmlinuz-")?;
        let root = unpacked.join(format!("{name}.cpio"));
        let mut archive = Archive::default();
        for folder in [
            "bin", "dev", "etc", "home", "new", "proc", "root", "suite", "sys", "tmp", "usr", "usr/lib",
            "var", "cores",
        ] {
            archive.add_folder(folder);
        }
        archive.add_file("init", FIRST.as_bytes(), 0o755);
        archive.add_file("bin/second", SECOND.as_bytes(), 0o755);
        archive.add_file("bin/keep-core", KEEP_CORE.as_bytes(), 0o755);
        archive.add_file(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n",
            0o644,
        );
        archive.add_file("etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644);
        archive.add_file("etc/shadow", b"root:*:1:0:99999:7:::\n", 0o600);
        archive.add_file("etc/hostname", b"guest\n", 0o644);
        archive.add_file("bin/cc", CC.as_bytes(), 0o755);
        archive.add_folder("etc/alternatives");
        archive.add_file("bin/busybox", &read(&unpacked.join("bin/busybox"))?, 0o755);
        let stripped = unpacked.join(format!("{name}.stripped"));
        for (name, file) in files {
            fs::copy(file, &stripped).with_context(|| format!("cannot copy {}", file.display()))?;
            command::run(Command::new("strip").arg(&stripped))?;
            archive.add_file(&format!("suite/{name}"), &read(&stripped)?, 0o755);
        }
        for library in libraries(files)? {
            let name = library.to_string_lossy();
            archive.add_file(name.trim_start_matches('/'), &read(&library)?, 0o755);
        }
        fs::write(&root, archive.finish()).with_context(|| format!("cannot write {}", root.display()))?;
        let mut guest = Guest {
            kernel,
            root,
            accelerated: install::has_hardware_virtualisation(),
        };
        // A machine that is itself a virtual one may have the device and yet run no guest.
        let mut greeted = false;
        if guest.accelerated {
            guest.boot_for(HELLO_MAX, "isms.run=hello", |line| greeted |= line == "hello")?;
        }
        if !greeted {
            eprintln!("hardware virtualisation does not work here; the guest is emulated and slow");
            guest.accelerated = false;
        }
        Ok(guest)
    }

    /// Boots it with words of `isms.` on the kernel's command line; `each` hears every line that it says. Returns when
    /// it has ended, or was silent for too long.
    pub(super) fn boot(&self, words: &str, each: impl FnMut(&str)) -> Result<()> {
        self.boot_for(SILENCE_MAX, words, each)
    }

    fn boot_for(&self, silence_max: Duration, words: &str, mut each: impl FnMut(&str)) -> Result<()> {
        let mut qemu = Command::new("setpriv");
        // It dies with this process, however that ends.
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-smp", "2", "-m", &MEMORY_MB.to_string()])
            .args(if self.accelerated {
                ["-accel", "kvm", "-cpu", "host,arch-capabilities=off"]
            } else {
                ["-accel", "tcg", "-cpu", "max"]
            })
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.root)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 {words}"))
            .arg("-serial")
            .arg({
                let mut console = OsString::from("file:");
                console.push(self.console());
                console
            })
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut machine = Machine(qemu.spawn().context("cannot start qemu-system-x86_64")?);
        let output = machine.0.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        while let Ok(line) = lines.recv_timeout(silence_max) {
            each(&line);
        }
        Ok(())
    }

    /// Whether it runs on the hardware.
    pub(super) fn is_accelerated(&self) -> bool {
        self.accelerated
    }

    /// The release of its kernel.
    pub(super) fn kernel_release(&self) -> String {
        let name = self.kernel.file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches("vmlinuz-").to_owned()
    }

    /// What the guest's kernel and the platform in it wrote during the last boot.
    pub(super) fn console(&self) -> PathBuf {
        self.root.with_extension("log")
    }
}

/// A running guest; dropped, it is gone.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(prefix)
    };
    names
        .find(is_it)
        .with_context(|| format!("there is no {prefix}… in {}", folder.display()))
}

/// The loader and the shared libraries of these files and of any Doee, where they lie here.
fn libraries(files: &[(String, PathBuf)]) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .args(files.iter().map(|(_, file)| file))
        .output()
        .context("cannot start ldd")?;
    ensure!(
        output.status.success(),
        "ldd: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut paths: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .filter(|word| !word.ends_with(':'))
        .map(PathBuf::from)
        .collect();
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        bail!("ldd names no library");
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
