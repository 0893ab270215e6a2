//! Tidy: the rules of the house that a machine can check. Fast, and without network.
//!
//! A rule is a test that collects every violation and names the place of each. An exception stands in
//! a table beside its rule, with a reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests may")]

mod commands;
mod dependencies;
mod documents;
mod licences;
mod rust_text;
mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders that hold nothing of the project's own.
const FOREIGN: [&str; 5] = ["target", ".git", "node_modules", "corpus", "artifacts"];

/// A text file of the repository.
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All text files whose extension is one of `extensions`, in order of path.
fn files(extensions: &[&str]) -> Vec<File> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    paths.sort();
    let wanted = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
    };
    let read = |path: PathBuf| File {
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    paths.into_iter().filter(wanted).map(read).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_file() {
            paths.push(entry.path());
        } else if kind.is_dir() && !FOREIGN.iter().any(|name| entry.file_name() == *name) {
            walk(&entry.path(), paths);
        }
    }
}

/// Fails with all violations of a rule.
#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}
