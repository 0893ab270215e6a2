//! A program that tries what a container must not do, and the judgement of what it reports.
//!
//! It takes the executor's place in the first image that is asked for, by the same command line: what it finds blocked is
//! blocked for workers too. It is made here, a static program of a few instructions and a table of system calls, so that
//! no image need hold anything for it. It makes each call, sends all results on its control channel and waits to be killed.

use std::{arch::global_asm, ffi::CString, path::Path};

use super::start::text;

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
const ELF_HEADER_LEN: u64 = 64;
const PROGRAM_HEADER_LEN: u64 = 56;
/// Words of a call in the table: its number and four arguments. The others are zero.
const CALL_WORDS: usize = 5;
/// Results that there is room for on the program's stack.
pub(super) const REPORT_LEN_MAX: usize = 256;

/// The machine of an ELF file.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

// The table follows the code: the number of calls, then the calls.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .rodata.isms_container_probe, \"a\"",
    ".globl isms_container_probe_start",
    ".hidden isms_container_probe_start",
    ".globl isms_container_probe_end",
    ".hidden isms_container_probe_end",
    "isms_container_probe_start:",
    "lea r12, [rip + isms_container_probe_end]",
    "mov r13, [r12]",
    "mov r15, r13",
    "add r12, 8",
    "sub rsp, {room}",
    "mov r14, rsp",
    "2:",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "syscall",
    "mov [r14], rax",
    "add r14, 8",
    "add r12, 40",
    "dec r13",
    "jnz 2b",
    "mov eax, {write}",
    "mov edi, {control}",
    "mov rsi, rsp",
    "lea rdx, [r15 * 8]",
    "syscall",
    "3:",
    "mov eax, {ppoll}",
    "xor edi, edi",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "syscall",
    "jmp 3b",
    "isms_container_probe_end:",
    ".popsection",
    write = const libc::SYS_write,
    ppoll = const libc::SYS_ppoll,
    control = const CONTROL,
    room = const REPORT_LEN_MAX,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .rodata.isms_container_probe, \"a\"",
    ".balign 4",
    ".globl isms_container_probe_start",
    ".hidden isms_container_probe_start",
    ".globl isms_container_probe_end",
    ".hidden isms_container_probe_end",
    "isms_container_probe_start:",
    "adr x19, isms_container_probe_end",
    "ldr x20, [x19], #8",
    "lsl x22, x20, #3",
    "sub sp, sp, #{room}",
    "mov x21, sp",
    "2:",
    "ldr x8, [x19]",
    "ldp x0, x1, [x19, #8]",
    "ldp x2, x3, [x19, #24]",
    "mov x4, #0",
    "mov x5, #0",
    "svc #0",
    "str x0, [x21], #8",
    "add x19, x19, #40",
    "subs x20, x20, #1",
    "b.ne 2b",
    "mov x8, #{write}",
    "mov x0, #{control}",
    "mov x1, sp",
    "mov x2, x22",
    "svc #0",
    "3:",
    "mov x8, #{ppoll}",
    "mov x0, #0",
    "mov x1, #0",
    "mov x2, #0",
    "mov x3, #0",
    "svc #0",
    "b 3b",
    "isms_container_probe_end:",
    ".popsection",
    write = const libc::SYS_write,
    ppoll = const libc::SYS_ppoll,
    control = const CONTROL,
    room = const REPORT_LEN_MAX,
);

unsafe extern "C" {
    #[link_name = "isms_container_probe_start"]
    static CODE_START: u8;
    #[link_name = "isms_container_probe_end"]
    static CODE_END: u8;
}

/// The worker's end of its control channel.
const CONTROL: i32 = 3;

/// A call, and the result that it must have.
struct Attempt {
    what: &'static str,
    number: libc::c_long,
    arguments: [Argument; 4],
    expected: Expected,
}

#[derive(Clone)]
enum Argument {
    Number(u64),
    Text(CString),
}

#[derive(Clone, Copy)]
enum Expected {
    /// Refused, with this errno.
    Refused(libc::c_int),
    /// Not refused, as a proof that the probe works at all.
    Value(u64),
}

impl Expected {
    /// As the kernel returns it.
    fn result(self) -> i64 {
        match self {
            Self::Refused(errno) => -i64::from(errno),
            Self::Value(value) => value as i64,
        }
    }
}

