//! What the supervisor arranges in a new process between fork and exec.
#![allow(unsafe_code)] // `pre_exec`: the closure makes only async-signal-safe calls

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use super::{check, descriptor, process, schedule};

/// First number of a descriptor given to a child.
pub const FIRST_DESCRIPTOR: RawFd = 3;

/// How a child is to start.
#[derive(Debug, Default)]
pub struct Launch {
    /// Descriptors that it inherits as 3, 4, …; all others are closed at exec.
    pub descriptors: Vec<OwnedFd>,
    /// SIGKILL when the parent's thread dies.
    pub die_with_parent: bool,
    /// A session of its own, so that the terminal's Ctrl-C does not reach it.
    pub new_session: bool,
    /// It is on the way of messages: it should run soon after it wakes, beside processes that are busy.
    pub is_prompt: bool,
}

/// Arranges that `command` starts as `launch` says. The descriptors stay open in the parent until `command`
/// is dropped.
pub fn arrange(command: &mut Command, launch: Launch) -> io::Result<()> {
    let parent = std::process::id();
    let highest = FIRST_DESCRIPTOR + launch.descriptors.len() as RawFd;
    let Launch {
        descriptors,
        die_with_parent,
        new_session,
        is_prompt,
    } = launch;
    // Above their destinations, so that laying one out never overwrites another.
    let descriptors: Vec<OwnedFd> = descriptors
        .into_iter()
        .map(|fd| descriptor::move_above(fd, highest))
        .collect::<io::Result<_>>()?;
    let hook = move || {
        if new_session {
            // SAFETY: no arguments.
            check(unsafe { libc::setsid() })?;
        }
        if is_prompt {
            // Late is better than not at all.
            let _ = schedule::be_prompt();
        }
        if die_with_parent {
            process::die_with_parent(parent)?;
        }
        process::close_on_exec_from(FIRST_DESCRIPTOR)?;
        for (index, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: the source is open; the destination holds nothing that outlives exec.
            check(unsafe { libc::dup2(descriptor.as_raw_fd(), FIRST_DESCRIPTOR + index as RawFd) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the hook makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(hook) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, process::Stdio};

    use super::*;

    #[test]
    fn a_child_inherits_what_it_is_given_in_order_and_nothing_else() {
        let (reader, writer) = descriptor::pipe().unwrap();
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let script = "for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo -n $n >&4; done; true";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        let launch = Launch {
            descriptors: vec![null, writer],
            new_session: true,
            ..Launch::default()
        };
        arrange(&mut command, launch).unwrap();
        let status = command.status().unwrap();
        // With the command its copy of the pipe's end goes.
        drop(command);
        let mut open = String::new();
        File::from(reader).read_to_string(&mut open).unwrap();
        assert_eq!((open.as_str(), status.success()), ("01234", true));
    }
}
