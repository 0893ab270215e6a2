//! `isms up`: the platform in the foreground.

use std::io::Write;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cli::UpArgs,
    logging,
    settings::{Overrides, Settings},
    supervisor::{Addresses, Supervisor},
};

pub(crate) fn run(args: UpArgs) -> Result<()> {
    let overrides = Overrides {
        data: args.data,
        http: args.http,
        gate: args.gate,
    };
    let settings = Settings::load(args.config.as_deref(), overrides)?;
    logging::init("supervisor");
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async {
            let supervisor = Supervisor::prepare(settings)?;
            supervisor.run(|addresses| announce(addresses, args.json)).await
        })
        .context("isms up")
}

/// Lets the roles, which inherit it, open as many files as this user may: each worker costs the Doer four, each
/// connection its edge one. Systems give programs a soft limit of 1024 for the sake of old ones that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files; many workers or connections may be refused");
    }
}

/// One line on stdout, when all roles serve: scripts wait for it.
fn announce(addresses: Addresses, json: bool) {
    let Addresses { http, gate } = addresses;
    let mut stdout = std::io::stdout();
    let written = if json {
        writeln!(
            stdout,
            "{}",
            serde_json::json!({ "http": http.to_string(), "gate": gate.to_string() })
        )
    } else {
        writeln!(stdout, "ready http={http} gate={gate}")
    };
    if written.and_then(|()| stdout.flush()).is_err() {
        tracing::warn!("nobody reads stdout, the platform serves all the same");
    }
}
