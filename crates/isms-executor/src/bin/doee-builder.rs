//! The builder: compiles one Doee inside a builder sandbox, and exits.
//!
//! Takes no arguments and no environment: the channel is an inherited descriptor, the places are fixed.

use std::error::Error;
use std::process::ExitCode;

use isms_executor::EXIT_FAILED;
use isms_executor::builder::{Places, serve};
use isms_protocol::worker::DATA_FD;
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
    Ok(serve(take_inherited(DATA_FD)?, &Places::default())?)
}
