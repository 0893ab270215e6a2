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
    if !args.respond_async {
        let answer = client.whole("POST", &path, Bytes::from(payload)).await?;
        return print_payload(&answer);
    }
    let accepted: Value = client
        .accept(&path, args.key.as_deref(), Bytes::from(payload))
        .await?;
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
