//! `isms up`: the platform in the foreground.

use std::io::Write;

use anyhow::{Context, Result};

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
