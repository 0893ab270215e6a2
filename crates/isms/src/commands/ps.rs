//! `isms ps`: workers and processes.

use anyhow::Result;
use serde_json::Value;

use crate::{
    cli::PlatformArgs,
    client::Client,
    output::{duration_ms, table},
};

pub(crate) async fn run(args: &PlatformArgs) -> Result<()> {
    let client = Client::find(args)?;
    let workers: Value = client.get("/api/v1/workers").await?;
    let processes: Value = client.get("/api/v1/processes").await?;
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "workers": workers["workers"], "processes": processes["processes"] })
        );
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let age = |value: &Value, divisor: u64| duration_ms(value.as_u64().unwrap_or(0) / divisor);
    let rows: Vec<Vec<String>> = workers["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|worker| {
            let doee = match text(&worker["project_name"]) {
                project if project.is_empty() => "-".to_owned(),
                project => format!("{project}/{}", text(&worker["doee"])),
            };
            let state = text(&worker["state"]);
            vec![
                text(&worker["worker"]),
                text(&worker["pid"]),
                state,
                environment(worker),
                doee,
                text(&worker["calls"]),
                age(&worker["age_ms"], 1),
            ]
        })
        .collect();
    print!(
        "{}",
        table(
            &["WORKER", "PID", "STATE", "ISOLATION", "DOEE", "CALLS", "AGE"],
            &rows
        )
    );
    let rows: Vec<Vec<String>> = processes["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| {
            let state = if process["queued"] == Value::Bool(true) {
                "queued"
            } else {
                "running"
            };
            vec![
                text(&process["process"]),
                text(&process["target"]),
                text(&process["class"]),
                state.to_owned(),
                age(&process["age_us"], 1000),
            ]
        })
        .collect();
    if !rows.is_empty() {
        print!(
            "\n{}",
            table(&["PROCESS", "SERVICE", "CLASS", "STATE", "AGE"], &rows)
        );
    }
    Ok(())
}

/// Who makes a worker's walls, and the begin of its image's hash.
fn environment(worker: &Value) -> String {
    let backend = worker["backend"].as_str().unwrap_or("?");
    match worker["image"].as_str().and_then(|image| image.get(..12)) {
        Some(image) => format!("{backend} {image}"),
        None => backend.to_owned(),
    }
}
