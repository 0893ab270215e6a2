//! The yardsticks and the probes of `cargo xtask bench`: one measurement a subcommand.
//!
//! A probe prints one line of JSON a figure, `{"name", "unit", "value", "n"}`, where the value is a median of
//! `n`. `axum-hello` prints its address and serves until it is killed. Not here: load (wrk), the platform
//! as a whole, tables: xtask does that.

mod axum_hello;
mod disk;
mod echo;
mod queued;
mod sandbox;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;

const USAGE: &str = "\
usage: isms-bench axum-hello
       isms-bench uds-echo N
       isms-bench fdatasync FOLDER N
       isms-bench queued-calls
       isms-bench sandbox BINARIES DOEE.so N";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["axum-hello"] => axum_hello::serve(),
        ["uds-echo", count] => number(count).and_then(echo::measure),
        ["echo-peer"] => echo::peer(),
        ["fdatasync", folder, count] => {
            number(count).and_then(|count| disk::measure(Path::new(folder), count))
        }
        ["queued-calls"] => queued::measure(),
        ["sandbox", binaries, doee, count] => {
            number(count).and_then(|count| sandbox::measure(Path::new(binaries), Path::new(doee), count))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize> {
    anyhow::Context::with_context(text.parse(), || format!("{text:?} is no number"))
}

/// Prints the median of samples in µs.
fn report_us(name: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let median = samples[samples.len() / 2].as_nanos() as f64 / 1e3;
    report(name, "µs", median, samples.len());
}

fn report(name: &str, unit: &str, value: f64, n: usize) {
    println!(
        "{}",
        serde_json::json!({ "name": name, "unit": unit, "value": value, "n": n })
    );
}
