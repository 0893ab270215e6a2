//! Rules about the text of the sources.

use crate::{
    File, assert_none, files,
    rust_text::{code_only, functions, has_word, without_unit_tests, word_offsets},
};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 100;

/// Files and functions (`path::function`) that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[];

/// Where unsafe code may stand: system calls, the executor's foreign calls, the ABI, and the promise that tokio asks
/// for about a descriptor that it watches.
const UNSAFE: &[&str] = &[
    "crates/isms-sandbox/",
    "crates/isms-executor/",
    "sdk/",
    "crates/isms-ipc/src/connection/socket.rs",
];

/// Tests that may pause, each with the reason: a party that is slow on purpose, or a pause between two
/// looks at something that tells nobody when it changes; never a guess of how long something takes.
const PAUSES: &[(&str, &str)] = &[(
    "crates/isms-http/tests/it/limits.rs",
    "plays a handler that is slow",
)];

/// Files with an ignored test that is the other process of a test beside it, each with the reason.
const CHILDREN: &[(&str, &str)] = &[
    (
        "crates/isms-dbriver/tests/it/durability.rs",
        "holds the writer that a test kills",
    ),
    (
        "crates/isms-dbriver/tests/it/killed.rs",
        "holds the caller and the DBriver that its tests kill",
    ),
    (
        "crates/isms-journal/tests/it/durability.rs",
        "holds the journal that a test kills",
    ),
    (
        "crates/isms-sandbox/tests/it/isolation.rs",
        "holds the ordinary user's process that a test starts",
    ),
    (
        "crates/isms-sandbox/tests/it/platform.rs",
        "holds the spawner's process that tests start",
    ),
    ("crates/isms/src/role.rs", "holds the role that a test lets panic"),
    (
        "crates/isms/tests/it/disk_full.rs",
        "holds the processes that mount a small disk",
    ),
];

/// Extensions of files that people write.
const TEXT: &[&str] = &[
    "rs", "toml", "md", "c", "h", "hpp", "cpp", "py", "sql", "sh", "json", "svelte", "ts",
];

fn is_test(file: &File) -> bool {
    file.path.contains("/tests/") || file.path.ends_with("/tests.rs")
}

/// Violations of a rule that looks at one Rust file.
fn rust_violations(rule: impl Fn(&File) -> Vec<String>) -> Vec<String> {
    files(&["rs"]).iter().flat_map(rule).collect()
}

#[test]
fn every_rust_file_says_what_it_is_for() {
    let violations = rust_violations(|file| {
        if file.text.starts_with("//!") {
            Vec::new()
        } else {
            vec![file.path.clone()]
        }
    });
    assert_none(
        "a file opens with `//!`: what for, invariants, what it does not do",
        &violations,
    );
}

#[test]
fn files_are_short_enough_to_read_at_once() {
    let violations = rust_violations(|file| {
        let lines = without_unit_tests(&file.text).lines().count();
        let long = lines > FILE_LINES_MAX && !is_test(file) && !is_listed(LONG, &file.path);
        if long {
            vec![format!("{} has {lines} lines", file.path)]
        } else {
            Vec::new()
        }
    });
    assert_none(
        &format!("a file has at most {FILE_LINES_MAX} lines; split it by meaning"),
        &violations,
    );
}

#[test]
fn functions_are_short_enough_to_see_at_once() {
    let violations = rust_violations(|file| {
        let code = code_only(without_unit_tests(&file.text));
        let long = functions(&code).into_iter().filter(|function| {
            function.len > FUNCTION_LINES_MAX
                && !is_test(file)
                && !is_listed(LONG, &format!("{}::{}", file.path, function.name))
        });
        long.map(|it| format!("{}:{} {} has {} lines", file.path, it.line, it.name, it.len))
            .collect()
    });
    assert_none(
        &format!("a function has at most {FUNCTION_LINES_MAX} lines"),
        &violations,
    );
}

