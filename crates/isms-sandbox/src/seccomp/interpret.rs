//! Runs a BPF program as the kernel does, and checks compiled filters against a naive reading of the policy.

use super::{
    Arch, Filter, Instruction, Test, Verdict, builder, compile,
    compile::{
        JUMP, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, RETURN, RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL,
    },
    device_worker, network_builder, start_up_over, worker,
};

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..=60 => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Result of the program, and how many instructions it took.
fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut position, mut steps) = (0, 0, 0);
    loop {
        let Instruction {
            code,
            jump_true,
            jump_false,
            k,
        } = program[position];
        position += 1;
        steps += 1;
        let branch = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
        match code {
            LOAD => accumulator = call.word(k),
            RETURN => return (k, steps),
            JUMP => position += k as usize,
            JUMP_EQUAL => position += branch(accumulator == k),
            JUMP_AT_LEAST => position += branch(accumulator >= k),
            JUMP_ANY_BIT => position += branch(accumulator & k != 0),
            _ => panic!("opcode {code:#x}"),
        }
    }
}

/// What the policy says, read entry by entry.
fn naive(filter: &Filter, call: &Call) -> u32 {
    if call.arch != filter.arch.audit_value() || (filter.arch == Arch::X86_64 && call.number >= 0x4000_0000) {
        return RETURN_KILL;
    }
    let verdict = if call.number >= filter.beyond {
        &filter.unknown
    } else {
        filter.calls.get(&call.number).unwrap_or(&filter.default)
    };
    match verdict {
        Verdict::Allow => RETURN_ALLOW,
        Verdict::Errno(errno) => RETURN_ERRNO | u32::from(*errno),
        Verdict::Kill => RETURN_KILL,
        Verdict::AllowIf {
            alternatives,
            otherwise,
        } => {
            let allowed = alternatives
                .iter()
                .any(|tests| tests.iter().all(|test| holds(test, call)));
            if allowed {
                RETURN_ALLOW
            } else {
                RETURN_ERRNO | u32::from(*otherwise)
            }
        }
    }
}

fn holds(test: &Test, call: &Call) -> bool {
    match test {
        Test::OneOf { arg, values } => values.contains(&(call.arguments[usize::from(*arg)] as u32)),
        Test::Without { arg, mask } => call.arguments[usize::from(*arg)] as u32 & mask == 0,
        Test::Null { arg } => call.arguments[usize::from(*arg)] == 0,
    }
}

/// Argument lists that can tell the tests of a call apart: every combination of values at, beside and beyond those that
/// its tests name, for the arguments that they look at.
fn interesting(verdict: &Verdict) -> Vec<[u64; 6]> {
    let Verdict::AllowIf { alternatives, .. } = verdict else {
        return vec![[0; 6], [u64::MAX; 6]];
    };
    let mut values = [const { Vec::new() }; 6];
    for test in alternatives.iter().flatten() {
        let (arg, more) = match test {
            Test::OneOf { arg, values } => {
                let around = |&value: &u32| {
                    let value = u64::from(value);
                    [value, value + 1, value | 1 << 40]
                };
                (arg, values.iter().flat_map(around).collect())
            }
            Test::Without { arg, mask } => {
                let bits = (0..32).map(|bit| 1 << bit).filter(|bit| mask & bit != 0);
                let bits = bits.map(u64::from);
                (
                    arg,
                    bits.chain([u64::from(*mask), u64::from(!*mask)])
                        .collect::<Vec<u64>>(),
                )
            }
            Test::Null { arg } => (arg, vec![1 << 63, 1 << 31]),
        };
        values[usize::from(*arg)].extend(more);
    }
    let mut lists = vec![[0; 6]];
    for (arg, mut values) in values
        .into_iter()
        .enumerate()
        .filter(|(_, values)| !values.is_empty())
    {
        values.extend([0, 1, u64::MAX, 1 << 32]);
        values.sort_unstable();
        values.dedup();
        let with = |list: &[u64; 6], value: u64| {
            let mut list = *list;
            list[arg] = value;
            list
        };
        lists = lists
            .iter()
            .flat_map(|list| values.iter().map(move |&value| with(list, value)))
            .collect();
    }
    lists
}

/// Beyond every number of every architecture.
const NUMBERS: u32 = 1024;

fn check(filter: &Filter) {
    assert!(filter.calls.keys().all(|number| *number < NUMBERS));
    let program = compile(filter);
    let own = filter.arch.audit_value();
    let numbers = (0..=NUMBERS).chain([0x3fff_ffff, 0x4000_0000, 0x4000_003b, 0x8000_0000, u32::MAX]);
    for number in numbers {
        let verdict = filter.calls.get(&number).unwrap_or(&filter.default);
        for arguments in interesting(verdict) {
            let call = Call {
                arch: own,
                number,
                arguments,
            };
            assert_eq!(run(&program, &call).0, naive(filter, &call), "{call:x?}");
        }
        let foreign = Call {
            arch: 0x4000_0003,
            number,
            arguments: [0; 6],
        };
        assert_eq!(run(&program, &foreign).0, RETURN_KILL, "{foreign:x?}");
    }
}

#[test]
fn the_tree_decides_as_the_policies_say_for_every_number_on_every_architecture() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        assert!(super::table::beyond(arch) < NUMBERS);
        for policy in [worker, device_worker, builder, network_builder] {
            check(&policy(arch).unwrap());
        }
    }
}

