//! The commands, one file each.

use anyhow::Result;
use clap::CommandFactory;
use isms_protocol::Service;

use crate::{
    cli::{Cli, Command},
    role,
};

mod dead;
mod deploy;
mod doctor;
mod down;
mod invoke;
mod logs;
mod new;
mod process;
mod project;
mod ps;
mod status;
mod token;
mod top;
mod trace;
mod up;

/// Runs what the user typed.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Up(args) => up::run(args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => on_runtime(status::run(&args)),
        Command::Ps(args) => on_runtime(ps::run(&args)),
        Command::Top(args) => on_runtime(top::run(&args)),
        Command::Trace(args) => on_runtime(trace::run(&args)),
        Command::Doctor(args) => on_runtime(doctor::run(&args)),
        Command::New(args) => new::run(&args),
        Command::Deploy(args) => on_runtime(deploy::run(&args)),
        Command::Project(args) => on_runtime(project::run(&args)),
        Command::Delete(args) => on_runtime(deploy::delete(&args)),
        Command::Invoke(args) => on_runtime(invoke::run(&args)),
        Command::Process(args) => on_runtime(process::run(&args)),
        Command::Cancel(args) => on_runtime(process::cancel(&args)),
        Command::Dead(args) => on_runtime(dead::run(&args)),
        Command::Logs(args) => on_runtime(logs::run(&args)),
        Command::Token(args) => on_runtime(token::run(&args)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "isms", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => Ok(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?),
        Command::Kernel => role::run(Service::Kernel),
        Command::Doer => role::run(Service::Doer),
        Command::Dbriver => role::run(Service::Dbriver),
        Command::Commserver => role::run(Service::Commserver),
        Command::Resadmin => role::run(Service::Resadmin),
        Command::Gate => role::run(Service::Gate),
        Command::Spawner => role::run_spawner(),
    }
}

fn on_runtime(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}

/// The management API's path of `PROJECT/DOEE`.
fn doee_path(doee: &str) -> Result<String> {
    match doee.split_once('/') {
        Some((project, doee)) if !project.is_empty() && !doee.is_empty() && !doee.contains('/') => {
            Ok(format!("/api/v1/projects/{project}/doees/{doee}"))
        }
        _ => anyhow::bail!("{doee:?} is not PROJECT/DOEE"),
    }
}
