//! `isms project`: what a project gets where projects share the platform.

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{cli::ProjectArgs, client::Client, output::table};

pub(crate) async fn run(args: &ProjectArgs) -> Result<()> {
    let client = Client::find(&args.platform)?;
    let path = format!("/api/v1/projects/{}", args.project);
    let change = change(args);
    let settings = if change.is_empty() {
        client.get::<Value>(&path).await?["settings"].take()
    } else {
        let body = Bytes::from(Value::Object(change).to_string());
        client.json("PATCH", &path, body).await?
    };
    if args.platform.json {
        println!("{settings}");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = settings
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| vec![name.clone(), value.to_string()])
        .collect();
    print!("{}", table(&["SETTING", "VALUE"], &rows));
    Ok(())
}

/// What the user wants to be another than it is.
fn change(args: &ProjectArgs) -> Map<String, Value> {
    let settings = [
        ("weight", args.weight),
        ("rate_max", args.rate_max),
        ("concurrency_max", args.concurrency_max),
    ];
    let given = settings
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    given
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}
