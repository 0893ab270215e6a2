//! `isms status`: whether the platform serves.

use anyhow::Result;
use serde_json::Value;

use crate::{
    cli::PlatformArgs,
    client::Client,
    output::{bold, table},
};

pub(crate) async fn run(args: &PlatformArgs) -> Result<()> {
    let status: Value = Client::find(args)?.get("/api/v1/status").await?;
    if args.json {
        println!("{status}");
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = status["services"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| {
            let up = if service["up"] == Value::Bool(true) {
                "up"
            } else {
                "down"
            };
            vec![
                text(&service["service"]),
                up.to_owned(),
                text(&service["generation"]),
                text(&service["running"]),
                text(&service["queued"]),
            ]
        })
        .collect();
    println!("{}", bold(&format!("isms {}", text(&status["version"]))));
    print!(
        "{}",
        table(&["SERVICE", "STATE", "GENERATION", "RUNNING", "QUEUED"], &rows)
    );
    Ok(())
}
