//! One run of the compiler, with fixed flags, bounded in time and words.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use isms_protocol::doer::Language;
use isms_protocol::limits::ARTIFACT_LEN_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Places;
use crate::limits::BUILD_LOG_LEN_MAX;

/// For every language. A function that returns nothing where it should is an error: it would crash.
const COMPILE: &[&str] = &[
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
    "-fstack-protector-strong",
    "-Wall",
    "-Wextra",
    "-Werror=return-type",
    "-fdiagnostics-color=never",
    // Objects for link-time optimisation, which assembler in a source can make up, carry options of their own,
    // and with them name files for the assembler to write: the linker refuses them.
    "-fno-lto",
    "-fno-use-linker-plugin",
];

/// A Doee needs nothing that is not there, and exports the ABI's function: both are found here, not
/// when a worker starts. The C++ library is linked in (about 0.5 MB), so that a worker's root needs none
/// and a newer one on the host changes nothing.
const LINK: &[&str] = &[
    "-static-libgcc",
    "-Wl,-z,defs",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,--gc-sections",
    "-Wl,--exclude-libs,ALL",
    "-Wl,--require-defined=isms_doee_v1",
    "-lm",
];

/// What a compiler driver says when the sandbox ended one of its passes, or refused it room. It may ask for a
/// report of a bug as well, which is none.
const OVER_LIMIT: &[&str] = &[
    "Killed signal terminated",
    "File size limit exceeded",
    "No space left on device",
    "out of memory",
    "memory exhausted",
];

/// How a run ended.
pub(super) struct Outcome {
    /// The shared object, when it was built.
    pub(super) artifact: Option<Bytes>,
    /// What the compiler said.
    pub(super) log: String,
}

/// Compiles the files in `folder` below `top` to one shared object.
pub(super) fn compile(
    language: Language,
    top: &Path,
    folder: &Path,
    names: &[PathBuf],
    places: &Places,
) -> io::Result<Outcome> {
    let artifact = places.work.join("doee.so");
    let mut command = command(language, top, folder, names, places, &artifact);
    let (output, writer) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    // The command holds the pipe's other end.
    drop(command);
    let deadline = Instant::now() + places.timeout;
    let mut log = Log::default();
    let in_time = read_until(&output, deadline, &mut log)?;
    if !in_time {
        kill(&child);
    }
    let status = child.wait()?;
    let mut log = log.text(top);
    if !in_time {
        log.push_str(&format!(
            "the build took longer than {} s and was stopped\n",
            places.timeout.as_secs()
        ));
        return Ok(Outcome { artifact: None, log });
    }
    if !status.success() {
        if log.is_empty() {
            log = format!("the compiler ended with {status}\n");
        }
        if OVER_LIMIT.iter().any(|words| log.contains(words)) {
            log.push_str("the build needed more memory, or larger files, than a build may have\n");
        }
        return Ok(Outcome { artifact: None, log });
    }
    let built = read_artifact(&artifact)?;
    if built.is_none() {
        log.push_str(&format!(
            "the shared object is larger than {} MiB\n",
            ARTIFACT_LEN_MAX >> 20
        ));
    }
    Ok(Outcome { artifact: built, log })
}

fn command(
    language: Language,
    top: &Path,
    folder: &Path,
    names: &[PathBuf],
    places: &Places,
    artifact: &Path,
) -> Command {
    let (compiler, standard) = match language {
        Language::C => ("gcc", "-std=c17"),
        Language::Cpp => ("g++", "-std=c++20"),
    };
    // Where the files lie must not show in the binary: the same sources are the same build.
    let map = |path: &Path| {
        let mut map = std::ffi::OsString::from("-ffile-prefix-map=");
        map.push(path);
        map.push("/=");
        map
    };
    let is_top = folder.as_os_str().is_empty();
    let tree = if is_top { top.to_owned() } else { top.join(folder) };
    let mut command = Command::new(places.compilers.join(compiler));
    command
        .current_dir(top)
        .env_clear()
        .env("PATH", &places.compilers)
        .env("LC_ALL", "C")
        .env("TMPDIR", &places.work)
        .process_group(0)
        .arg(standard)
        .args(COMPILE)
        .arg(map(&tree))
        .args((!is_top).then(|| map(folder)))
        .arg("-I")
        .arg(&places.sdk_include)
        .arg("-I")
        .arg(&tree)
        .arg("-o")
        .arg(artifact)
        // Checked names: none starts with - or @.
        .args(names.iter().map(|name| folder.join(name)))
        .args(LINK);
    if language == Language::Cpp {
        command.arg("-static-libstdc++");
    }
    command
}

/// Kills the compiler and its passes.
fn kill(child: &Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // It fails when all have ended by themselves, which is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Reads the compiler's words until it has closed its output; false when the deadline comes first.
fn read_until(mut output: &io::PipeReader, deadline: Instant, log: &mut Log) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut source = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
        match poll(&mut source, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match output.read(&mut buffer)? {
            0 => return Ok(true),
            len => log.push(&buffer[..len]),
        }
    }
}

fn read_artifact(path: &Path) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(ARTIFACT_LEN_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= ARTIFACT_LEN_MAX).then(|| bytes.into()))
}

/// The first words of the compiler.
#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    cut: bool,
}

impl Log {
    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(BUILD_LOG_LEN_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.cut |= kept < bytes.len();
    }

    /// With file names relative to the tree's top.
    fn text(self, top: &Path) -> String {
        let prefix = format!("{}/", top.display());
        let mut text = String::from_utf8_lossy(&self.bytes).replace(&prefix, "");
        if self.cut {
            text.push_str("\n… and more, which is cut here\n");
        }
        text
    }
}
