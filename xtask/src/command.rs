//! Child processes: run one, read one, and say exactly what was run when it fails.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A command of cargo's, the one that runs xtask, in the repository's root.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    // Set for xtask's own package by `cargo run`; cargo must not think that they are the child's.
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
        "CARGO_PKG_VERSION",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command with this process's output; its failure is an error that quotes it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = quote(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// True when a command starts and succeeds; what it says is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A command as a shell would read it.
pub(crate) fn quote(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quote_word(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("apt-get");
        command.args(["install", "g++", "it's", ""]);
        assert_eq!(quote(&command), r"apt-get install g++ 'it'\''s' ''");
    }

    #[test]
    fn a_failing_command_is_named_in_its_error() {
        let error = run(&mut Command::new("false")).unwrap_err().to_string();
        assert_eq!(error, "`false` failed: exit status: 1");
        let error = run(&mut Command::new("/does/not/exist")).unwrap_err().to_string();
        assert_eq!(error, "cannot start `/does/not/exist`");
    }
}
