//! The Doee Executor: loads one Doee inside a Worker and runs it.
//!
//! Takes no arguments and no environment: both channels are inherited descriptors.

use std::error::Error;
use std::process::ExitCode;

use isms_executor::{EXIT_FAILED, run};
use isms_protocol::worker::{CONTROL_FD, DATA_FD};
use isms_sandbox::linux::descriptor::take_inherited;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut cause = Some(&*error as &dyn Error);
            while let Some(error) = cause {
                eprintln!("{error}");
                cause = error.source();
            }
            ExitCode::from(EXIT_FAILED as u8)
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let control = take_inherited(CONTROL_FD)?;
    let data = take_inherited(DATA_FD)?;
    Ok(run(control, data)?)
}
