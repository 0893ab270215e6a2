//! The one program of ISMS: supervisor (`isms up`), roles (started by it), and command line.
//!
//! Data goes to stdout, everything else to stderr; `--json` makes the data machine-readable. Exit
//! codes: 0 done, 1 failed, 2 wrong usage, 3 the platform refused, 4 the platform cannot be reached.

mod cli;
mod client;
mod commands;
mod data_dir;
mod logging;
mod output;
mod role;
mod sdk;
mod settings;
mod supervisor;
mod users;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain, once, at the edge.
            eprintln!("{} {error:#}", output::red("error:"));
            ExitCode::from(client::exit_code(&error))
        }
    }
}
