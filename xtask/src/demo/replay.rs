//! The example's HTTP interface, as a device and as a reader use it.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use ureq::Agent;

/// One row of the data.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) timestamp: String,
    pub(crate) value: f64,
}

/// Reads `timestamp,value` rows below a heading.
pub(crate) fn readings(path: &Path) -> Result<Vec<Reading>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Reading>> {
    let row = |(index, line): (usize, &str)| {
        let (timestamp, value) = line
            .split_once(',')
            .with_context(|| format!("line {} has no comma", index + 2))?;
        let value = value
            .trim()
            .parse()
            .with_context(|| format!("line {} has no number", index + 2))?;
        Ok(Reading {
            timestamp: timestamp.to_owned(),
            value,
        })
    };
    text.lines().skip(1).enumerate().map(row).collect()
}

/// The deployed example.
pub(crate) struct Monitor {
    agent: Agent,
    base: String,
}

impl Monitor {
    pub(crate) fn new(http: &str) -> Monitor {
        Monitor {
            agent: Agent::new_with_defaults(),
            base: format!("http://{http}/machine-monitor"),
        }
    }

    /// Sends one reading; it must be stored.
    pub(crate) fn post(&self, machine: &str, reading: &Reading) -> Result<()> {
        let body =
            json!({ "machine": machine, "timestamp": reading.timestamp, "value": reading.value }).to_string();
        let mut response = self
            .agent
            .post(format!("{}/readings", self.base))
            .header("content-type", "application/json")
            .send(body)?;
        let answer: Value = serde_json::from_str(&response.body_mut().read_to_string()?)?;
        ensure!(answer["stored"] == 1, "the answer was {answer}");
        Ok(())
    }

    pub(crate) fn summary(&self, machine: &str) -> Result<Value> {
        self.get(&format!("machines/{machine}/summary"))
    }

    pub(crate) fn anomalies(&self, machine: &str) -> Result<Value> {
        self.get(&format!("machines/{machine}/anomalies"))
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut response = self.agent.get(format!("{}/{path}", self.base)).call()?;
        Ok(serde_json::from_str(&response.body_mut().read_to_string()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_a_bad_one_is_named_by_its_line() {
        let rows = parse("timestamp,value\n2013-12-02 21:15:00,73.97\n").unwrap();
        assert_eq!(
            rows,
            [Reading {
                timestamp: "2013-12-02 21:15:00".into(),
                value: 73.97
            }]
        );
        let error = parse("timestamp,value\n2013-12-02 21:15:00,73.97\nx,y\n").unwrap_err();
        assert_eq!(error.to_string(), "line 3 has no number");
    }
}