#[test]
fn a_worker_with_a_device_may_set_up_a_line_and_never_type_on_it() {
    let ioctl = |filter: &Filter, request: libc::Ioctl| {
        let call = Call {
            arch: Arch::HOST.audit_value(),
            number: libc::SYS_ioctl as u32,
            arguments: [0, request, 0, 0, 0, 0],
        };
        run(&compile(filter), &call).0 == RETURN_ALLOW
    };
    let (with, without) = (device_worker(Arch::HOST).unwrap(), worker(Arch::HOST).unwrap());
    for request in [
        libc::TCGETS,
        libc::TCSETS,
        libc::TCFLSH,
        libc::TIOCMGET,
        libc::TCSBRK,
    ] {
        assert!(ioctl(&with, request) && !ioctl(&without, request), "{request:#x}");
    }
    for request in [
        libc::TIOCSTI,
        libc::TIOCLINUX,
        libc::TIOCCONS,
        libc::TIOCSCTTY,
        0x5423,
        0x541f,
    ] {
        assert!(!ioctl(&with, request), "{request:#x}");
    }
    assert!(ioctl(&with, libc::FIONREAD) && ioctl(&without, libc::FIONREAD));
}

#[test]
fn a_builder_with_network_asks_and_is_never_asked() {
    let allows = |filter: &Filter, number: libc::c_long, arguments: [u64; 6]| {
        let call = Call {
            arch: Arch::HOST.audit_value(),
            number: number as u32,
            arguments,
        };
        run(&compile(filter), &call).0 == RETURN_ALLOW
    };
    let (with, without) = (network_builder(Arch::HOST).unwrap(), builder(Arch::HOST).unwrap());
    let cloexec = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64;
    let stream = [libc::AF_INET as u64, cloexec, 0, 0, 0, 0];
    assert!(allows(&with, libc::SYS_socket, stream) && !allows(&without, libc::SYS_socket, stream));
    assert!(allows(&with, libc::SYS_connect, [0; 6]) && !allows(&without, libc::SYS_connect, [0; 6]));
    for family in [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
        let socket = [family as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
        assert!(!allows(&with, libc::SYS_socket, socket), "family {family}");
    }
    let raw = [libc::AF_INET as u64, libc::SOCK_RAW as u64, 1, 0, 0, 0];
    assert!(!allows(&with, libc::SYS_socket, raw));
    for number in [
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_ptrace,
        libc::SYS_mount,
    ] {
        assert!(!allows(&with, number, [0; 6]), "{number}");
    }
}

#[test]
fn a_tree_too_long_for_short_jumps_still_decides_right() {
    let calls = (0..1024)
        .map(|number| (number, Verdict::Errno(number as u16 % 7 + 1)))
        .collect();
    let unknown = Verdict::Errno(38);
    check(&Filter {
        arch: Arch::X86_64,
        calls,
        default: Verdict::Allow,
        beyond: 1000,
        unknown,
    });
}

#[test]
fn a_worker_s_filter_decides_within_a_dozen_comparisons() {
    let program = compile(&worker(Arch::X86_64).unwrap());
    let steps = |number| {
        run(
            &program,
            &Call {
                arch: Arch::X86_64.audit_value(),
                number,
                arguments: [0; 6],
            },
        )
        .1
    };
    let most = (0..512)
        .filter(|number| !matches!(number, 16 | 54 | 56 | 157 | 158 | 302 | 317))
        .map(steps)
        .max();
    assert!(most <= Some(3 + 1 + 9), "{most:?} steps");
}

#[test]
fn a_worker_may_not_reach_out_create_processes_or_clear_its_death_signal() {
    let filter = worker(Arch::HOST).unwrap();
    let refuse = |name: &str, arguments| {
        let Some(number) = super::table::number(Arch::HOST, name).unwrap() else {
            return;
        };
        let call = Call {
            arch: Arch::HOST.audit_value(),
            number,
            arguments,
        };
        let errno = if name == "clone3" {
            libc::ENOSYS
        } else {
            libc::EPERM
        };
        assert_eq!(
            run(&compile(&filter), &call).0,
            RETURN_ERRNO | errno as u32,
            "{name}"
        );
    };
    for name in [
        "socket",
        "socketpair",
        "bind",
        "listen",
        "connect",
        "accept",
        "accept4",
        "ptrace",
        "io_uring_setup",
        "bpf",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "mount",
        "umount2",
        "unshare",
        "setns",
        "clone3",
        "fork",
        "vfork",
        "pivot_root",
        "chroot",
        "perf_event_open",
        "process_vm_readv",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "name_to_handle_at",
        "setuid",
        "setresuid",
        "capset",
        "mknod",
        "mknodat",
        "personality",
        "memfd_create",
        "execveat",
        "landlock_create_ruleset",
        "setrlimit",
        "fsopen",
        "move_mount",
        "open_tree",
    ] {
        refuse(name, [0; 6]);
    }
    refuse("clone", [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]);
    refuse("clone", [0x3d_0f00 | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]);
    refuse("prctl", [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0]);
    refuse("prctl", [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]);
    refuse("prlimit64", [0, 7, 0x1000, 0, 0, 0]);
}

#[test]
fn the_second_filter_removes_execve_and_little_else() {
    let program = start_up_over();
    let result = |number: libc::c_long, arguments| {
        run(
            &program,
            &Call {
                arch: Arch::HOST.audit_value(),
                number: number as u32,
                arguments,
            },
        )
        .0
    };
    let refused = RETURN_ERRNO | libc::EPERM as u32;
    assert_eq!(result(libc::SYS_execve, [0; 6]), refused);
    assert_eq!(result(libc::SYS_execveat, [0; 6]), refused);
    assert_eq!(result(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]), refused);
    assert_eq!(
        result(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0]),
        refused
    );
    assert_eq!(
        result(libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0]),
        RETURN_ALLOW
    );
    assert_eq!(result(libc::SYS_read, [0; 6]), RETURN_ALLOW);
}
