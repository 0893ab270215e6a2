//! What ran and what was skipped in each kind of run, so that several runs together can be seen to skip nothing.
//!
//! No run can show everything: one on the host has no control groups of version 2, one in a guest no compiler. Each
//! keeps below the target directory what it ran; only runs of the same files are looked at together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{report::Report, workspace};

/// The binary whose tests run in a guest as well, as nextest calls it.
const SANDBOX: &str = "isms-sandbox::it";

/// One run, by the names of its tests.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// What identifies the files that were tested.
    files: String,
    ran: BTreeSet<String>,
    /// With their reasons.
    skipped: BTreeMap<String, String>,
}

/// Keeps what came of a run of that name. Returns what, by all kept runs of the same files, was skipped in each run that
/// could have had it: a line of its own each, then the line `skipped everywhere: N`.
pub(crate) fn keep(run: &str, report: &Report) -> String {
    match write_and_compare(run, report) {
        Ok(text) => text,
        Err(error) => format!("skipped everywhere: unknown, {error:#}"),
    }
}

fn write_and_compare(run: &str, report: &Report) -> Result<String> {
    let folder = workspace::target().join("ledger");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let record = Record::of(report, files()?);
    let path = folder.join(format!("{run}.json"));
    let text = serde_json::to_string_pretty(&record).context("a record is JSON")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(compare(&of_the_same_files(&folder, &record.files)?))
}

impl Record {
    fn of(report: &Report, files: String) -> Record {
        let skipped = report.skipped().iter();
        Record {
            files,
            ran: report.ran().map(name).collect(),
            skipped: skipped
                .map(|(test, reason)| (name(test), reason.clone()))
                .collect(),
        }
    }
}

/// A test's name wherever it ran. In a guest, and beside one, the sandbox's tests run, of which the place is told first.
fn name(test: &str) -> String {
    match test.rsplit_once(": ") {
        Some((place, name)) if place.starts_with("guest, ") || place == "host" => format!("{SANDBOX} {name}"),
        _ => test.to_owned(),
    }
}

fn of_the_same_files(folder: &Path, files: &str) -> Result<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // One of another version of this file is as good as none.
        if let Ok(record) = serde_json::from_str::<Record>(&text)
            && record.files == files
        {
            let run = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            records.insert(run, record);
        }
    }
    Ok(records)
}

fn compare(records: &BTreeMap<String, Record>) -> String {
    let ran: BTreeSet<&String> = records.values().flat_map(|record| &record.ran).collect();
    let skipped: BTreeMap<&String, &String> = records.values().flat_map(|record| &record.skipped).collect();
    let everywhere: Vec<_> = skipped.iter().filter(|(test, _)| !ran.contains(*test)).collect();
    let mut text = String::new();
    for (test, reason) in &everywhere {
        text.push_str(&format!("skipped everywhere: {test}: {reason}\n"));
    }
    let runs: Vec<&str> = records.keys().map(String::as_str).collect();
    text.push_str(&format!(
        "skipped everywhere: {} (in {})",
        everywhere.len(),
        runs.join(" and ")
    ));
    text
}

/// Identifies the files of the repository as they are, committed or not; pages of documentation run nowhere.
fn files() -> Result<String> {
    let list = git(&["ls-files", "-co", "--exclude-standard", "--", ":!*.md"], "")?;
    // Those that were removed are still listed.
    let present: Vec<&str> = list
        .lines()
        .filter(|path| workspace::root().join(path).is_file())
        .collect();
    let paths = present.join("\n") + "\n";
    let hashes = git(&["hash-object", "--stdin-paths"], &paths)?;
    let whole = git(&["hash-object", "--stdin"], &(paths + &hashes))?;
    Ok(whole.trim().to_owned())
}

fn git(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(workspace::root()).args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start git")?;
    let mut stdin = child.stdin.take().context("git has no input")?;
    let input = input.to_owned();
    // Beside reading: git answers before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().context("cannot read what git says")?;
    let written = writer.join().is_ok_and(|written| written.is_ok());
    ensure!(written && output.status.success(), "git {arguments:?} failed");
    String::from_utf8(output.stdout).context("git says what is no text")
}

/// Forgets what a run of that name was; one that breaks off leaves nothing to be believed.
pub(crate) fn forget(run: &str) {
    let path: PathBuf = workspace::target().join(format!("ledger/{run}.json"));
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ran: &[&str], skipped: &[(&str, &str)]) -> Record {
        let mut report = Report::default();
        ran.iter().for_each(|test| report.add_passed(test));
        skipped
            .iter()
            .for_each(|(test, reason)| report.add_skipped(test, reason));
        Record::of(&report, "files".to_owned())
    }

    #[test]
    fn what_one_run_skips_and_another_runs_is_not_skipped_everywhere() {
        let host = record(
            &["isms-sandbox::it m::a", "isms::it m::b"],
            &[
                ("guest", "no hardware virtualisation"),
                ("isms-sandbox::it m::b", "no root"),
                ("isms::it m::c", "no tool"),
            ],
        );
        let guest = record(
            &["guest", "guest, as root: m::b"],
            &[("host: m::a", "no compiler")],
        );
        let records = BTreeMap::from([("guest".to_owned(), guest), ("test".to_owned(), host)]);
        assert_eq!(
            compare(&records),
            "skipped everywhere: isms::it m::c: no tool\nskipped everywhere: 1 (in guest and test)"
        );
    }

    #[test]
    fn a_test_of_the_same_name_in_another_crate_is_another_test() {
        let host = record(&["isms::it m::a"], &[("isms-sandbox::it m::a", "no root")]);
        let records = BTreeMap::from([("test".to_owned(), host)]);
        assert!(compare(&records).ends_with("skipped everywhere: 1 (in test)"));
    }

    #[test]
    fn runs_of_other_files_and_damaged_records_are_not_looked_at() {
        let folder = std::env::temp_dir().join(format!("isms-xtask-ledger-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let written = [("old", "other"), ("new", "files")];
        for (run, files) in written {
            let record = Record {
                files: files.to_owned(),
                ..Record::default()
            };
            fs::write(
                folder.join(format!("{run}.json")),
                serde_json::to_string(&record).unwrap(),
            )
            .unwrap();
        }
        fs::write(folder.join("damaged.json"), "{").unwrap();
        let records = of_the_same_files(&folder, "files").unwrap();
        assert_eq!(records.keys().collect::<Vec<_>>(), ["new"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_files_of_the_repository_have_an_identity() {
        if git(&["rev-parse", "HEAD"], "").is_err() {
            eprintln!("SKIPPED: the sources are no repository of git's");
            return;
        }
        let identity = files().unwrap();
        assert!(identity.len() >= 40 && identity == files().unwrap(), "{identity}");
    }
}
