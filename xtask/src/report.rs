//! Counts tests: reads what the test runners say, keeps the names of what failed and was skipped.
//!
//! A test that lacks a tool or a privilege prints a line that starts with `SKIPPED: ` to stderr and
//! returns. The runners call that passed; here it is counted apart, with its reason.

use std::{collections::BTreeMap, fmt};

const MARKER: &str = "SKIPPED: ";

/// The outcome of tests and checks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Names of tests that passed and did what they are for.
    passed: Vec<String>,
    /// Names of tests and checks that failed.
    failed: Vec<String>,
    /// Names of tests that could not run, with their reasons.
    skipped: Vec<(String, String)>,
}

impl Report {
    /// Adds a check that is not a test, such as a build, and failed.
    pub(crate) fn add_failure(&mut self, name: impl Into<String>) {
        self.failed.push(name.into());
    }

    /// The three counts.
    pub(crate) fn counts(&self) -> String {
        let [passed, failed, skipped] = [self.passed.len(), self.failed.len(), self.skipped.len()];
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Adds a test that passed.
    pub(crate) fn add_passed(&mut self, name: &str) {
        self.passed.push(name.to_owned());
    }

    /// Adds a test that could not run.
    pub(crate) fn add_skipped(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// The same with every name behind that of the place where the tests ran.
    pub(crate) fn within(mut self, place: &str) -> Report {
        let skipped = self.skipped.iter_mut().map(|(name, _)| name);
        for name in self.passed.iter_mut().chain(&mut self.failed).chain(skipped) {
            *name = format!("{place} {name}");
        }
        self
    }

    /// Adds the outcome of other tests.
    pub(crate) fn add(&mut self, other: Report) {
        self.passed.extend(other.passed);
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Names of tests that did what they are for, whatever came of it.
    pub(crate) fn ran(&self) -> impl Iterator<Item = &str> {
        self.passed.iter().chain(&self.failed).map(String::as_str)
    }

    /// Names of tests that could not run, with their reasons.
    pub(crate) fn skipped(&self) -> &[(String, String)] {
        &self.skipped
    }

    /// The same as if nothing had been skipped.
    pub(crate) fn without_skipped(mut self) -> Report {
        self.skipped.clear();
        self
    }

    /// The same with the outcome of other tests.
    pub(crate) fn with(mut self, other: Report) -> Report {
        self.add(other);
        self
    }

    /// True when nothing failed.
    pub(crate) fn is_success(&self) -> bool {
        self.failed.is_empty()
    }

    /// Reads nextest's JUnit report, outputs of passing tests included.
    pub(crate) fn from_junit(xml: &str) -> Report {
        let mut report = Report::default();
        for case in xml.split("<testcase ").skip(1) {
            let case = case.split("</testcase>").next().unwrap_or(case);
            let name = format!("{} {}", attribute(case, "classname"), attribute(case, "name"));
            if case.contains("<failure") || case.contains("<error") {
                report.failed.push(name);
            } else if let Some(reason) = case.split(['\n', '>']).find_map(skip_reason) {
                report.skipped.push((name, unescape(&reason)));
            } else {
                report.passed.push(name);
            }
        }
        report
    }

    /// Reads what `cargo test -- --show-output` prints; any number of test binaries in a row.
    pub(crate) fn from_libtest(output: &str) -> Report {
        let mut report = Report::default();
        let mut run = LibtestRun::default();
        for line in output.lines() {
            if line.starts_with("test result: ") {
                report.add(std::mem::take(&mut run).into_report());
            } else {
                run.read(line);
            }
        }
        report.add(run.into_report());
        report
    }
}

impl fmt::Display for Report {
    /// Lists what was skipped and what failed; the last line holds the three counts alone.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, reason) in &self.skipped {
            writeln!(formatter, "skipped: {name}: {reason}")?;
        }
        for name in &self.failed {
            writeln!(formatter, "failed: {name}")?;
        }
        formatter.write_str(&self.counts())
    }
}

/// One test binary's output, as far as it has been read.
#[derive(Default)]
struct LibtestRun {
    verdicts: BTreeMap<String, String>,
    reasons: BTreeMap<String, String>,
    showing: Option<String>,
}

impl LibtestRun {
    fn read(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.showing = Some(name.to_owned());
        } else if let (Some(name), Some(reason)) = (&self.showing, skip_reason(line)) {
            self.reasons.insert(name.clone(), reason);
        } else if self.showing.is_none()
            && let Some((name, verdict)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.rsplit_once(" ... "))
        {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            self.verdicts.insert(name.to_owned(), verdict.to_owned());
        }
    }

