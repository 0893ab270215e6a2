//! The sandbox's tests in a guest, as root and as an ordinary user, and on the host what lacks something in the guest.
//!
//! Every test is accounted for: it passed, failed or was skipped with a reason, under each identity, and one that a
//! guest lost has failed.

use std::{
    collections::BTreeSet,
    panic::resume_unwind,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::guest::{Boot, Clock, Ending, Guest};
use crate::report::Report;

/// What the guest is told to run, and as whom it then does.
const IDENTITIES: [(&str, &str); 2] = [("tests", "as root"), ("user-tests", "as a user")];
/// How long one test may take on hardware.
const TEST_MAX: Duration = Duration::from_secs(30);

/// Runs those tests whose names hold `filter` under each identity and prints what came of it. The outcome calls skipped
/// what ran neither in the guest nor here.
pub(super) fn test(guest: &Guest, binary: &Path, filter: &str) -> Result<Report> {
    let expected = list(binary, filter)?;
    let mut outcome = Report::default();
    // Two guests at a time, which a counted clock allows: neither notices how slow the other makes it.
    let reports = thread::scope(|scope| {
        let expected = &expected;
        let runs =
            IDENTITIES.map(|identity| scope.spawn(move || run_inside(guest, identity, filter, expected)));
        runs.map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    for ((_, who), report) in IDENTITIES.into_iter().zip(reports) {
        let (place, report) = (format!("guest, {who}:"), report?);
        eprintln!("{}", summary(&place, &report));
        outcome.add(report.within(&place));
    }
    let lacking = lacking(&expected, &outcome);
    let on_host = run_here(binary, &lacking)?;
    eprint!("{}", elsewhere(&lacking, &on_host));
    Ok(outcome.without_skipped().with(on_host.within("host:")))
}

/// What came of the tests under one identity, every skip with its reason.
fn summary(place: &str, report: &Report) -> String {
    let lines = report.to_string();
    let lines: Vec<String> = lines.lines().map(|line| format!("    {place} {line}")).collect();
    lines.join("\n")
}

/// Which tests ran on the host in place of the guest, and which ran nowhere.
fn elsewhere(lacking: &[String], on_host: &Report) -> String {
    let nowhere: BTreeSet<&str> = on_host.skipped().iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!(
        "    {} tests ran on the host and not in the guest, {} ran nowhere\n",
        lacking.len() - nowhere.len(),
        nowhere.len()
    );
    for name in lacking {
        let place = if nowhere.contains(name.as_str()) {
            "nowhere"
        } else {
            "on the host, not in the guest"
        };
        text.push_str(&format!("    ran {place}: {name}\n"));
    }
    text
}

/// The tests that ran under no identity.
fn lacking(expected: &[String], outcome: &Report) -> Vec<String> {
    let last_word = |name: &str| name.rsplit(' ').next().unwrap_or_default().to_owned();
    let ran: BTreeSet<String> = outcome.ran().map(last_word).collect();
    let lacks = expected.iter().filter(|name| !ran.contains(*name));
    lacks.cloned().collect()
}

/// The names of the tests; those that other tests start are none.
fn list(binary: &Path, filter: &str) -> Result<Vec<String>> {
    let names = |more: &[&str]| -> Result<BTreeSet<String>> {
        let mut list = Command::new(binary);
        list.arg(filter).args(["--list", "--format", "terse"]).args(more);
        let output = list.output().context("cannot start the sandbox's tests")?;
        ensure!(output.status.success(), "the sandbox's tests cannot be listed");
        let text = String::from_utf8_lossy(&output.stdout);
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    };
    let (all, ignored) = (names(&[])?, names(&["--ignored"])?);
    Ok(all.difference(&ignored).cloned().collect())
}

fn run_inside(guest: &Guest, (run, who): (&str, &str), filter: &str, expected: &[String]) -> Result<Report> {
    let words = format!("isms.run={run} isms.tests={filter}");
    let boot = Boot {
        words: &words,
        clock: Clock::Counted,
        processors: 1,
        silence_max: TEST_MAX,
        console: run,
    };
    let (mut output, mut done) = (String::new(), 0);
    let ending = guest.boot(&boot, |line| {
        if line.starts_with("test ") && line.contains(" ... ") {
            done += 1;
            eprintln!("    guest, {who}: {done}/{} {line}", expected.len());
        }
        output.push_str(line);
        output.push('\n');
    })?;
    let report = account(&output, &ending, expected);
    if !report.is_success() {
        eprintln!("{output}the guest's console is {}", guest.console(run).display());
    }
    Ok(report)
}

/// What came of each of the tests, by what a guest said.
fn account(output: &str, ending: &Ending, expected: &[String]) -> Report {
    let ended = output.contains("test result: ");
    let mut report = if ended {
        Report::from_libtest(output)
    } else {
        // Which of them were skipped is said after the last one only.
        Report::default()
    };
    let told: BTreeSet<String> = report
        .ran()
        .chain(report.skipped().iter().map(|(name, _)| name.as_str()))
        .map(str::to_owned)
        .collect();
    let running = ending
        .unfinished
        .strip_prefix("test ")
        .and_then(|line| line.split(' ').next());
    for name in expected.iter().filter(|name| !told.contains(*name)) {
        if running != Some(name) {
            report.add_failure(name);
        } else if ending.fell_silent {
            report.add_failure(format!("the guest fell silent in {name}"));
        } else {
            report.add_failure(format!("the guest ended in {name}"));
        }
    }
    if !ended && report.is_success() {
        report.add_failure("the tests did not end");
    }
    report
}

/// Runs tests on this machine; none where there are none.
fn run_here(binary: &Path, names: &[String]) -> Result<Report> {
    if names.is_empty() {
        return Ok(Report::default());
    }
    let mut tests = Command::new(binary);
    tests
        .args(["--exact", "--test-threads=1", "--show-output"])
        .args(names);
    let output = tests
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the sandbox's tests")?;
    let output = String::from_utf8_lossy(&output.stdout);
    let report = account(&output, &Ending::default(), names);
    if !report.is_success() {
        eprintln!("{output}");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
running 3 tests
test m::good ... ok
test m::lacks ... ok
test m::bad ... FAILED

successes:

---- m::lacks stdout ----
SKIPPED: no containers

test result: FAILED. 2 passed; 1 failed
";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_test_of_a_whole_run_has_passed_failed_or_a_reason() {
        let expected = names(&["m::bad", "m::good", "m::lacks"]);
        let report = account(WHOLE, &Ending::default(), &expected);
        assert_eq!(
            summary("guest:", &report),
            "    guest: skipped: m::lacks: no containers\n    guest: failed: m::bad\n    \
             guest: 1 passed, 1 failed, 1 skipped"
        );
        assert_eq!(
            lacking(&expected, &report.within("guest, as root:")),
            ["m::lacks"]
        );
    }

    #[test]
    fn a_test_that_was_never_told_of_has_failed() {
        let report = account(WHOLE, &Ending::default(), &names(&["m::good", "m::lost"]));
        assert_eq!(report.ran().collect::<Vec<_>>(), ["m::good", "m::bad", "m::lost"]);
    }

    #[test]
    fn a_guest_that_falls_silent_fails_what_it_was_doing_and_all_that_may_have_been_skipped() {
        let ending = Ending {
            fell_silent: true,
            unfinished: "test m::second ...".to_owned(),
        };
        let expected = names(&["m::first", "m::second", "m::third"]);
        let report = account("running 3 tests\ntest m::first ... ok\n", &ending, &expected);
        assert_eq!(
            report.to_string(),
            "failed: m::first\nfailed: the guest fell silent in m::second\nfailed: m::third\n\
             0 passed, 3 failed, 0 skipped"
        );
    }

    #[test]
    fn what_ran_nowhere_is_named_apart_from_what_ran_on_the_host() {
        let mut on_host = Report::default();
        on_host.add_passed("m::host");
        on_host.add_skipped("m::never", "no tool");
        assert_eq!(
            elsewhere(&names(&["m::host", "m::never"]), &on_host),
            "    1 tests ran on the host and not in the guest, 1 ran nowhere\n    \
             ran on the host, not in the guest: m::host\n    ran nowhere: m::never\n"
        );
    }
}