#[test]
fn modules_have_names_that_mean_something() {
    let violations = rust_violations(|file| {
        let name = file.path.rsplit('/').next().unwrap();
        let empty = ["mod.rs", "utils.rs", "util.rs", "misc.rs", "helpers.rs"].contains(&name);
        if empty {
            vec![file.path.clone()]
        } else {
            Vec::new()
        }
    });
    assert_none(
        "no mod.rs (use name.rs beside name/), no utils.rs (say what is in it)",
        &violations,
    );
}

#[test]
fn no_macro_for_debugging_or_for_later_is_left() {
    let violations = rust_violations(|file| {
        let code = code_only(&file.text);
        let is_used =
            |name: &&str| word_offsets(&code, name).any(|at| code[at + name.len()..].starts_with('!'));
        let used = ["dbg", "todo", "unimplemented"].into_iter().filter(is_used);
        used.map(|name| format!("{}: {name}!", file.path)).collect()
    });
    assert_none("no dbg!, todo!, unimplemented!", &violations);
}

#[test]
fn no_note_to_oneself_is_left() {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let violations = lines_with(|line| notes.iter().any(|note| has_word(line, note)));
    assert_none("do it, or file it", &violations);
}

#[test]
fn no_file_knows_the_machine_on_which_it_was_written() {
    let folders = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    assert_none(
        "no paths of a machine",
        &lines_with(|line| {
            folders
                .iter()
                .any(|folder| line.match_indices(folder).any(|(at, _)| starts_path(line, at)))
        }),
    );
}

/// True when the slash at `at` begins an absolute path rather than continuing another one.
fn starts_path(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    !before.is_some_and(|c| c.is_alphanumeric() || "_-.}/>".contains(c))
}

#[test]
fn unsafe_code_stands_only_where_it_must() {
    let violations = rust_violations(|file| {
        let allowed = UNSAFE.iter().any(|folder| file.path.starts_with(folder));
        if !allowed && has_word(&code_only(&file.text), "unsafe") {
            vec![file.path.clone()]
        } else {
            Vec::new()
        }
    });
    assert_none(
        &format!("unsafe code belongs in {}", UNSAFE.join(", ")),
        &violations,
    );
}

#[test]
fn tests_wait_for_events_and_never_sleep() {
    let violations = rust_violations(|file| {
        let unit_tests = &file.text[without_unit_tests(&file.text).len()..];
        let code = code_only(if is_test(file) { &file.text } else { unit_tests });
        let sleeps = has_word(&code, "sleep") && !is_listed(PAUSES, &file.path);
        if sleeps {
            vec![file.path.clone()]
        } else {
            Vec::new()
        }
    });
    assert_none(
        "a test waits for an event with a deadline, or advances the clock",
        &violations,
    );
}

#[test]
fn no_test_is_switched_off() {
    let violations = rust_violations(|file| {
        let off = code_only(&file.text).contains("#[ignore") && !is_listed(CHILDREN, &file.path);
        if off { vec![file.path.clone()] } else { Vec::new() }
    });
    assert_none(
        "a test that lacks something prints `SKIPPED: reason` and returns",
        &violations,
    );
}

#[test]
fn every_crate_takes_lints_and_licence_from_the_workspace() {
    let required = [
        "\n[lints]\nworkspace = true\n",
        "\nversion.workspace = true\n",
        "\nedition.workspace = true\n",
        "\nrust-version.workspace = true\n",
        "\nlicense.workspace = true\n",
        "\npublish.workspace = true\n",
        "\ndescription = \"",
    ];
    let violations: Vec<String> = files(&["toml"])
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/"))
        .flat_map(|file| {
            let missing = required.iter().filter(|line| !file.text.contains(*line));
            missing
                .map(|line| format!("{}: {}", file.path, line.trim().replace('\n', " ")))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none("a Cargo.toml lacks a line", &violations);
}

/// `path:line` of every line of the project's text files for which `is_wrong` holds.
fn lines_with(is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files(TEXT) {
        let lines = file.text.lines().enumerate().filter(|(_, line)| is_wrong(line));
        violations
            .extend(lines.map(|(number, line)| format!("{}:{}: {}", file.path, number + 1, line.trim())));
    }
    violations
}

fn is_listed(exceptions: &[(&str, &str)], name: &str) -> bool {
    exceptions.iter().any(|(listed, _)| *listed == name)
}
