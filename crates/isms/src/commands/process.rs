//! `isms process` and `isms cancel`: asynchronous calls.

use anyhow::Result;
use bytes::Bytes;
use isms_protocol::limits::RESULT_WAIT_MAX;
use serde_json::Value;

use crate::{
    cli::{CancelArgs, ProcessArgs},
    client::Client,
    output::{duration_ms, print_payload, table},
};

pub(crate) async fn run(args: &ProcessArgs) -> Result<()> {
    let client = Client::find(&args.platform)?;
    let path = format!("/api/v1/processes/{}", args.process);
    let waiting = format!("{path}?wait={}", RESULT_WAIT_MAX.as_secs());
    let mut state: Value = client.get(if args.wait { &waiting } else { &path }).await?;
    while args.wait && !has_ended(&state) {
        state = client.get(&waiting).await?;
    }
    if args.result {
        return print_payload(
            &client
                .whole("GET", &format!("{path}/result"), Bytes::new())
                .await?,
        );
    }
    show(&state, args.platform.json);
    Ok(())
}

pub(crate) async fn cancel(args: &CancelArgs) -> Result<()> {
    let path = format!("/api/v1/processes/{}", args.process);
    let client = Client::find(&args.platform)?;
    let state: Value = client.json("DELETE", &path, Bytes::new()).await?;
    show(&state, args.platform.json);
    Ok(())
}

fn has_ended(state: &Value) -> bool {
    !matches!(state["state"].as_str(), Some("queued" | "running"))
}

pub(super) fn show(state: &Value, json: bool) {
    if json {
        println!("{state}");
        return;
    }
    let text = |name: &str| state[name].as_str().unwrap_or("?").to_owned();
    let time = |name: &str| match state[name].as_u64() {
        Some(us) => duration_ms(us / 1000),
        None => "-".to_owned(),
    };
    let mut heading = vec!["PROCESS", "STATE", "QUEUED", "RAN", "KEPT"];
    let mut row = vec![
        text("process"),
        text("state"),
        time("queued_us"),
        time("ran_us"),
        time("kept_us"),
    ];
    // Only durable calls that have failed before have these.
    if let Some(failures) = state["failures"].as_u64() {
        heading.extend(["FAILURES", "RETRY IN"]);
        row.extend([failures.to_string(), time("retry_us")]);
    }
    print!("{}", table(&heading, &[row]));
}
