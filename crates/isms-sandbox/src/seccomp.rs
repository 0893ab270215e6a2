//! System call filters: policy files (names, conditions, reasons) → a BPF program shaped as a search tree.
//!
//! A linear program compares a call's number with every entry and is slow to load and to run; this one
//! halves the range of numbers at each step. The kernel's own cache then spares most calls even that.
#![allow(unsafe_code)] // one call, to load a filter

mod compile;
#[cfg(test)]
mod interpret;
mod oci;
mod policy;
mod table;

use std::{collections::BTreeMap, io};

pub(crate) use compile::{Instruction, compile};
pub(crate) use policy::{PolicyError, builder, device_worker, network_builder, worker};

use crate::linux::check_long;

/// Architectures that filters can be made for. Tests make them for all, a build uses the one that it is for.
#[cfg_attr(not(test), allow(dead_code, reason = "one of them is not the host's"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// The process is killed.
    Kill,
    /// It runs when every test of at least one alternative holds, else it fails with the errno.
    AllowIf {
        alternatives: Vec<Vec<Test>>,
        otherwise: u16,
    },
}

/// A test of one argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// The lower half of argument `arg` is one of these. For arguments that the kernel takes as 32 bits.
    OneOf { arg: u8, values: Vec<u32> },
    /// The lower half of argument `arg` has no bit of `mask`.
    Without { arg: u8, mask: u32 },
    /// All 64 bits of argument `arg` are zero: a null pointer.
    Null { arg: u8 },
}

/// Which call has which verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) arch: Arch,
    /// By number.
    pub(crate) calls: BTreeMap<u32, Verdict>,
    /// For numbers that are not in `calls` and below `beyond`.
    pub(crate) default: Verdict,
    /// First number of calls that did not exist when the policy was written.
    pub(crate) beyond: u32,
    /// For those.
    pub(crate) unknown: Verdict,
}

impl Arch {
    #[cfg(target_arch = "x86_64")]
    pub(crate) const HOST: Self = Self::X86_64;
    #[cfg(target_arch = "aarch64")]
    pub(crate) const HOST: Self = Self::Aarch64;

    /// Its name in a filter's data.
    fn audit_value(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// A policy's filter for a container runtime to load.
pub(crate) fn oci_profile(policy: fn(Arch) -> Result<Filter, PolicyError>) -> Result<String, PolicyError> {
    policy(Arch::HOST).map(|filter| oci::profile(&filter))
}

/// The second filter, for an executor that has started: all that its first filter allows, less what only
/// start-up needs.
pub(crate) fn start_up_over() -> Vec<Instruction> {
    const KEPT_PRCTL: [u32; 3] = [libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, 0x5356_4d41]; // PR_SET_VMA
    let refused = [libc::SYS_execve, libc::SYS_execveat, libc::SYS_seccomp].map(|number| number as u32);
    let mut calls: BTreeMap<u32, Verdict> = refused
        .into_iter()
        .map(|number| (number, Verdict::Errno(libc::EPERM as u16)))
        .collect();
    let kept = Test::OneOf {
        arg: 0,
        values: KEPT_PRCTL.to_vec(),
    };
    calls.insert(
        libc::SYS_prctl as u32,
        Verdict::AllowIf {
            alternatives: vec![vec![kept]],
            otherwise: libc::EPERM as u16,
        },
    );
    compile(&Filter {
        arch: Arch::HOST,
        calls,
        default: Verdict::Allow,
        beyond: u32::MAX,
        unknown: Verdict::Allow,
    })
}

/// Puts a filter on every thread of this process, for good. Needs no_new_privs.
pub(crate) fn load(program: &[Instruction]) -> io::Result<()> {
    const SECCOMP_FILTER_FLAG_TSYNC: libc::c_ulong = 1;
    let raw = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `raw` describes `program`, which outlives the call; Instruction is laid out as sock_filter;
    // the kernel only reads and validates it.
    let result = check_long(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            SECCOMP_FILTER_FLAG_TSYNC,
            &raw const raw,
        )
    })?;
    // A positive result names a thread that could not be brought along.
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}
