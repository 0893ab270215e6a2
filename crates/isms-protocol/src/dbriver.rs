//! What DBriver receives, and its answers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

crate::service::operations! {
    /// Runs a [`Transaction`] (raw bytes or stream) in a database of the header's project; the reply's
    /// raw bytes or stream are [`Results`]. Checked against the grants of `calling_doee`. The body is the
    /// transaction's [`Sequence`], which is read only under [`crate::Flags::DURABLE`]; then `parent` is the call
    /// whose attempts may repeat it, and it takes effect once.
    Transaction = 1, "transaction";
    /// Creates a database of the header's project or brings it up to date: [`Prepare`] as raw bytes or stream;
    /// the reply's raw bytes are [`Prepared`].
    Prepare = 2, "prepare";
    /// Deletes all databases of the header's project. Empty body and reply.
    Drop = 3, "drop";
}

/// Which transaction of its call a [`Transaction`] is. Every attempt of a call that asks the same in the same
/// order gives the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Counts the call's transactions from 1, those that only read too.
    pub number: u32,
    /// The Doee had seen the answers of all transactions up to this number when it began this one: so how they
    /// ended may have decided what it asks. Less than `number`.
    pub settled: u32,
}

/// Statements that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// The database's name within the project.
    pub database: String,
    /// What to run, in order.
    pub statements: Vec<Statement>,
}

/// One SQL statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// One statement, with `?` for each parameter.
    pub sql: String,
    /// Values of the parameters.
    pub parameters: Vec<Value>,
    /// When set: rows that it must return or change; otherwise the transaction is rolled back with
    /// `ConditionFailed`.
    pub rows_demanded: Option<u64>,
}

/// The answer to a [`Transaction`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// One for each statement.
    pub results: Vec<StatementResult>,
}

/// The answer to one statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with a value for each column.
    pub rows: Vec<Vec<Value>>,
    /// Rows inserted, updated or deleted.
    pub rows_changed: u64,
}

/// A value of a parameter or a column.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// NULL.
    #[default]
    Null,
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Integer(value) => serializer.serialize_i64(*value),
            Value::Real(value) => serializer.serialize_f64(*value),
            Value::Text(value) => serializer.serialize_str(value),
            Value::Blob(value) => serializer.serialize_bytes(value),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl de::Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nil, a number, text or bytes")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom("integer exceeds 63 bits"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Blob(value.to_vec()))
    }
}

/// What a database must become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The database's name within the project.
    pub database: String,
    /// Disk that it may take.
    pub disk_mb: u32,
    /// All migrations, in order. Those applied before must be the same to the letter.
    pub migrations: Vec<Migration>,
}

/// The answer to a [`Prepare`]: what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// True when the database was not there before.
    pub created: bool,
    /// Migrations that were applied now.
    pub applied: u32,
}

/// One step of a database's schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// File name.
    pub name: String,
    /// Statements.
    pub sql: String,
}

/// What a Doee version may use; Resadmin's answer to `resadmin::Operation::Grants`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Databases of its own project that it may use.
    pub databases: Vec<String>,
    /// Servers outside that it may send HTTP requests to, each as [`crate::HostPort`] spells it.
    // Left out where there is none, so that what was recorded before has the same bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<String>,
}
