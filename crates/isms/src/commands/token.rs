//! `isms token`: who may do what.

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    cli::{TokenArgs, TokenCommand},
    client::Client,
    output::table,
};

const DAY_S: u64 = 24 * 60 * 60;

pub(crate) async fn run(args: &TokenArgs) -> Result<()> {
    match &args.command {
        TokenCommand::Create {
            name,
            project,
            rights,
            days,
            platform,
        } => {
            let expires_in_s = days.map(|days| u64::from(days) * DAY_S);
            let body =
                json!({ "name": name, "project": project, "rights": rights, "expires_in_s": expires_in_s });
            let created: Value = Client::find(platform)?
                .json("POST", "/api/v1/tokens", Bytes::from(body.to_string()))
                .await?;
            if platform.json {
                println!("{created}");
            } else {
                println!("{}", created["token"].as_str().unwrap_or_default());
            }
        }
        TokenCommand::List { platform } => {
            let tokens: Value = Client::find(platform)?.get("/api/v1/tokens").await?;
            if platform.json {
                println!("{tokens}");
            } else {
                print!("{}", table(&["ID", "NAME", "PROJECT", "RIGHTS"], &rows(&tokens)));
            }
        }
        TokenCommand::Revoke { id, platform } => {
            Client::find(platform)?
                .whole("DELETE", &format!("/api/v1/tokens/{id}"), Bytes::new())
                .await?;
            eprintln!("revoked {id}");
        }
    }
    Ok(())
}

fn rows(tokens: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |token: &Value| {
        let rights = token["rights"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect::<Vec<_>>();
        vec![
            text(&token["id"]),
            text(&token["name"]),
            text(&token["project"]),
            rights.join(","),
        ]
    };
    tokens["tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect()
}
