//! Why an executor did not start in an image: what it, its loader or the runtime said last, in words for the image's
//! maker.
//!
//! The words come from inside an image that somebody made up, so they are cut and cleaned before anybody reads them.

use std::ffi::c_int;

/// Bytes of last words that are looked at, and characters of them that are passed on.
pub(crate) const LEN_MAX: usize = 4096;
const PASSED_ON_MAX: usize = 300;

/// What is known of an executor that ended before it said anything.
pub(crate) fn explain(
    words: &[u8],
    code: Option<c_int>,
    signal: Option<c_int>,
    out_of_memory: bool,
) -> String {
    let words = clean(words);
    let reason = known(&words).unwrap_or_else(|| {
        let end = match (out_of_memory, signal, code) {
            (true, ..) => "it needs more memory than the worker has".to_owned(),
            (_, Some(signal), _) => format!("it was killed by signal {signal}"),
            (_, _, Some(code)) => format!("it exited with code {code}"),
            _ => "it ended".to_owned(),
        };
        match last_line(&words) {
            "" => end,
            line => format!("{end}; it said: {line}"),
        }
    });
    format!("the executor cannot start in this image: {reason}")
}

/// Sayings that have a meaning to the image's maker.
fn known(words: &str) -> Option<String> {
    if let Some((_, rest)) = words.split_once("error while loading shared libraries: ") {
        let library = rest.split(':').next().unwrap_or_default();
        return Some(format!("the image lacks the shared library {library}"));
    }
    if let Some((_, rest)) = words.split_once("version `") {
        let version = rest.split('\'').next().unwrap_or_default();
        return Some(format!(
            "its libraries are too old, they lack {version}; take a newer base for the image"
        ));
    }
    let (_, fatal) = words.split_once("FATAL:")?;
    let fatal = fatal.lines().next().unwrap_or_default().trim();
    // When exec says "no such file" although the file is there, the runtime looks at the image's shell for a reason.
    let is_about_exec = fatal.contains("/isms/doee-executor") || fatal.contains("for inspection");
    if is_about_exec && fatal.contains("no such file or directory") {
        return Some(
            "the image has no C library for it: its loader ld-linux is missing (glibc is needed)".to_owned(),
        );
    }
    if fatal.contains("exec format error") || fatal.contains("architecture") {
        return Some(format!("it is for another architecture ({fatal})"));
    }
    Some(fatal.to_owned())
}

fn last_line(words: &str) -> &str {
    words
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
}

/// Text with printable characters and line ends only, short.
fn clean(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let printable = text.chars().filter(|c| *c == '\n' || !c.is_control());
    let text: String = printable.collect();
    let start = text
        .char_indices()
        .rev()
        .nth(PASSED_ON_MAX - 1)
        .map_or(0, |(at, _)| at);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, code: c_int, reason: &str) {
        let said = explain(words.as_bytes(), Some(code), None, false);
        assert_eq!(said, format!("the executor cannot start in this image: {reason}"));
    }

    #[test]
    fn what_the_loader_and_the_runtime_say_is_told_in_plain_words() {
        check(
            "/isms/doee-executor: error while loading shared libraries: libgcc_s.so.1: cannot open shared object \
             file: No such file or directory\n",
            127,
            "the image lacks the shared library libgcc_s.so.1",
        );
        check(
            "/isms/doee-executor: /lib/libc.so.6: version `GLIBC_2.34' not found (required by /isms/doee-executor)\n",
            1,
            "its libraries are too old, they lack GLIBC_2.34; take a newer base for the image",
        );
        check(
            "FATAL:   exec /isms/doee-executor failed: no such file or directory\n",
            255,
            "the image has no C library for it: its loader ld-linux is missing (glibc is needed)",
        );
        check(
            "FATAL:   failed to open /bin/sh for inspection: failed to open elf binary /bin/sh: open /bin/sh: no such \
             file or directory\n",
            255,
            "the image has no C library for it: its loader ld-linux is missing (glibc is needed)",
        );
        check(
            "FATAL:   while opening image /run/image.sif: broken\n",
            255,
            "while opening image /run/image.sif: broken",
        );
    }

    #[test]
    fn without_a_known_saying_the_end_and_the_last_line_are_told() {
        check("", 3, "it exited with code 3");
        check("one\n two \n\n", 3, "it exited with code 3; it said: two");
        let killed = explain(b"", None, Some(9), false);
        assert!(killed.ends_with("it was killed by signal 9"), "{killed}");
        let hungry = explain(b"", None, Some(9), true);
        assert!(
            hungry.ends_with("it needs more memory than the worker has"),
            "{hungry}"
        );
    }

    #[test]
    fn hostile_words_are_cut_and_cleaned() {
        let said = explain(
            &[b"\x1b[2J\x07\xff".as_slice(), &[b'x'; LEN_MAX]].concat(),
            Some(1),
            None,
            false,
        );
        assert!(said.len() < 2 * PASSED_ON_MAX && !said.contains('\x1b'), "{said}");
    }
}
