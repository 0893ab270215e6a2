//! The life of a worker: locked down → empty → assigned → initialized → calls → terminated.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use isms_ipc::ConnectionError;
use isms_protocol::doer::Operation;
use isms_protocol::worker::Report;
use isms_protocol::{ErrorCode, Service};
use isms_sandbox::linux::lockdown;
use rustix::event::{PollFd, PollFlags, poll};

use crate::call::Received;
use crate::control::{ControlChannel, Order, Page};
use crate::doee::{self, Doee};
use crate::exit::{give_up, tell_aborts};
use crate::host;
use crate::limits::FAILURE_LEN_MAX;
use crate::link::Link;
use crate::params::Params;
use crate::session::Session;

/// Why the executor could not do its work. What concerns the Doee has been reported as well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process could not be locked down.
    #[error("cannot forbid this process to execute programs")]
    Lockdown {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No handshake on the data channel.
    #[error("cannot open the data channel")]
    Data {
        /// What went wrong.
        #[source]
        source: ConnectionError,
    },
    /// The Doee could not be started; the Doer knows.
    #[error("cannot start the Doee: {message}")]
    Start {
        /// Why.
        message: String,
    },
}

/// Runs a worker over its two inherited channels until the Doer drains it. The calling thread becomes
/// the Doee's, and nothing of the Doee is touched before the lockdown holds.
pub fn run(control: OwnedFd, data: OwnedFd) -> Result<(), RunError> {
    lockdown::forbid_exec().map_err(|source| RunError::Lockdown { source })?;
    tell_aborts();
    let control = ControlChannel::new(control);
    control.report(&Report::Empty {
        abi: isms_doee_sys::ABI,
    });
    let (order, link) = wait_for_assignment(&control, data)?;
    let Order::Assign(assignment, binary, page) = order else {
        // Drained while empty: there is nothing to terminate.
        control.report(&Report::Terminated);
        return Ok(());
    };
    host::install(Session::new(link), Params::new(assignment.params));
    let doee = match doee::start(binary) {
        Ok(doee) => doee,
        Err(error) => {
            let mut message = error.message;
            message.truncate(message.floor_char_boundary(FAILURE_LEN_MAX));
            control.report(&Report::Failed {
                stage: error.stage,
                message: message.clone(),
            });
            return Err(RunError::Start { message });
        }
    };
    control.report(&Report::Initialized);
    serve(&control, &doee, &page);
    doee.terminate();
    control.report(&Report::Terminated);
    Ok(())
}

/// Waits for the first order. The handshake on the data channel is made when the Doer begins it, which
/// may be now or with the assignment: neither side's time limit may depend on how long a worker is empty.
fn wait_for_assignment(control: &ControlChannel, data: OwnedFd) -> Result<(Order, Link), RunError> {
    let begun_by_host = matches!(wait_for_work(control.as_fd(), data.as_fd()), Work::Data);
    let early = if begun_by_host {
        Ok(establish(data)?)
    } else {
        Err(data)
    };
    let order = control.receive();
    let link = early.or_else(establish)?;
    Ok((order, link))
}

fn establish(data: OwnedFd) -> Result<Link, RunError> {
    Link::establish(data).map_err(|source| RunError::Data { source })
}

/// Runs calls until the Doer says drain.
fn serve(control: &ControlChannel, doee: &Doee, page: &Page) {
    loop {
        while let Some(received) = host::with(|session| session.link.next_waiting()) {
            run_call(doee, page, received);
        }
        let work = host::with(|session| match session.link.is_buffered() {
            true => Work::Data,
            false => wait_for_work(control.as_fd(), session.link.as_fd()),
        });
        match work {
            Work::Data => host::with(take_in),
            Work::Control => match control.receive() {
                Order::Drain => break,
                Order::Assign(..) => give_up("a second Doee was assigned"),
            },
        }
    }
    host::with(|session| {
        while let Some(received) = session.link.next_waiting() {
            session.link.refuse(
                &received.message.header,
                ErrorCode::Unavailable,
                "the worker is draining",
            );
        }
    });
}

/// Takes in what has come.
fn take_in(session: &mut Session) {
    if let Some(message) = session.link.try_receive() {
        session.dispatch(message);
    }
    while session.link.is_buffered() {
        let Some(message) = session.link.try_receive() else {
            break;
        };
        session.dispatch(message);
    }
}

fn run_call(doee: &Doee, page: &Page, received: Received) {
    let header = received.message.header;
    let is_invoke = header.target == Service::Worker || header.target == Service::Doer;
    if !is_invoke || Operation::from_u16(header.operation) != Some(Operation::Invoke) {
        return host::with(|session| {
            session.link.refuse(
                &header,
                ErrorCode::Invalid,
                "a worker runs calls of its Doee, nothing else",
            );
        });
    }
    if !page.begin(header.call) {
        // The Doer no longer waits for it, but for the record of it to end.
        return host::with(|session| {
            session
                .link
                .refuse(&header, ErrorCode::Cancelled, "recalled before it began");
        });
    }
    let begun = Instant::now();
    if host::with(|session| session.begin_call(received)) {
        let code = doee.execute();
        page.set_run_time(header.call, begun.elapsed());
        host::with(|session| session.end_call(code));
    }
}

enum Work {
    Control,
    Data,
}

/// Waits for either channel; orders first.
fn wait_for_work(control: BorrowedFd<'_>, data: BorrowedFd<'_>) -> Work {
    let mut sources = [
        PollFd::from_borrowed_fd(control, PollFlags::IN),
        PollFd::from_borrowed_fd(data, PollFlags::IN),
    ];
    loop {
        match poll(&mut sources, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => give_up(format_args!("cannot wait for work: {error}")),
        }
    }
    if sources[0].revents().is_empty() {
        Work::Data
    } else {
        Work::Control
    }
}
