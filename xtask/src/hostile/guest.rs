//! A virtual machine that is thrown away: Debian's cloud kernel and a root in memory with the platform's binaries.
//!
//! Nothing of it is installed: the packages are unpacked below the target directory. The guest has no network and no
//! disk. It is told what to do on the kernel's command line and answers on its second serial port.

mod system;

use std::{
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context, Result};

use self::system::System;
use super::archive::Archive;
use crate::{command, install};

/// How many times longer an emulated guest may take. A process that starts another one in namespaces of its own is what
/// emulation slows most: measured, 44 times.
const EMULATED_TIME_FACTOR: u32 = 50;
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
/// Names the libraries of a program, without the C library's own script and the shell that it needs.
const LDD: &str = include_str!("guest/ldd.sh");

/// Something that can be booted any number of times.
pub(super) struct Guest {
    kernel: PathBuf,
    root: PathBuf,
    accelerated: bool,
}

/// What is in a guest beside the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Equipment {
    /// What the platform's binaries and the suite need.
    Libraries,
    /// Also what makes, mounts and runs images.
    Images,
}

/// How time passes in a guest while it is emulated; on hardware it passes as outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// As outside: what the platform does in time on hardware may be late.
    Outside,
    /// By instructions, 2 ns for each, and not at all while nothing runs. Every deadline inside means what it means on
    /// hardware, however slow the emulation is or whatever holds it up.
    Counted,
}

impl Clock {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Clock::Outside => &["-accel", "tcg"],
            Clock::Counted => &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"],
        }
    }
}

/// One boot of a guest.
pub(super) struct Boot<'a> {
    /// Words of `isms.` on the kernel's command line.
    pub(super) words: &'a str,
    pub(super) clock: Clock,
    /// Processors of an emulated guest; by a counted clock they take turns. On hardware there are two.
    pub(super) processors: u32,
    /// How long it may say nothing on hardware; while it is emulated by a counted clock,
    /// [`EMULATED_TIME_FACTOR`] times as long.
    pub(super) silence_max: Duration,
    /// What its console is called, which two boots at a time must not share.
    pub(super) console: &'a str,
}

/// How a boot came to its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// It said nothing for too long, and was switched off.
    pub(super) fell_silent: bool,
    /// What it had said of a line that it did not end.
    pub(super) unfinished: String,
}

impl Guest {
    /// Makes sure that there are QEMU, a kernel and a shell, and packs a root with `files` (name inside, file outside)
    /// below `/suite` and the shared libraries that they need. `name` tells it from other guests.
    pub(super) fn prepare(name: &str, files: &[(String, PathBuf)], equipment: Equipment) -> Result<Guest> {
        let unpacked = install::ensure_guest()?;
        let mut system = System::new(&unpacked);
        system.add_networks()?;
        if equipment == Equipment::Images {
            system.add_images()?;
        }
        system.add_libraries(files)?;
        let kernel = find(&unpacked.join("boot"), "vmlinuz-")?;
        let root = unpacked.join(format!("{name}.cpio"));
        let mut archive = Archive::default();
        for folder in [
            "bin", "dev", "etc", "home", "new", "proc", "root", "run", "suite", "sys", "tmp", "usr",
            "usr/lib", "var", "cores",
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
        archive.add_file("bin/ldd", LDD.as_bytes(), 0o755);
        archive.add_folder("etc/alternatives");
        archive.add_file("bin/busybox", &read(&unpacked.join("bin/busybox"))?, 0o755);
        let stripped = unpacked.join(format!("{name}.stripped"));
        for (name, file) in files {
            fs::copy(file, &stripped).with_context(|| format!("cannot copy {}", file.display()))?;
            command::run(Command::new("strip").arg(&stripped))?;
            archive.add_file(&format!("suite/{name}"), &read(&stripped)?, 0o755);
        }
        system.pack(&mut archive)?;
        fs::write(&root, archive.finish()).with_context(|| format!("cannot write {}", root.display()))?;
        let mut guest = Guest {
            kernel,
            root,
            accelerated: install::has_hardware_virtualisation(),
        };
        // A machine that is itself a virtual one may have the device and yet run no guest.
        let mut greeted = false;
        if guest.accelerated {
            let hello = Boot {
                words: "isms.run=hello",
                clock: Clock::Outside,
                processors: 2,
                silence_max: HELLO_MAX,
                console: "hello",
            };
            guest.boot(&hello, |line| greeted |= line == "hello")?;
        }
        if !greeted {
            eprintln!("hardware virtualisation does not work here; the guest is emulated and slow");
            guest.accelerated = false;
        }
        Ok(guest)
    }

    /// Boots it; `each` hears every line that it says. Returns when it has ended, or was silent for too long.
    pub(super) fn boot(&self, boot: &Boot<'_>, mut each: impl FnMut(&str)) -> Result<Ending> {
        let mut qemu = Command::new("setpriv");
        // It dies with this process, however that ends.
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-m", &MEMORY_MB.to_string()]);
        if self.accelerated {
            qemu.args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off", "-smp", "2"]);
        } else {
            qemu.args(boot.clock.arguments())
                .args(["-cpu", "max", "-smp", &boot.processors.to_string()]);
        }
        qemu.arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.root)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 {}", boot.words))
            .arg("-serial")
            .arg({
                let mut console = OsString::from("file:");
                console.push(self.console(boot.console));
                console
            })
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut machine = Machine(qemu.spawn().context("cannot start qemu-system-x86_64")?);
        let mut output = machine.0.stdout.take().context("QEMU has no output")?;
        let (sender, pieces) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let silence_max = match boot.clock {
            Clock::Counted if !self.accelerated => boot.silence_max * EMULATED_TIME_FACTOR,
            _ => boot.silence_max,
        };
        let mut lines = Lines::default();
        loop {
            match pieces.recv_timeout(silence_max) {
                Ok(piece) => lines.add(&piece, &mut each),
                Err(end) => {
                    return Ok(Ending {
                        fell_silent: end == RecvTimeoutError::Timeout,
                        unfinished: text(&lines.unfinished),
                    });
                }
            }
        }
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

    /// What the guest's kernel and the platform in it wrote during the last boot with a console of that name.
    pub(super) fn console(&self, name: &str) -> PathBuf {
        self.root.with_extension(format!("{name}.log"))
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

/// Makes lines of what comes in pieces.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    fn add(&mut self, piece: &[u8], mut each: impl FnMut(&str)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(part);
            if part.ends_with(b"\n") {
                each(&text(&self.unfinished));
                self.unfinished.clear();
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut_and_the_last_one_is_kept() {
        let (mut lines, mut heard) = (Lines::default(), Vec::new());
        for piece in ["on", "e\ntwo\r\n", "", "\nthree\ntest a ... "] {
            lines.add(piece.as_bytes(), |line| heard.push(line.to_owned()));
        }
        assert_eq!(heard, ["one", "two", "", "three"]);
        assert_eq!(text(&lines.unfinished), "test a ...");
    }
}
