//! `isms invoke`: a direct call of a function.

use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::{
    cli::{InvokeArgs, PlatformArgs},
    client::Client,
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
    let path = super::doee_path(&args.doee)?;
    let answer = Client::find_by(&platform, "--data-dir")?
        .whole("POST", &format!("{path}/invoke"), Bytes::from(payload))
        .await?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer)?;
    if !answer.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}
