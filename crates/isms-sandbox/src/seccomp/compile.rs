//! A [`Filter`] → a BPF program: a binary search over ranges of call numbers with the same verdict.

use super::{Arch, Filter, Test, Verdict};

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) k: u32,
}

// Opcodes: class | size or operation | operand.
pub(super) const LOAD: u16 = 0x20; // A = word at offset k of the data
pub(super) const JUMP: u16 = 0x05; // skip k instructions
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const JUMP_ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

// Results.
pub(super) const RETURN_ALLOW: u32 = 0x7fff_0000;
pub(super) const RETURN_ERRNO: u32 = 0x0005_0000;
pub(super) const RETURN_KILL: u32 = 0x8000_0000;

/// Numbers with this bit belong to x32, the other ABI behind the same architecture value.
const X32_BIT: u32 = 0x4000_0000;

/// Compiles a filter. Calls of a foreign architecture, and of x32, kill the process.
pub(crate) fn compile(filter: &Filter) -> Vec<Instruction> {
    let ranges = ranges(filter);
    let mut program = vec![
        load(ARCH),
        Instruction {
            code: JUMP_EQUAL,
            jump_true: 1,
            jump_false: 0,
            k: filter.arch.audit_value(),
        },
        give(RETURN_KILL),
        load(NUMBER),
    ];
    program.extend(tree(&ranges));
    program
}

/// All numbers, as (first of the range, verdict), in order, neighbours merged.
fn ranges(filter: &Filter) -> Vec<(u32, &Verdict)> {
    let mut starts: Vec<(u32, &Verdict)> = Vec::new();
    let mut next = 0;
    for (&number, verdict) in filter.calls.range(..filter.beyond) {
        if number > next {
            starts.push((next, &filter.default));
        }
        starts.push((number, verdict));
        next = number + 1;
    }
    if next < filter.beyond {
        starts.push((next, &filter.default));
    }
    starts.push((filter.beyond, &filter.unknown));
    if filter.arch == Arch::X86_64 {
        starts.retain(|&(first, _)| first < X32_BIT);
        starts.push((X32_BIT, &Verdict::Kill));
    }
    starts.dedup_by(|later, earlier| later.1 == earlier.1);
    starts
}

/// Code that decides between ranges; the number is in A.
fn tree(ranges: &[(u32, &Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (pivot, low, high) = (high[0].0, tree(low), tree(high));
    let mut code = match u8::try_from(low.len()) {
        Ok(skip) => vec![Instruction {
            code: JUMP_AT_LEAST,
            jump_true: skip,
            jump_false: 0,
            k: pivot,
        }],
        // Too far for a conditional jump: jump over an unconditional one.
        Err(_) => vec![
            Instruction {
                code: JUMP_AT_LEAST,
                jump_true: 0,
                jump_false: 1,
                k: pivot,
            },
            Instruction {
                code: JUMP,
                jump_true: 0,
                jump_false: 0,
                k: low.len() as u32,
            },
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Allow => vec![give(RETURN_ALLOW)],
        Verdict::Errno(errno) => vec![give(RETURN_ERRNO | u32::from(*errno))],
        Verdict::Kill => vec![give(RETURN_KILL)],
        Verdict::AllowIf {
            alternatives,
            otherwise,
        } => {
            let mut code: Vec<Instruction> =
                alternatives.iter().flat_map(|tests| alternative(tests)).collect();
            code.push(give(RETURN_ERRNO | u32::from(*otherwise)));
            code
        }
    }
}

/// Code that allows when all tests hold, and else falls through its end.
fn alternative(tests: &[Test]) -> Vec<Instruction> {
    let mut code = vec![give(RETURN_ALLOW)];
    // From the last test to the first: each is put before what follows when it holds.
    for test in tests.iter().rev() {
        let mut with_test = check(test, code.len() as u8);
        with_test.extend(code);
        code = with_test;
    }
    code
}

/// Code that goes on when the test holds, and else skips the `rest` instructions after it.
/// [`policy`](super::policy) bounds the number of values, so that all jumps fit.
fn check(test: &Test, rest: u8) -> Vec<Instruction> {
    match test {
        Test::OneOf { arg, values } => {
            let count = values.len() as u8;
            let mut code = vec![load(low_half(*arg))];
            code.extend(values.iter().zip(1..).map(|(&value, position)| {
                let jump_false = if position == count { rest } else { 0 };
                Instruction {
                    code: JUMP_EQUAL,
                    jump_true: count - position,
                    jump_false,
                    k: value,
                }
            }));
            code
        }
        Test::Without { arg, mask } => {
            vec![
                load(low_half(*arg)),
                Instruction {
                    code: JUMP_ANY_BIT,
                    jump_true: rest,
                    jump_false: 0,
                    k: *mask,
                },
            ]
        }
        Test::Null { arg } => vec![
            load(low_half(*arg)),
            Instruction {
                code: JUMP_EQUAL,
                jump_true: 0,
                jump_false: rest + 2,
                k: 0,
            },
            load(low_half(*arg) + 4),
            Instruction {
                code: JUMP_EQUAL,
                jump_true: 0,
                jump_false: rest,
                k: 0,
            },
        ],
    }
}

fn low_half(arg: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(arg)
}

fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jump_true: 0,
        jump_false: 0,
        k: offset,
    }
}

fn give(result: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jump_true: 0,
        jump_false: 0,
        k: result,
    }
}
