//! What a worker says, judged: pure, since every byte of it is hostile.
//!
//! An `Err` is what no honest executor does, in words that follow "the worker was cut off: ".

use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError, commserver, dbriver,
    worker::{self, LogLine, Report, Stage},
};

use crate::{worker::WorkerId, worker_handler::Event};

/// What the ABI offers; the executor asks nobody for anything else, whatever its Doee wants.
const OFFERED: [(Service, u16); 3] = [
    (Service::Doer, worker::Operation::Call as u16),
    (Service::Dbriver, dbriver::Operation::Transaction as u16),
    (Service::Commserver, commserver::Operation::Fetch as u16),
];

/// The version of the Doee ABI that this Doer's workers speak.
const ABI: u32 = 1;

/// What a datagram on the control channel means.
pub(crate) fn report(worker: WorkerId, datagram: &[u8]) -> Event {
    match isms_protocol::decode::<Report>(datagram) {
        Ok(Report::Empty { abi: ABI }) => Event::Empty { worker },
        Ok(Report::Empty { abi }) => {
            let message =
                format!("the executor speaks Doee ABI {abi}, this platform speaks {ABI}: reinstall isms");
            Event::StartFailed {
                worker,
                error: WireError::new(ErrorCode::Internal, message),
            }
        }
        Ok(Report::Initialized) => Event::Initialized { worker },
        Ok(Report::Failed { stage, message }) => Event::StartFailed {
            worker,
            error: start_error(stage, &message),
        },
        // Nothing changes for one that was asked to end.
        Ok(Report::Terminated) => Event::Misbehaved {
            worker,
            what: "it reported an end that nobody asked for".to_owned(),
        },
        Err(error) => Event::Misbehaved {
            worker,
            what: format!("its report cannot be read: {error}"),
        },
    }
}

/// A message on the data channel that nobody answers: a line of the log, or nothing that an executor sends.
pub(crate) fn log_line(message: &Message) -> Result<LogLine, String> {
    let Header { kind, operation, .. } = message.header;
    if kind != Kind::Event || operation != worker::Operation::Log as u16 {
        return Err(format!("it sent {kind:?} out of turn"));
    }
    message
        .decode_body()
        .map_err(|error| format!("its log cannot be read: {error}"))
}

/// A host call. `runs`: the worker runs the attempt of the process in whose name it asks.
pub(crate) fn host_call(header: &Header, runs: bool) -> Result<(), String> {
    if !runs {
        return Err("it asked on behalf of a call that it does not run".to_owned());
    }
    if !OFFERED.contains(&(header.target, header.operation)) {
        return Err(format!(
            "it asked {} for operation {}, which no executor does",
            header.target, header.operation
        ));
    }
    Ok(())
}

fn start_error(stage: Stage, message: &str) -> WireError {
    let what = match stage {
        Stage::Load => "the binary cannot be loaded",
        Stage::Abi => "the binary is not a Doee of this platform",
        Stage::Create => "the Doee's create failed",
        Stage::Initialize => "the Doee's initialize failed",
    };
    WireError::new(ErrorCode::DoeeFailed, format!("{what}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: Service, operation: u16) -> Header {
        Header {
            operation,
            ..Header::new(Kind::Request, Service::Worker, target)
        }
    }

    #[test]
    fn only_what_the_abi_offers_is_passed_on_and_only_in_the_name_of_a_running_call() {
        for target in (0..).map_while(Service::from_u8) {
            for operation in 0..=u16::MAX {
                let offered = OFFERED.contains(&(target, operation));
                let header = asked(target, operation);
                assert_eq!(host_call(&header, true).is_ok(), offered, "{target} {operation}");
                assert!(host_call(&header, false).is_err(), "{target} {operation}");
            }
        }
        let set_routes = commserver::Operation::SetRoutes as u16;
        assert!(host_call(&asked(Service::Commserver, set_routes), true).is_err());
    }

    #[test]
    fn a_message_that_is_no_line_of_the_log_is_out_of_turn() {
        for kind in [
            Kind::Event,
            Kind::Slots,
            Kind::Demand,
            Kind::Begun,
            Kind::Register,
        ] {
            let header = Header::new(kind, Service::Worker, Service::Doer);
            assert!(
                log_line(&Message::bare(header))
                    .unwrap_err()
                    .contains("out of turn")
            );
        }
        let mut header = Header::new(Kind::Event, Service::Worker, Service::Doer);
        header.operation = worker::Operation::Log as u16;
        let unreadable = Message::with_body(header, &"no line");
        assert!(log_line(&unreadable).unwrap_err().contains("cannot be read"));
    }
}
