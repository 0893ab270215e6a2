//! Just enough of Rust's grammar for the rules: code without comments and literals, and functions.

/// Replaces comments and the insides of literals by spaces; lines and byte offsets stay.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < code.len() {
        let end = literal_end(text.as_bytes(), at);
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(code).unwrap()
}

/// The end of the comment or literal that starts at `at`; `at` itself when none does.
fn literal_end(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    let find = |needle: &[u8], from: usize| {
        let found = rest[from..]
            .windows(needle.len())
            .position(|window| window == needle);
        found.map_or(text.len(), |offset| at + from + offset + needle.len())
    };
    match rest {
        [b'/', b'/', ..] => find(b"\n", 2) - 1,
        [b'/', b'*', ..] => find(b"*/", 2),
        [b'r', b'"' | b'#', ..] if !starts_inside_word(text, at) => {
            raw_string_end(rest).map_or(at, |end| at + end)
        }
        [b'"', ..] => at + quoted_len(rest, b'"'),
        [b'\'', b'\\', ..] => at + quoted_len(rest, b'\''),
        [b'\'', ..] => at + char_len(rest),
        _ => at,
    }
}

fn starts_inside_word(text: &[u8], at: usize) -> bool {
    // `br"…"` is a raw string as well; any other letter before the `r` makes it a name.
    at > 0 && is_word(text[at - 1]) && !(text[at - 1] == b'b' && (at < 2 || !is_word(text[at - 2])))
}

fn raw_string_end(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let body = &rest[2 + hashes..];
    let found = body.windows(close.len()).position(|window| window == close);
    Some(found.map_or(rest.len(), |offset| 2 + hashes + offset + close.len()))
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a char literal; 0 for a lifetime.
fn char_len(rest: &[u8]) -> usize {
    let closes = |len: usize| rest.get(len) == Some(&b'\'');
    (2..=5)
        .find(|len| closes(*len))
        .filter(|len| *len == 2 || rest[1] >= 0x80)
        .map_or(0, |len| len + 1)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// True when `word` stands in `code` as a word of its own.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    word_offsets(code, word).next().is_some()
}

/// Offsets at which `word` stands as a word of its own.
pub(crate) fn word_offsets<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).is_none_or(|before| !is_word(bytes[before]));
        before && bytes.get(at + word.len()).is_none_or(|after| !is_word(*after))
    })
}

/// A function with a body: its name, its first line (from 1) and its length in lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) len: usize,
}

/// All functions of a file; `code` comes from [`code_only`].
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let line_of = |offset: usize| code[..offset].matches('\n').count() + 1;
    let function = |start: usize| {
        let name: String = code[start + 2..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let end = body_end(code, start)?;
        let line = line_of(start);
        (!name.is_empty()).then(|| Function {
            name,
            line,
            len: line_of(end) - line + 1,
        })
    };
    word_offsets(code, "fn").filter_map(function).collect()
}

/// The offset of the brace that closes the body of the function that starts at `start`.
fn body_end(code: &str, start: usize) -> Option<usize> {
    let (mut nesting, mut braces) = (0, 0);
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting -= 1,
            b';' if braces == 0 && nesting == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces <= 0 {
                    return (braces == 0).then_some(offset);
                }
            }
            _ => {}
        }
    }
    None
}

/// The part of a file that is not its unit tests.
pub(crate) fn without_unit_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap()
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "let a = \"fn {\\\" x\"; // fn\nlet b = '{'; /* { */ let c = r#\"}\"#; fn f<'a>() {}";
    let code = code_only(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(
        code.split_whitespace().collect::<String>(),
        "leta=;letb=;letc=;fnf<'a>(){}"
    );
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "trait T { fn no_body(&self); }\nfn one() {}\nfn three(a: [u8; 2]) {\n  if x { }\n}\ntype F = fn(u8);\n";
    let function = |name: &str, line, len| Function {
        name: name.to_owned(),
        line,
        len,
    };
    assert_eq!(
        functions(&code_only(text)),
        [function("one", 2, 1), function("three", 3, 3)]
    );
}

#[test]
fn a_word_is_not_a_part_of_a_longer_one() {
    assert!(has_word("unsafe { }", "unsafe"));
    assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
}
