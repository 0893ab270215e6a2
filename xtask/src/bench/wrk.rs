//! HTTP load by wrk.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What wrk measured.
#[derive(Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) rate: f64,
}

/// Loads a URL with `connections` requests in flight for `seconds`, after a short warm-up.
pub(crate) fn run(url: &str, connections: u32, seconds: u32) -> Result<Load> {
    once(url, connections, 1)?;
    once(url, connections, seconds)
}

/// The same without a warm-up.
pub(crate) fn once(url: &str, connections: u32, seconds: u32) -> Result<Load> {
    load(url, &[], connections, seconds)
}

/// The same, with a header field.
pub(crate) fn with_header(url: &str, field: &str, connections: u32, seconds: u32) -> Result<Load> {
    load(url, &["-H", field], connections, seconds)
}

fn load(url: &str, more: &[&str], connections: u32, seconds: u32) -> Result<Load> {
    let output = Command::new("wrk")
        .args([
            "--latency",
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
        ])
        .args(more)
        .arg(url)
        .output()
        .context("cannot start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}");
    parse(&text).with_context(|| format!("wrk printed what cannot be read: {text}"))
}

/// Reads wrk's report; answers other than 2xx and 3xx make it an error.
fn parse(text: &str) -> Result<Load> {
    let after = |label: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(label));
        line.map(|line| line[label.len()..].trim())
            .with_context(|| format!("there is no {label}"))
    };
    ensure!(!text.contains("Non-2xx"), "some answers were errors");
    ensure!(!text.contains("Socket errors"), "some connections broke");
    Ok(Load {
        p50_us: duration_us(after("50%")?)?,
        p99_us: duration_us(after("99%")?)?,
        rate: after("Requests/sec:")?.parse()?,
    })
}

fn duration_us(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))
        .with_context(|| format!("{text:?} is no duration"))?;
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "  Latency Distribution\n     50%  148.00us\n     75%  160.00us\n     90%  0.90ms\n     \
        99%    1.20ms\n  1234 requests in 1.00s\nRequests/sec:   6543.21\n";

    #[test]
    fn percentiles_and_rate_are_read_in_any_unit() {
        assert_eq!(
            parse(REPORT).unwrap(),
            Load {
                p50_us: 148.0,
                p99_us: 1200.0,
                rate: 6543.21
            }
        );
    }

    #[test]
    fn errors_under_load_are_no_figure() {
        assert!(parse(&format!("{REPORT}  Non-2xx or 3xx responses: 5\n")).is_err());
    }
}
