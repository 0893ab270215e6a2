//! `isms doctor`: what isolation this machine offers, proven layer by layer.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{
    cli::PlatformArgs,
    client::Client,
    output::{green, plain, red},
};

pub(crate) async fn run(args: &PlatformArgs) -> Result<()> {
    let isolation: Value = Client::find(args)?.get("/api/v1/isolation").await?;
    if args.json {
        println!("{isolation}");
    } else {
        for layer in isolation["layers"].as_array().into_iter().flatten() {
            let (name, detail) = (
                layer["name"].as_str().unwrap_or("?"),
                layer["detail"].as_str().unwrap_or(""),
            );
            let mark = match (layer["proven"].as_bool(), layer["required"].as_bool()) {
                (Some(true), _) => green("proven "),
                (_, Some(true)) => red("MISSING"),
                _ => red("absent "),
            };
            println!("{mark}  {:<20} {}", plain(name), plain(detail));
        }
    }
    if isolation["sufficient"] != Value::Bool(true) {
        bail!(
            "isolation is below the required minimum: no worker starts until the layers marked MISSING work"
        );
    }
    Ok(())
}
