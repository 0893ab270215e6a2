//! Decides which SQL a Doee may run, before SQLite sees it.
//!
//! The argument, since no authorizer is available without unsafe code: SQLite executes one statement
//! for each first keyword, and nothing dangerous nests inside another statement (ATTACH, DETACH,
//! PRAGMA, VACUUM and the transaction commands are statements of their own; a trigger's body holds
//! only SELECT, INSERT, UPDATE and DELETE). So it suffices to know surely where statements begin.
//! [`token`] reads as SQLite's tokenizer does and refuses whatever could make the two disagree;
//! a first keyword outside of the allow-list is refused; so is a second statement.
//! Names that reach into SQLite (`pragma_…` table functions) or into DBriver's bookkeeping are refused
//! wherever they stand, quoted or not.
//!
//! It does not judge whether a statement is valid: SQLite does.

mod token;

use token::{BadToken, Token, TokenError, tokens};

/// Prefix of the tables that belong to DBriver.
pub(crate) const RESERVED_PREFIX: &str = "_isms_";

/// Names that no statement may hold.
const FORBIDDEN_NAMES: [&str; 7] = [
    "load_extension",
    "fts3_tokenizer",
    "dbstat",
    "sqlite_dbpage",
    "sqlite_dbdata",
    // The schema, in which DBriver's own tables stand.
    "sqlite_master",
    "sqlite_schema",
];
/// Beginnings of names that no statement may hold.
const FORBIDDEN_PREFIXES: [&str; 2] = ["pragma_", RESERVED_PREFIX];

/// Whether a statement can change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It only reads; it runs on a connection that cannot write.
    Read,
    /// It may write.
    Write {
        /// It returns rows of what it has written.
        returning: bool,
    },
}

/// What is known of a statement of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Whether it can change anything.
    pub(crate) access: Access,
    /// Its `?`.
    pub(crate) parameters: usize,
}

/// Why a statement is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it holds no statement")]
    Empty,
    #[error("it holds more than one statement; send them as several statements of one transaction")]
    Several,
    #[error(
        "{keyword} is not allowed; a transaction may SELECT, VALUES, INSERT, REPLACE, UPDATE, DELETE and WITH, \
         it begins and commits by itself, and the schema is changed by migrations"
    )]
    Keyword { keyword: String },
    #[error(
        "{keyword} is not allowed in a migration; it may CREATE, ALTER and DROP tables, indexes, views and \
         triggers, and INSERT, REPLACE, UPDATE, DELETE, SELECT and WITH"
    )]
    MigrationKeyword { keyword: String },
    /// In SQLite's words, which never gets to see it.
    #[error("near \"{word}\": syntax error")]
    Syntax { word: String },
    /// The same.
    #[error("incomplete input")]
    Incomplete,
    #[error("the name {name} is reserved")]
    Name { name: String },
    #[error("temporary tables are not available")]
    Temporary,
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A refusal of a migration's statement, and the byte of the migration at which the reason stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) offset: usize,
    pub(crate) reason: Refusal,
}

/// The first keyword of each statement that SQLite knows. What begins otherwise is a mistake and no attempt.
const STATEMENT_KEYWORDS: [&str; 22] = [
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEGIN",
    "COMMIT",
    "CREATE",
    "DELETE",
    "DETACH",
    "DROP",
    "END",
    "EXPLAIN",
    "INSERT",
    "PRAGMA",
    "REINDEX",
    "RELEASE",
    "REPLACE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "UPDATE",
    "VACUUM",
    "VALUES",
];
/// What may follow CREATE, DROP or ALTER in SQLite.
const OBJECT_KEYWORDS: [&str; 8] = [
    "TABLE",
    "INDEX",
    "UNIQUE",
    "VIEW",
    "TRIGGER",
    "VIRTUAL",
    "TEMP",
    "TEMPORARY",
];

/// Judges a statement of a transaction.
pub(crate) fn classify(sql: &str) -> Result<Shape, Refusal> {
    let tokens = tokens(sql).map_err(|bad| bad.reason)?;
    let end = tokens
        .iter()
        .position(|token| token.is_semicolon())
        .unwrap_or(tokens.len());
    if tokens[end..].iter().any(|token| !token.is_semicolon()) {
        return Err(if end == 0 {
            Refusal::Empty
        } else {
            Refusal::Several
        });
    }
    let statement = &tokens[..end];
    check_names(statement)?;
    let keyword = first_keyword(statement)?;
    let access = match keyword.as_str() {
        "SELECT" | "VALUES" => Access::Read,
        "INSERT" | "REPLACE" | "UPDATE" | "DELETE" => write_access(statement),
        "WITH" => access_of_with(statement),
        _ => return Err(misspelt(statement[0].text()).unwrap_or(Refusal::Keyword { keyword })),
    };
    let parameters = statement
        .iter()
        .filter(|token| matches!(token, Token::Parameter { .. }))
        .count();
    Ok(Shape { access, parameters })
}

