//! `isms dead`: durable calls that were given up.

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use isms_protocol::ProcessId;
use serde_json::{Value, json};

use super::process;
use crate::{
    cli::{DeadArgs, DeadCommand, LetterArgs},
    client::{Client, Refused},
    output::{duration_ms, plain, table},
};

const HEADING: [&str; 8] = [
    "PROCESS", "DOEE", "FAILURES", "AGE", "DEAD FOR", "KEPT", "CODE", "REASON",
];

pub(crate) async fn run(args: &DeadArgs) -> Result<()> {
    match &args.command {
        DeadCommand::List { project, platform } => {
            let letters = all(&Client::find(platform)?, &path(project)).await?;
            match platform.json {
                true => println!("{}", json!({ "letters": letters })),
                false => print!(
                    "{}",
                    table(&HEADING, &letters.iter().map(row).collect::<Vec<_>>())
                ),
            }
        }
        DeadCommand::Show(letter) => {
            let shown = one(&Client::find(&letter.platform)?, letter).await?;
            match letter.platform.json {
                true => println!("{shown}"),
                false => print!("{}", table(&["FIELD", "VALUE"], &fields(&shown))),
            }
        }
        DeadCommand::Replay(letter) => {
            let path = format!("{}/{}/replay", path(&letter.project), letter.process);
            let client = Client::find(&letter.platform)?;
            let state: Value = client.json("POST", &path, Bytes::new()).await?;
            process::show(&state, letter.platform.json);
        }
        DeadCommand::Discard(letter) => {
            let path = format!("{}/{}", path(&letter.project), letter.process);
            let client = Client::find(&letter.platform)?;
            client.whole("DELETE", &path, Bytes::new()).await?;
            match letter.platform.json {
                true => println!("{}", json!({ "discarded": letter.process })),
                false => eprintln!("discarded {}", letter.process),
            }
        }
    }
    Ok(())
}

fn path(project: &str) -> String {
    format!("/api/v1/projects/{project}/dead")
}

/// Every letter of a project, which the platform tells in parts.
async fn all(client: &Client, path: &str) -> Result<Vec<Value>> {
    let mut letters = Vec::new();
    let mut part: Value = client.get(path).await?;
    loop {
        letters.extend(
            part["letters"]
                .as_array_mut()
                .map(std::mem::take)
                .unwrap_or_default(),
        );
        // The platform keeps a bounded number of them, and each part ends behind the one before.
        let last = letters.last().and_then(|letter| letter["process"].as_str());
        let Some(last) = last.filter(|_| part["more"] == true) else {
            return Ok(letters);
        };
        let next: Value = client.get(&format!("{path}?after={last}")).await?;
        let is_behind = next["letters"][0]["process"]
            .as_str()
            .is_none_or(|first| first > last);
        ensure!(is_behind, "the answer to {path} begins where it has been already");
        part = next;
        if part["letters"].as_array().is_none_or(Vec::is_empty) {
            return Ok(letters);
        }
    }
}

/// One letter: the first after the id that is one less.
async fn one(client: &Client, letter: &LetterArgs) -> Result<Value> {
    let path = format!(
        "{}?after={}&count=1",
        path(&letter.project),
        before(letter.process)
    );
    let mut part: Value = client.get(&path).await?;
    let first = part["letters"].get_mut(0).map(Value::take);
    first
        .filter(|first| first["process"] == letter.process.to_string())
        .ok_or_else(|| anyhow!(Refused("there is no such dead letter".into())))
}

fn before(process: ProcessId) -> ProcessId {
    let number = u128::from_be_bytes(process.to_bytes());
    ProcessId::from_bytes(number.saturating_sub(1).to_be_bytes())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

fn time(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |us| duration_ms(us / 1000))
}

fn row(letter: &Value) -> Vec<String> {
    // One line each, whatever a function has said when it failed.
    let reason = text(&letter["reason"]).replace(['\n', '\t'], " ");
    vec![
        text(&letter["process"]),
        text(&letter["doee"]),
        text(&letter["failures"]),
        time(&letter["age_us"]),
        time(&letter["dead_us"]),
        time(&letter["kept_us"]),
        text(&letter["code"]),
        reason,
    ]
}

fn fields(letter: &Value) -> Vec<Vec<String>> {
    let fields = letter.as_object().into_iter().flatten();
    let field = |(name, value): (&String, &Value)| match name.strip_suffix("_us") {
        Some(name) => vec![name.to_owned(), time(value)],
        None => vec![name.clone(), text(value)],
    };
    fields.map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_one_line_and_its_fields_are_read_by_people() {
        let letter = json!({
            "process": "p", "doee": null, "failures": 5, "age_us": 130_000_000, "dead_us": 2_000, "kept_us": 1,
            "code": "DoeeFailed", "reason": "it threw\nhere",
        });
        let cells = [
            "p",
            "-",
            "5",
            "2 min",
            "2 ms",
            "0 ms",
            "DoeeFailed",
            "it threw here",
        ];
        assert_eq!(row(&letter), cells);
        let shown = fields(&letter);
        assert!(shown.contains(&vec!["age".into(), "2 min".into()]));
        assert!(shown.contains(&vec!["doee".into(), "-".into()]));
    }

    #[test]
    fn the_id_before_is_one_less_across_bytes() {
        let id: ProcessId = "01a20f2a-a31c-70fc-8300-000000000000".parse().expect("an id");
        assert_eq!(before(id).to_string(), "01a20f2a-a31c-70fc-82ff-ffffffffffff");
    }
}
