//! Decodes transactions so that hostile bytes cost no more memory than the limits allow: a list is
//! read to its limit and one further, never into a vector of the announced or a tenfold size.

use std::{fmt, marker::PhantomData};

use isms_protocol::{
    DecodeError, ErrorCode, WireError,
    dbriver::{Migration, Prepare, Sequence, Statement, Value},
    limits::{NAME_LEN_MAX, SQL_PARAMETERS_MAX, SQL_STATEMENTS_MAX},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess},
};
use sha2::{Digest, Sha256};

use crate::{
    config::{MIGRATIONS_MAX, SQL_LEN_MAX},
    database::CheckedStatement,
    error::DatabaseError,
    sql::classify,
};

/// A checked transaction.
pub(crate) struct CheckedTransaction {
    pub(crate) database: String,
    pub(crate) statements: Vec<CheckedStatement>,
}

impl CheckedTransaction {
    /// Tells apart what transactions ask for. Taken of their meaning and not of the bytes that came, since a later
    /// release may spell the same otherwise, and a durable call outlives an upgrade.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut text = |tag: u8, bytes: &[u8]| {
            hash.update([tag]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        text(0, self.database.as_bytes());
        for (statement, _) in &self.statements {
            text(1, statement.sql.as_bytes());
            for value in &statement.parameters {
                match value {
                    Value::Null => text(2, &[]),
                    Value::Integer(value) => text(3, &value.to_le_bytes()),
                    Value::Real(value) => text(4, &value.to_bits().to_le_bytes()),
                    Value::Text(value) => text(5, value.as_bytes()),
                    Value::Blob(value) => text(6, value),
                }
            }
            if let Some(rows) = statement.rows_demanded {
                text(7, &rows.to_le_bytes());
            }
        }
        hash.finalize().into()
    }
}

#[derive(Deserialize)]
struct BoundedTransaction {
    database: String,
    statements: Bounded<BoundedStatement, SQL_STATEMENTS_MAX>,
}

#[derive(Deserialize)]
struct BoundedStatement {
    sql: String,
    parameters: Bounded<Value, SQL_PARAMETERS_MAX>,
    rows_demanded: Option<u64>,
}

#[derive(Deserialize)]
struct BoundedPrepare {
    database: String,
    disk_mb: u32,
    migrations: Bounded<Migration, MIGRATIONS_MAX>,
}

/// Decodes and checks a transaction.
pub(crate) fn transaction(payload: &[u8]) -> Result<CheckedTransaction, WireError> {
    let decoded: BoundedTransaction = isms_protocol::decode(payload).map_err(|error| undecodable(&error))?;
    check_name(&decoded.database)?;
    let statements = decoded.statements.into_vec("statements in a transaction")?;
    if statements.is_empty() {
        return Err(WireError::new(
            ErrorCode::Invalid,
            "the transaction has no statement",
        ));
    }
    let statements = statements
        .into_iter()
        .enumerate()
        .map(|(index, statement)| check(index + 1, statement));
    Ok(CheckedTransaction {
        database: decoded.database,
        statements: statements.collect::<Result<_, _>>()?,
    })
}

/// Decodes and checks which transaction of its call one is.
pub(crate) fn sequence(body: &[u8]) -> Result<Sequence, WireError> {
    let sequence: Sequence = isms_protocol::decode(body).map_err(|error| undecodable(&error))?;
    // Every number from 1 has one before it up to which all can be settled.
    if sequence.settled >= sequence.number {
        let message = "a transaction's number is above that of those settled before";
        return Err(WireError::new(ErrorCode::Invalid, message));
    }
    Ok(sequence)
}

/// Decodes and checks the request to prepare a database.
pub(crate) fn prepare(payload: &[u8]) -> Result<Prepare, WireError> {
    let decoded: BoundedPrepare = isms_protocol::decode(payload).map_err(|error| undecodable(&error))?;
    check_name(&decoded.database)?;
    let migrations = decoded.migrations.into_vec("migrations")?;
    Ok(Prepare {
        database: decoded.database,
        disk_mb: decoded.disk_mb,
        migrations,
    })
}

fn check(number: usize, statement: BoundedStatement) -> Result<CheckedStatement, WireError> {
    let BoundedStatement {
        sql,
        parameters,
        rows_demanded,
    } = statement;
    if sql.len() > SQL_LEN_MAX {
        let message =
            format!("statement {number} is longer than {SQL_LEN_MAX} bytes; send values as parameters");
        return Err(WireError::new(ErrorCode::TooLarge, message));
    }
    let parameters = parameters.into_vec("parameters in a statement")?;
    let shape = classify(&sql).map_err(|reason| DatabaseError::Refused {
        statement: number,
        reason,
    })?;
    if shape.parameters != parameters.len() {
        let (expected, received) = (shape.parameters, parameters.len());
        return Err(DatabaseError::Parameters {
            statement: number,
            expected,
            received,
        }
        .into());
    }
    Ok((
        Statement {
            sql,
            parameters,
            rows_demanded,
        },
        shape.access,
    ))
}

/// Checks a database's name: `[a-z][a-z0-9-]*`, at most 63 bytes. It becomes a file's name.
fn check_name(name: &str) -> Result<(), WireError> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    let rest_is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if starts_well && rest_is_plain && name.len() <= NAME_LEN_MAX {
        return Ok(());
    }
    Err(WireError::new(
        ErrorCode::Invalid,
        "a database's name is [a-z][a-z0-9-]*, at most 63 characters",
    ))
}

fn undecodable(error: &DecodeError) -> WireError {
    let cause = std::error::Error::source(error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    WireError::new(
        ErrorCode::Invalid,
        format!("the request cannot be decoded{cause}"),
    )
}

/// A list of which at most one element more than the limit is kept.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Bounded<T, MAX> {
    fn into_vec(self, what: &str) -> Result<Vec<T>, WireError> {
        if self.0.len() > MAX {
            return Err(WireError::new(
                ErrorCode::TooLarge,
                format!("more than {MAX} {what}; split it"),
            ));
        }
        Ok(self.0)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bounded<T, MAX>, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Bounded<T, MAX>, A::Error> {
        let mut elements = Vec::new();
        while elements.len() <= MAX {
            match sequence.next_element()? {
                Some(element) => elements.push(element),
                None => return Ok(Bounded(elements)),
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Bounded(elements))
    }
}
