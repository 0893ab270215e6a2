//! Reads SQL as SQLite's tokenizer does (`tokenize.c`), as far as statement boundaries and names ask.
//!
//! What SQLite would take differently, or not at all, is an error here: NUL and other control
//! characters, named and numbered parameters (`$name(…)` may hide a quote), open strings and comments.

use std::borrow::Cow;

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or name without quotes, or a number.
    Word { text: &'a str, start: usize },
    /// A string or a quoted name; SQLite takes each for the other where it can.
    Quoted {
        text: &'a str,
        start: usize,
        content: Cow<'a, str>,
    },
    /// `?`.
    Parameter { start: usize },
    /// `(`.
    Open { start: usize },
    /// `)`.
    Close { start: usize },
    /// `;`.
    Semicolon { start: usize },
    /// Any other single character.
    Other { text: &'a str, start: usize },
}

/// Why text is not SQL that this reader takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("a string or quoted name that starts with {quote} does not end")]
    OpenQuote { quote: char },
    #[error("a comment that starts with /* does not end")]
    OpenComment,
    #[error("the character {character:?} is not allowed here; parameters are written ?")]
    Character { character: char },
    #[error("numbered parameters are not available; parameters are written ?")]
    NumberedParameter,
}

/// A [`TokenError`] and the byte at which it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadToken {
    pub(super) offset: usize,
    pub(super) reason: TokenError,
}

impl<'a> Token<'a> {
    pub(super) fn is_semicolon(&self) -> bool {
        matches!(self, Token::Semicolon { .. })
    }

    pub(super) fn is_dot(&self) -> bool {
        matches!(self, Token::Other { text: ".", .. })
    }

    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        self.word().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }

    /// The text of an unquoted word.
    pub(super) fn word(&self) -> Option<&'a str> {
        match self {
            Token::Word { text, .. } => Some(text),
            _ => None,
        }
    }

    /// What the token names, if it names anything.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Token::Word { text, .. } => Some(text),
            Token::Quoted { content, .. } => Some(content),
            _ => None,
        }
    }

    /// The token as written.
    pub(super) fn text(&self) -> &'a str {
        match self {
            Token::Word { text, .. } | Token::Quoted { text, .. } | Token::Other { text, .. } => text,
            Token::Parameter { .. } => "?",
            Token::Open { .. } => "(",
            Token::Close { .. } => ")",
            Token::Semicolon { .. } => ";",
        }
    }

    /// Offset of its first byte.
    pub(super) fn start(&self) -> usize {
        match self {
            Token::Word { start, .. }
            | Token::Quoted { start, .. }
            | Token::Parameter { start }
            | Token::Open { start }
            | Token::Close { start }
            | Token::Semicolon { start }
            | Token::Other { start, .. } => *start,
        }
    }

    /// Offset after its last byte.
    pub(super) fn end(&self) -> usize {
        self.start() + self.text().len()
    }
}

/// Reads all tokens.
pub(super) fn tokens(sql: &str) -> Result<Vec<Token<'_>>, BadToken> {
    if let Some(offset) = sql.find('\0') {
        let reason = TokenError::Character { character: '\0' };
        return Err(BadToken { offset, reason });
    }
    let bad = |offset| move |reason| BadToken { offset, reason };
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(character) = sql[start..].chars().next() {
        let rest = &sql[start..];
        let len = match character {
            ' ' | '\t' | '\n' | '\r' | '\x0c' => 1,
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_len(rest).map_err(bad(start))?,
            _ => {
                let token = token(character, rest, start).map_err(bad(start))?;
                let len = token.text().len();
                tokens.push(token);
                len
            }
        };
        start += len;
    }
    Ok(tokens)
}

fn comment_len(rest: &str) -> Result<usize, TokenError> {
    rest[2..]
        .find("*/")
        .map(|end| end + 4)
        .ok_or(TokenError::OpenComment)
}

fn token(character: char, rest: &str, start: usize) -> Result<Token<'_>, TokenError> {
    match character {
        '\'' | '"' | '`' => quoted(character, rest, start),
        '[' => {
            let end = rest.find(']').ok_or(TokenError::OpenQuote { quote: '[' })?;
            Ok(Token::Quoted {
                text: &rest[..=end],
                start,
                content: Cow::Borrowed(&rest[1..end]),
            })
        }
        '?' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
            Err(TokenError::NumberedParameter)
        }
        '?' => Ok(Token::Parameter { start }),
        '(' => Ok(Token::Open { start }),
        ')' => Ok(Token::Close { start }),
        ';' => Ok(Token::Semicolon { start }),
        '.' | ',' | '+' | '-' | '*' | '/' | '%' | '=' | '<' | '>' | '!' | '|' | '&' | '~' => {
            Ok(Token::Other {
                text: &rest[..1],
                start,
            })
        }
        _ if continues_word(character) && character != '$' => {
            let end = rest.find(|next| !continues_word(next)).unwrap_or(rest.len());
            Ok(Token::Word {
                text: &rest[..end],
                start,
            })
        }
        _ => Err(TokenError::Character { character }),
    }
}

/// A string or name in quotes, in which a doubled quote stands for itself.
fn quoted(quote: char, rest: &str, start: usize) -> Result<Token<'_>, TokenError> {
    let bytes = rest.as_bytes();
    let mut end = 1;
    let mut doubled = false;
    loop {
        match bytes.get(end) {
            None => return Err(TokenError::OpenQuote { quote }),
            Some(byte) if *byte != quote as u8 => end += 1,
            Some(_) if bytes.get(end + 1) == Some(&(quote as u8)) => {
                doubled = true;
                end += 2;
            }
            Some(_) => break,
        }
    }
    let inside = &rest[1..end];
    let content = match doubled {
        true => Cow::Owned(inside.replace(&format!("{quote}{quote}"), &quote.to_string())),
        false => Cow::Borrowed(inside),
    };
    Ok(Token::Quoted {
        text: &rest[..=end],
        start,
        content,
    })
}

/// SQLite's `IdChar`: letters, digits, `_`, `$` and everything beyond ASCII.
fn continues_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '$') || !character.is_ascii()
}