/// What is tried by a process with the uid `id`. `host_file` exists on the host and not in the container.
fn attempts(host_file: &Path, id: u32) -> Vec<Attempt> {
    use Argument::{Number, Text};
    let attempt = |what, number, arguments: &[Argument], expected| {
        let mut all = [const { Number(0) }; 4];
        all[..arguments.len()].clone_from_slice(arguments);
        Attempt {
            what,
            number,
            arguments: all,
            expected,
        }
    };
    let refused = Expected::Refused;
    let path = |path: &str| Text(text(path.to_owned()));
    let open = |what, name: &str, flags: libc::c_int, errno| {
        let arguments = [
            Number(libc::AT_FDCWD as u64),
            path(name),
            Number(flags as u64),
            Number(0o600),
        ];
        attempt(what, libc::SYS_openat, &arguments, refused(errno))
    };
    let spawner = u64::from(std::process::id());
    let inet = [Number(libc::AF_INET as u64), Number(libc::SOCK_STREAM as u64)];
    vec![
        attempt(
            "being the first process",
            libc::SYS_getpid,
            &[],
            Expected::Value(1),
        ),
        attempt(
            "having the worker's uid",
            libc::SYS_getuid,
            &[],
            Expected::Value(id.into()),
        ),
        open(
            "opening a file of the host",
            &host_file.to_string_lossy(),
            libc::O_RDONLY,
            libc::ENOENT,
        ),
        open(
            "opening /proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/core_pattern",
            libc::O_RDONLY,
            libc::ENOENT,
        ),
        open(
            "creating a file in the root",
            "/created",
            libc::O_CREAT | libc::O_WRONLY,
            libc::EROFS,
        ),
        attempt(
            "a signal to the spawner",
            libc::SYS_kill,
            &[Number(spawner)],
            refused(libc::ESRCH),
        ),
        attempt(
            "a descriptor beyond the limit",
            libc::SYS_dup3,
            &[Number(1), Number(4000)],
            refused(libc::EBADF),
        ),
        attempt("socket", libc::SYS_socket, &inet, refused(libc::EPERM)),
        attempt("ptrace", libc::SYS_ptrace, &[Number(0)], refused(libc::EPERM)),
        attempt(
            "mount",
            libc::SYS_mount,
            &[path("none"), path("/tmp"), path("tmpfs")],
            refused(libc::EPERM),
        ),
        attempt(
            "unshare",
            libc::SYS_unshare,
            &[Number(libc::CLONE_NEWUSER as u64)],
            refused(libc::EPERM),
        ),
        attempt("setuid", libc::SYS_setuid, &[Number(0)], refused(libc::EPERM)),
        attempt("clone3", libc::SYS_clone3, &[], refused(libc::ENOSYS)),
        attempt(
            "clearing the death signal",
            libc::SYS_prctl,
            &[Number(libc::PR_SET_PDEATHSIG as u64)],
            refused(libc::ENOSYS),
        ),
    ]
}

/// The program, to be put in the executor's place for a worker with the uid `id`.
pub(crate) fn program(host_file: &Path, id: u32) -> Vec<u8> {
    assemble(&attempts(host_file, id))
}

fn assemble(attempts: &[Attempt]) -> Vec<u8> {
    let code = code();
    let start = ELF_HEADER_LEN + PROGRAM_HEADER_LEN;
    let table = start + code.len() as u64;
    let mut texts_at = table + 8 + (attempts.len() * CALL_WORDS * 8) as u64;
    let (mut words, mut texts) = (vec![attempts.len() as u64], Vec::new());
    for attempt in attempts {
        words.push(attempt.number as u64);
        for argument in &attempt.arguments {
            words.push(match argument {
                Argument::Number(number) => *number,
                Argument::Text(text) => {
                    let address = BASE + texts_at;
                    texts.extend_from_slice(text.as_bytes_with_nul());
                    texts_at += text.as_bytes_with_nul().len() as u64;
                    address
                }
            });
        }
    }
    let mut file = headers(BASE + start, texts_at);
    file.extend_from_slice(code);
    file.extend(words.into_iter().flat_map(u64::to_le_bytes));
    file.extend_from_slice(&texts);
    file
}

