//! What the user can type.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use isms_protocol::{ProcessId, limits};

/// ISMS, the IoT Services Management System: functions, databases and devices on your own machine.
#[derive(Debug, Parser)]
#[command(name = "isms", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the platform in the foreground; Ctrl-C stops it.
    Up(UpArgs),
    /// Stop the platform.
    Down(PlatformArgs),
    /// Show whether the platform serves, and how much it has done.
    Status(PlatformArgs),
    /// Show workers and processes.
    Ps(PlatformArgs),
    /// Show how calls go, by function and class: live on a terminal.
    Top(TopArgs),
    /// Show where a call has spent its time, or which calls were traced.
    Trace(TraceArgs),
    /// Check isolation and the machine; says what is missing and what to do.
    Doctor(PlatformArgs),
    /// Make a folder with a project that deploys as it is.
    New(NewArgs),
    /// Build and start a project's folder.
    Deploy(DeployArgs),
    /// Show what a project gets where projects share, or change it.
    Project(ProjectArgs),
    /// Delete a project with its data.
    Delete(DeleteArgs),
    /// Call a function directly.
    Invoke(InvokeArgs),
    /// Show how far an asynchronous call is, or its result.
    Process(ProcessArgs),
    /// Cancel an asynchronous call.
    Cancel(CancelArgs),
    /// List, run again or discard durable calls that were given up.
    Dead(DeadArgs),
    /// Show what a function logged.
    Logs(LogsArgs),
    /// Make, list or revoke tokens.
    Token(TokenArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
    #[command(hide = true)]
    Kernel,
    #[command(hide = true)]
    Doer,
    #[command(hide = true)]
    Dbriver,
    #[command(hide = true)]
    Commserver,
    #[command(hide = true)]
    Resadmin,
    #[command(hide = true)]
    Gate,
    #[command(hide = true)]
    Spawner,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Settings; see docs/configuration.md.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is kept [default: /var/lib/isms for root, else ~/.local/share/isms].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where projects are served [default: 127.0.0.1:8080]; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Where the management API is served, and a page that says how to use it [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDR")]
    pub(crate) gate: Option<SocketAddr>,
    /// Print the ready line as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How to find a running platform. ISMS_URL and ISMS_TOKEN win over the data directory.
#[derive(Debug, Args)]
pub(crate) struct PlatformArgs {
    /// The platform's data directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print one table of everything since the Kernel started, as is done anyway where no terminal is.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Of a process, from `isms-process` of a response, or of a trace, from `isms-trace` or the client's own
    /// `traceparent`; without one the latest calls are listed.
    #[arg(value_parser = trace_id)]
    pub(crate) id: Option<String>,
    /// Only in this project.
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// Of this function only.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub(crate) doee: Option<String>,
    /// Those first that took longest.
    #[arg(long, conflicts_with = "id")]
    pub(crate) slowest: bool,
    /// Calls at most.
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "id",
        value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

/// An id of hexadecimal digits, with hyphens or without; the platform knows which it is.
fn trace_id(text: &str) -> Result<String, String> {
    let is_id = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match is_id && (text.len() == 32 || text.len() == 36) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("it is the id neither of a process nor of a trace".into()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the project and of its folder: small letters, digits, hyphens.
    pub(crate) name: String,
    /// Language of its first function.
    #[arg(long, value_enum, default_value = "cpp")]
    pub(crate) lang: Lang,
}

/// Languages with a template.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Lang {
    /// C++20.
    Cpp,
    /// C17.
    C,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The project's folder, which holds project.toml.
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    /// The project.
    pub(crate) project: String,
    /// Its part of what projects share, in proportion to the weights of the others: 1 to 10000 (100 unless set).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::WEIGHT_MAX)))]
    pub(crate) weight: Option<u32>,
    /// Calls of its functions that are accepted in a second; 0 lifts the limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(limits::RATE_MAX)))]
    pub(crate) rate_max: Option<u32>,
    /// Calls of its functions that run at the same time, the others wait; 0 lifts the limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(limits::CONCURRENCY_MAX)))]
    pub(crate) concurrency_max: Option<u32>,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The project.
    pub(crate) project: String,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// PROJECT/DOEE.
    pub(crate) doee: String,
    /// The payload: text, or @FILE for a file's content.
    #[arg(long = "data", value_name = "DATA", default_value = "")]
    pub(crate) payload: String,
    /// Do not wait for the answer: print the id of the process, for `isms process` and `isms cancel`.
    #[arg(long = "async")]
    pub(crate) respond_async: bool,
    /// A scheduling class: realtime, high, normal or batch. It only lowers the function's own.
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Time for the call, waiting included, in ms. It only shortens the function's own.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) deadline_ms: Option<u32>,
    /// With --async: an idempotency key. Repeated with the same one, the call is made once.
    #[arg(long, value_name = "KEY", requires = "respond_async")]
    pub(crate) key: Option<String>,
    /// With --async: print id and URL as JSON.
    #[arg(long, requires = "respond_async")]
    pub(crate) json: bool,
    /// The platform's data directory, which is --data elsewhere.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Its id, from `isms invoke --async` or the `location` of a response.
    pub(crate) process: ProcessId,
    /// Wait for its end.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print what the function answered, as `isms invoke` does.
    #[arg(long, conflicts_with = "json")]
    pub(crate) result: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Its id, from `isms invoke --async` or the `location` of a response.
    pub(crate) process: ProcessId,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    pub(crate) command: DeadCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List the dead letters of a project.
    List {
        /// The project.
        project: String,
        #[command(flatten)]
        platform: PlatformArgs,
    },
    /// Show one of them.
    Show(LetterArgs),
    /// Run one again, as the current version of its function and under its old id.
    Replay(LetterArgs),
    /// Forget one.
    Discard(LetterArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LetterArgs {
    /// The project.
    pub(crate) project: String,
    /// Its id, from `isms dead list`.
    #[arg(value_name = "ID")]
    pub(crate) process: ProcessId,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// PROJECT/DOEE.
    pub(crate) doee: String,
    /// Go on as lines come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines to begin with.
    #[arg(long, default_value_t = 100)]
    pub(crate) tail: u32,
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it; it is shown only now.
    Create {
        /// For people.
        name: String,
        /// The only project that it may touch.
        #[arg(long)]
        project: Option<String>,
        /// What it may do.
        #[arg(long, value_delimiter = ',', default_value = "invoke")]
        rights: Vec<String>,
        /// Life in days; for ever without.
        #[arg(long)]
        days: Option<u32>,
        #[command(flatten)]
        platform: PlatformArgs,
    },
    /// List tokens, never the secrets themselves.
    List {
        #[command(flatten)]
        platform: PlatformArgs,
    },
    /// Revoke a token.
    Revoke {
        /// Its id, from `isms token list`.
        id: String,
        #[command(flatten)]
        platform: PlatformArgs,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_asynchronous_calls() {
        let parse = |flags: &[&str]| Cli::try_parse_from([&["isms", "invoke", "shop/d"], flags].concat());
        assert!(parse(&["--key", "k"]).is_err());
        assert!(parse(&["--key", "k", "--async"]).is_ok());
    }

    #[test]
    fn a_trace_is_named_by_an_id_or_listed_by_filters_and_not_both() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["isms", "trace"], words].concat()).is_ok();
        let (process, trace) = (
            "01a20f2a-a31c-70fc-83f6-40fb7a8e18de",
            "0af7651916cd43dd8448eb211c80319c",
        );
        assert!(parse(&[]) && parse(&[process]) && parse(&[trace, "--json", "--project", "shop"]));
        assert!(parse(&["--doee", "d", "--slowest", "--count", "200"]));
        assert!(
            !parse(&[trace, "--slowest"]) && !parse(&[trace, "--doee", "d"]) && !parse(&["--count", "201"])
        );
        for id in ["7", "../../projects", &trace[1..]] {
            assert!(!parse(&[id]), "{id}");
        }
    }

    #[test]
    fn a_dead_letter_is_named_by_project_and_id() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["isms", "dead"], words].concat()).is_ok();
        let id = "01a20f2a-a31c-70fc-83f6-40fb7a8e18de";
        for command in ["show", "replay", "discard"] {
            assert!(parse(&[command, "shop", id, "--json"]), "{command}");
            assert!(
                !parse(&[command, "shop", "7"]) && !parse(&[command, id]),
                "{command}"
            );
        }
        assert!(parse(&["list", "shop", "--json"]) && !parse(&["list"]));
    }

    #[test]
    fn a_setting_of_a_project_beyond_its_bounds_is_refused_with_them() {
        for (flag, value, bounds) in [
            ("--weight", "0", "1..=10000"),
            ("--rate-max", "-1", "0..=1000000"),
            ("--concurrency-max", "-1", "0..=16384"),
            ("--concurrency-max", "16385", "0..=16384"),
        ] {
            let flag = format!("{flag}={value}");
            let refused = Cli::try_parse_from(["isms", "project", "shop", &flag]);
            let message = refused.expect_err("is refused").to_string();
            assert!(
                message.contains(&format!("{value} is not in {bounds}")),
                "{message}"
            );
        }
    }
}