    fn into_report(self) -> Report {
        let mut report = Report::default();
        for (name, verdict) in self.verdicts {
            match (verdict.as_str(), self.reasons.get(&name)) {
                ("ok", None) => report.passed.push(name),
                ("ok", Some(reason)) => report.skipped.push((name, reason.clone())),
                // Not a test but the other process of one (tidy allows no other use); nextest leaves it out too.
                (ignored, _) if ignored.starts_with("ignored") => {}
                _ => report.failed.push(name),
            }
        }
        report
    }
}

/// The reason in a line that says so. The runner may have written `test name ... ` before it.
fn skip_reason(line: &str) -> Option<String> {
    let line = match line.split_once(" ... ") {
        Some((start, rest)) if start.starts_with("test ") => rest,
        _ => line,
    };
    line.trim_start()
        .strip_prefix(MARKER)
        .map(|reason| reason.trim_end().to_owned())
}

fn attribute(case: &str, name: &str) -> String {
    let start = format!(" {name}=\"");
    let padded = format!(" {case}");
    let rest = padded.split_once(&start).map(|(_, rest)| rest);
    let value = rest.and_then(|rest| rest.split_once('"')).map(|(value, _)| value);
    unescape(value.unwrap_or("?"))
}

fn unescape(xml: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(xml.to_owned(), |text, (entity, character)| {
        text.replace(entity, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(name: &str, reason: &str) -> (String, String) {
        (name.to_owned(), reason.to_owned())
    }

    #[test]
    fn a_junit_report_is_counted_by_what_the_tests_said() {
        let xml = r#"<?xml version="1.0"?>
<testsuites name="run" tests="5" failures="1"><testsuite name="a::it" tests="4">
  <testcase name="m::good" classname="a::it" time="0.1"><system-out>fine</system-out></testcase>
  <testcase name="m::plain" classname="a::it" time="0.1"/>
  <testcase name="m::lacks" classname="a::it"><system-err>SKIPPED: no pyzmq
</system-err></testcase>
  <testcase name="m::lacks_too" classname="a::it"><system-out>
running 1 test
test m::lacks_too ... SKIPPED: not &quot;root&quot; &amp; co
</system-out></testcase>
  <testcase name="m::bad" classname="a::it"><failure type="x">SKIPPED: no</failure></testcase>
</testsuite></testsuites>"#;
        let expected = Report {
            passed: vec!["a::it m::good".into(), "a::it m::plain".into()],
            failed: vec!["a::it m::bad".into()],
            skipped: vec![
                skipped("a::it m::lacks", "no pyzmq"),
                skipped("a::it m::lacks_too", "not \"root\" & co"),
            ],
        };
        assert_eq!(Report::from_junit(xml), expected);
    }

    #[test]
    fn the_output_of_cargo_test_is_counted_over_all_binaries() {
        let output = "\
running 3 tests
test m::good ... ok
test m::lacks ... ok
test m::child ... ignored, is started by another test

successes:

---- m::lacks stdout ----
SKIPPED: no pyzmq

successes:
    m::good

test result: ok. 2 passed; 0 failed; 1 ignored

running 2 tests
test m::good - should panic ... ok
test m::bad ... FAILED

failures:

---- m::bad stdout ----
test that ... went wrong

test result: FAILED. 1 passed; 1 failed
";
        let expected = Report {
            passed: vec!["m::good".into(), "m::good".into()],
            failed: vec!["m::bad".into()],
            skipped: vec![skipped("m::lacks", "no pyzmq")],
        };
        assert_eq!(Report::from_libtest(output), expected);
    }

    #[test]
    fn the_last_line_holds_the_counts_alone() {
        let mut report = Report {
            passed: vec!["b".into(), "c".into()],
            failed: Vec::new(),
            skipped: vec![skipped("a", "no b")],
        };
        assert!(report.is_success());
        report.add_failure("clippy");
        assert!(!report.is_success());
        assert_eq!(
            report.to_string(),
            "skipped: a: no b\nfailed: clippy\n2 passed, 1 failed, 1 skipped"
        );
    }
}