/// Headers of a static program that is loaded as a whole.
fn headers(entry: u64, len: u64) -> Vec<u8> {
    const EXECUTABLE: u16 = 2;
    const LOAD: u32 = 1;
    const READ_AND_EXECUTE: u32 = 5;
    const ALIGNMENT: u64 = 0x1_0000;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [EXECUTABLE, MACHINE] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes());
    for word in [entry, ELF_HEADER_LEN, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [ELF_HEADER_LEN as u16, PROGRAM_HEADER_LEN as u16, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for half in [LOAD, READ_AND_EXECUTE] {
        bytes.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, len, len, ALIGNMENT] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn code() -> &'static [u8] {
    // SAFETY: both symbols are of the same section, assembled above, with the code between them.
    unsafe {
        let (start, end) = (&raw const CODE_START, &raw const CODE_END);
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

/// Whether everything was blocked that must be, by the probe's report; else what was not.
pub(crate) fn judge(report: &[u8], host_file: &Path, id: u32) -> Result<(), String> {
    compare(report, &attempts(host_file, id))
}

fn compare(report: &[u8], attempts: &[Attempt]) -> Result<(), String> {
    if report.len() != attempts.len() * 8 {
        return Err("the probe did not report".to_owned());
    }
    let results = report
        .chunks_exact(8)
        .filter_map(|bytes| bytes.try_into().ok())
        .map(i64::from_le_bytes);
    for (attempt, result) in attempts.iter().zip(results) {
        let expected = attempt.expected.result();
        if result != expected {
            return Err(format!("{} gave {result} and not {expected}", attempt.what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_results_fit_the_probe_s_stack() {
        assert!(attempts(Path::new("/x"), 1).len() * 8 <= REPORT_LEN_MAX);
    }

    #[test]
    fn a_report_that_is_short_or_shows_one_hole_is_no_proof() {
        let (file, id) = (Path::new("/x"), 70_000);
        let good: Vec<i64> = attempts(file, id)
            .iter()
            .map(|attempt| attempt.expected.result())
            .collect();
        let bytes = |results: &[i64]| {
            results
                .iter()
                .flat_map(|result| result.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        assert_eq!(judge(&bytes(&good), file, id), Ok(()));
        assert!(judge(&[], file, id).is_err());
        assert!(judge(&bytes(&good[1..]), file, id).is_err());
        for hole in 0..good.len() {
            let mut results = good.clone();
            results[hole] = 3;
            let error = judge(&bytes(&results), file, id).unwrap_err();
            assert!(error.contains(" gave 3 and not "), "{error}");
        }
    }

    #[test]
    fn the_program_makes_its_calls_and_reports_their_results() {
        // Only what harms nobody: this runs without walls.
        let open = |name: &str| Attempt {
            what: "opening",
            number: libc::SYS_openat,
            arguments: [
                Argument::Number(libc::AT_FDCWD as u64),
                Argument::Text(text(name.to_owned())),
                Argument::Number(0),
                Argument::Number(0),
            ],
            expected: Expected::Refused(libc::ENOENT),
        };
        let attempts = [open("/does/not/exist"), open("/dev/null/x"), open("/")];
        let path = std::env::temp_dir().join(format!("isms-container-probe-{}", std::process::id()));
        // By another process, because a descriptor open for writing here could be inherited by a child that another
        // thread starts, and what somebody may write cannot be executed.
        let mut copy = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        copy.stdin
            .take()
            .unwrap()
            .write_all(&assemble(&attempts))
            .unwrap();
        assert!(copy.wait().unwrap().success());
        let mut probe = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" 3>&1"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut report = [0; 24];
        let read = probe.stdout.take().unwrap().read_exact(&mut report);
        probe.kill().unwrap();
        probe.wait().unwrap();
        fs::remove_file(&path).unwrap();
        read.unwrap();
        let error = compare(&report, &attempts).unwrap_err();
        assert_eq!(
            error,
            format!("opening gave {} and not {}", -libc::ENOTDIR, -libc::ENOENT)
        );
        assert_eq!(compare(&report[..8], &attempts[..1]), Ok(()));
        assert!(i64::from_le_bytes(report[16..].try_into().unwrap()) >= 0);
    }
}
