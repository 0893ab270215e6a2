//! `isms invoke`: a direct call of a function.

use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::{cli::InvokeArgs, client::Client};

pub(crate) async fn run(args: &InvokeArgs) -> Result<()> {
    let payload = match args.data.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}"))?,
        None => args.data.clone().into_bytes(),
    };
    let path = super::doee_path(&args.doee)?;
    let answer = Client::find(&args.platform)?.whole("POST", &format!("{path}/invoke"), Bytes::from(payload)).await?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer)?;
    if !answer.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}
