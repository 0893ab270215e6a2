//! `isms invoke`: a direct call of a function.

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    cli::{InvokeArgs, PlatformArgs},
    client::Client,
    output::{plain, print_payload},
};

pub(crate) async fn run(args: &InvokeArgs) -> Result<()> {
    let payload = match args.payload.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}"))?,
        None => args.payload.clone().into_bytes(),
    };
    let platform = PlatformArgs {
        data: args.data_dir.clone(),
        json: false,
    };
    let path = format!("{}/invoke", super::doee_path(&args.doee)?);
    let client = Client::find_by(&platform, "--data-dir")?;
    let answer = client.call(&path, &fields(args), Bytes::from(payload)).await?;
    if !args.respond_async {
        return print_payload(&answer);
    }
    let accepted: Value =
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {path} cannot be read"))?;
    let process = accepted["process"]
        .as_str()
        .context("the answer names no process")?;
    if args.json {
        let url = client.url(accepted["url"].as_str().unwrap_or_default());
        println!("{}", json!({ "process": process, "url": url }));
    } else {
        println!("{}", plain(process));
    }
    Ok(())
}

fn fields(args: &InvokeArgs) -> Vec<(&'static str, String)> {
    let prefer = args.respond_async.then(|| "respond-async".to_owned());
    let fields = [
        ("prefer", prefer),
        ("idempotency-key", args.key.clone()),
        ("isms-class", args.class.clone()),
        (
            "isms-deadline-ms",
            args.deadline_ms.map(|deadline| deadline.to_string()),
        ),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    given.collect()
}