/// Cuts a migration into its statements, each with the byte at which it begins, and judges them.
pub(crate) fn split_migration(sql: &str) -> Result<Vec<(usize, &str)>, Refused> {
    let tokens = tokens(sql).map_err(|BadToken { offset, reason }| Refused {
        offset,
        reason: reason.into(),
    })?;
    let mut statements = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some(first) = rest.iter().position(|token| !token.is_semicolon()) {
        rest = &rest[first..];
        let end = statement_end(rest);
        let (statement, after) = rest.split_at(end);
        let (start, stop) = (statement[0].start(), statement[statement.len() - 1].end());
        check_migration_statement(statement).map_err(|reason| Refused {
            offset: start,
            reason,
        })?;
        statements.push((start, &sql[start..stop]));
        rest = after;
    }
    Ok(statements)
}

/// The token at which a statement ends. A trigger ends at `; END`, everything else at `;`.
fn statement_end(tokens: &[Token<'_>]) -> usize {
    let trigger =
        tokens.iter().take(4).any(|token| token.is_keyword("TRIGGER")) && tokens[0].is_keyword("CREATE");
    let is_end = |index: usize| {
        tokens[index].is_semicolon()
            && (!trigger
                || index >= 2 && tokens[index - 1].is_keyword("END") && tokens[index - 2].is_semicolon())
    };
    (0..tokens.len())
        .find(|index| is_end(*index))
        .unwrap_or(tokens.len())
}

fn check_migration_statement(statement: &[Token<'_>]) -> Result<(), Refusal> {
    check_names(statement)?;
    if let Some(Token::Parameter { .. }) = statement
        .iter()
        .find(|token| matches!(token, Token::Parameter { .. }))
    {
        return Err(TokenError::Character { character: '?' }.into());
    }
    let keyword = first_keyword(statement)?;
    let second = statement
        .get(1)
        .and_then(Token::word)
        .unwrap_or_default()
        .to_ascii_uppercase();
    match (keyword.as_str(), second.as_str()) {
        ("CREATE", "TEMP" | "TEMPORARY") => Err(Refusal::Temporary),
        ("CREATE", "TABLE" | "INDEX" | "UNIQUE" | "VIEW" | "TRIGGER")
        | ("DROP", "TABLE" | "INDEX" | "VIEW" | "TRIGGER")
        | ("ALTER", "TABLE")
        | ("INSERT" | "REPLACE" | "UPDATE" | "DELETE" | "SELECT" | "WITH", _) => Ok(()),
        ("CREATE" | "DROP" | "ALTER", _) => Err(match statement.get(1) {
            None => Refusal::Incomplete,
            Some(token) if !OBJECT_KEYWORDS.contains(&second.as_str()) => Refusal::Syntax {
                word: token.text().to_owned(),
            },
            Some(_) => Refusal::MigrationKeyword {
                keyword: format!("{keyword} {second}"),
            },
        }),
        _ => Err(misspelt(statement[0].text()).unwrap_or(Refusal::MigrationKeyword { keyword })),
    }
}

/// What SQLite would say of a statement that begins with a word that begins none. Only of plain letters: it skips a
/// byte order mark, for instance, and would see the word behind it.
fn misspelt(first: &str) -> Option<Refusal> {
    let keyword = first.to_ascii_uppercase();
    let known = STATEMENT_KEYWORDS.contains(&keyword.as_str()) || keyword == "WITH";
    let plain = first
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (plain && !known).then(|| Refusal::Syntax {
        word: first.to_owned(),
    })
}

fn first_keyword(statement: &[Token<'_>]) -> Result<String, Refusal> {
    let first = statement.first().ok_or(Refusal::Empty)?;
    let word = first.word().ok_or_else(|| Refusal::Keyword {
        keyword: first.text().to_owned(),
    })?;
    Ok(word.to_ascii_uppercase())
}

/// The verb after the common table expressions, which stand in parentheses. A table expression that
/// is itself called `replace` reads as a write, which costs a place in the writer's queue and no more.
fn access_of_with(statement: &[Token<'_>]) -> Access {
    let mut depth = 0_usize;
    for token in statement {
        match token {
            Token::Open { .. } => depth += 1,
            Token::Close { .. } => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ if ["SELECT", "VALUES"].iter().any(|verb| token.is_keyword(verb)) => return Access::Read,
            _ if ["INSERT", "REPLACE", "UPDATE", "DELETE"]
                .iter()
                .any(|verb| token.is_keyword(verb)) =>
            {
                return write_access(statement);
            }
            _ => {}
        }
    }
    write_access(statement)
}

/// Anything called `returning` reads as the clause, which costs a group commit of its own and no more.
fn write_access(statement: &[Token<'_>]) -> Access {
    Access::Write {
        returning: statement.iter().any(|token| token.is_keyword("RETURNING")),
    }
}

fn check_names(statement: &[Token<'_>]) -> Result<(), Refusal> {
    for (index, token) in statement.iter().enumerate() {
        let Some(name) = token.name() else { continue };
        let lower = name.to_ascii_lowercase();
        if FORBIDDEN_NAMES.contains(&lower.as_str())
            || FORBIDDEN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        {
            return Err(Refusal::Name { name: lower });
        }
        if matches!(
            lower.as_str(),
            "temp" | "sqlite_temp_master" | "sqlite_temp_schema"
        ) && (lower != "temp" || statement.get(index + 1).is_some_and(Token::is_dot))
        {
            return Err(Refusal::Temporary);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
