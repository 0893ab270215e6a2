//! `isms logs`: what a function logged.

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::Value;

use crate::{cli::LogsArgs, client::Client, output::plain};

pub(crate) async fn run(args: &LogsArgs) -> Result<()> {
    let path = super::doee_path(&args.doee)?;
    let path = format!("{path}/logs?tail={}&follow={}", args.tail, args.follow);
    Client::find(&args.platform)?
        .lines("GET", &path, Bytes::new(), |line| {
            let record: Value = serde_json::from_slice(line).context("a log record cannot be read")?;
            if args.platform.json {
                println!("{record}");
            } else if let Some(text) = record["text"].as_str() {
                let time = clock(record["at_us"].as_u64().unwrap_or(0));
                let level = record["level"].as_str().unwrap_or("info");
                // Whoever looks into an error wants to know which call it was: responses carry the same id.
                let process = match record["process"].as_str() {
                    Some(process) if level == "error" => format!(" [process {}]", plain(process)),
                    _ => String::new(),
                };
                println!("{time} {level:<5} {}{process}", plain(text));
            }
            Ok(())
        })
        .await
}

/// Time of day in UTC.
fn clock(at_us: u64) -> String {
    let ms = at_us / 1000;
    let (s, m, h) = (ms / 1000 % 60, ms / 60_000 % 60, ms / 3_600_000 % 24);
    format!("{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_shows_utc() {
        assert_eq!(super::clock(1_385_932_500_123_456), "21:15:00.123Z");
    }
}
