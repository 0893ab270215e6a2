//! How soon a process gets a processor that others want as well.
#![allow(unsafe_code)] // sched_setattr and setpriority

use std::io;

use super::{check, check_long};

/// Processor time after which others get their turn. Shorter than the kernel's own 1.4 ms or more, so that it lets who
/// wakes with it preempt whom it would protect until his slice is over; not so short that a busy process is torn from
/// its work.
const PROMPT_SLICE_NS: u64 = 500_000;
/// Three times the weight of an ordinary process.
const PROMPT_NICE: libc::c_int = -5;

/// From `linux/sched/types.h`, as of the kernel's first version of it.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of an ordinary process: its slice, since Linux 6.12; before, nothing.
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Lets this process, and what it starts, run soon after it wakes. Every message passes several processes, each of
/// which works for microseconds and then waits: as each is one of many to the kernel, a busy worker would otherwise
/// get as much of a processor as all of them. Without the privilege, or where an administrator has given it a nice
/// value, it has the shorter slices alone.
///
/// Makes system calls only, so it may be called between fork and exec. Call it in a session of its own, which the
/// kernel weighs as a whole.
pub(super) fn be_prompt() -> io::Result<()> {
    // SAFETY: plain numbers; 0 is this process. The second call is refused to an ordinary user.
    let nice = unsafe {
        let given = libc::getpriority(libc::PRIO_PROCESS, 0);
        if given == 0 && libc::setpriority(libc::PRIO_PROCESS, 0, PROMPT_NICE) == 0 {
            prefer_session();
            PROMPT_NICE
        } else {
            given
        }
    };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: PROMPT_SLICE_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: reads `attributes`, which say how long they are; 0 is this process, and there are no flags.
    check_long(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Where the kernel groups processes by session, their nice values count within the session only.
fn prefer_session() {
    let value = c"-5";
    // SAFETY: opens, writes and closes by C strings; a kernel without such groups has no such file.
    unsafe {
        let Ok(file) = check(libc::open(
            c"/proc/self/autogroup".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        )) else {
            return;
        };
        libc::write(file, value.as_ptr().cast(), value.count_bytes());
        libc::close(file);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::linux::launch::{Launch, arrange};

    /// What the kernel says of a child that prints its own nice value and that of its session.
    fn nice_of_child(is_prompt: bool) -> Vec<String> {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "cut -d ' ' -f 19 /proc/self/stat; cat /proc/self/autogroup 2>/dev/null; true",
        ]);
        let launch = Launch {
            new_session: true,
            is_prompt,
            ..Launch::default()
        };
        arrange(&mut command, launch).unwrap();
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let values = output.lines().filter_map(|line| line.split(' ').next_back());
        let values: Vec<String> = values.map(str::to_owned).collect();
        assert!(!values.is_empty(), "the child said nothing");
        values
    }

    #[test]
    fn who_is_on_the_way_of_messages_is_preferred_and_nobody_else() {
        // SAFETY: plain numbers.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        if crate::linux::process::effective_uid() != 0 || own != 0 {
            eprintln!("SKIPPED: needs root's privilege to raise a priority, and a usual one to begin with");
            return;
        }
        assert!(nice_of_child(true).iter().all(|nice| nice == "-5"));
        assert!(nice_of_child(false).iter().all(|nice| nice == "0"));
    }
}
