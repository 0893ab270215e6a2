//! SQL on its way to DBriver and back, without owned copies of the values.
//!
//! A transaction is encoded straight from what the Doee points to. Results are decoded into arrays of
//! ABI values that point into the received bytes, which are kept beside them.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use isms_doee_sys as sys;
use isms_protocol::limits::{SQL_PARAMETERS_MAX, SQL_STATEMENTS_MAX};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::SQL_TRANSACTION_LEN_MAX;
use crate::refusal::Refusal;

/// `dbriver::Transaction`, borrowed.
#[derive(Serialize)]
pub(crate) struct Transaction<'a> {
    pub(crate) database: &'a str,
    pub(crate) statements: Vec<Statement<'a>>,
}

/// `dbriver::Statement`, borrowed.
#[derive(Serialize)]
pub(crate) struct Statement<'a> {
    pub(crate) sql: &'a str,
    pub(crate) parameters: Vec<Value<'a>>,
    pub(crate) rows_demanded: Option<u64>,
}

/// `dbriver::Value`, borrowed.
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl Serialize for Value<'_> {
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

impl Transaction<'_> {
    /// Encodes the transaction, within the limits.
    pub(crate) fn encode(&self) -> Result<Bytes, Refusal> {
        let encoded = isms_protocol::encode(self);
        if encoded.len() > SQL_TRANSACTION_LEN_MAX {
            return Err(Refusal::limit(format!(
                "a transaction has at most {SQL_TRANSACTION_LEN_MAX} bytes"
            )));
        }
        Ok(encoded.into())
    }
}

/// Checks the number of statements of a transaction.
pub(crate) fn check_statements(count: usize) -> Result<(), Refusal> {
    match count {
        0 => Err(Refusal::invalid("a transaction has at least one statement")),
        1..=SQL_STATEMENTS_MAX => Ok(()),
        _ => Err(Refusal::limit(format!(
            "a transaction has at most {SQL_STATEMENTS_MAX} statements"
        ))),
    }
}

/// Checks the number of parameters of a statement.
pub(crate) fn check_parameters(count: usize) -> Result<(), Refusal> {
    if count > SQL_PARAMETERS_MAX {
        return Err(Refusal::limit(format!(
            "a statement has at most {SQL_PARAMETERS_MAX} parameters"
        )));
    }
    Ok(())
}

/// The results of a transaction, as the Doee sees them.
pub(crate) struct Results {
    statements: Vec<StatementRows>,
    /// What the pointers in `statements` point into.
    _received: Bytes,
}

struct StatementRows {
    columns: Vec<sys::Text>,
    values: Vec<sys::Value>,
    row_count: usize,
    rows_changed: u64,
}

impl Results {
    /// Decodes `dbriver::Results` of a transaction of `statement_count` statements.
    pub(crate) fn decode(received: Bytes, statement_count: usize) -> Result<Results, Refusal> {
        let nonsense = |_| Refusal::new(sys::INTERNAL, "the database's answer cannot be read");
        let wire: WireResults = rmp_serde::from_slice(&received).map_err(nonsense)?;
        let statements = wire
            .results
            .into_iter()
            .map(StatementRows::new)
            .collect::<Option<Vec<_>>>();
        match statements {
            Some(statements) if statements.len() == statement_count => Ok(Results {
                statements,
                _received: received,
            }),
            _ => Err(Refusal::new(
                sys::INTERNAL,
                "the database's answer does not fit the transaction",
            )),
        }
    }

    /// What one statement returned. The pointers are good while these results live.
    pub(crate) fn rows(&self, statement: usize) -> Option<sys::Rows> {
        let rows = self.statements.get(statement)?;
        Some(sys::Rows {
            rows_changed: rows.rows_changed,
            row_count: rows.row_count,
            column_count: rows.columns.len(),
            columns: rows.columns.as_ptr(),
            values: rows.values.as_ptr(),
        })
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Results")
            .field("statements", &self.statements.len())
            .finish_non_exhaustive()
    }
}

impl StatementRows {
    /// `None` when a row has another width than the columns.
    fn new(wire: WireStatement<'_>) -> Option<StatementRows> {
        let columns: Vec<_> = wire
            .columns
            .iter()
            .map(|name| sys::Text::of(name.as_bytes()))
            .collect();
        if wire.rows.values.len() != wire.rows.count.checked_mul(columns.len())? || wire.rows.ragged {
            return None;
        }
        let WireRows {
            values,
            count: row_count,
            ..
        } = wire.rows;
        Some(StatementRows {
            columns,
            values,
            row_count,
            rows_changed: wire.rows_changed,
        })
    }
}

#[derive(Deserialize)]
struct WireResults<'a> {
    #[serde(borrow)]
    results: Vec<WireStatement<'a>>,
}

#[derive(Deserialize)]
struct WireStatement<'a> {
    #[serde(borrow)]
    columns: Vec<&'a str>,
    #[serde(borrow)]
    rows: WireRows<'a>,
    rows_changed: u64,
}

/// All rows in one array, so that a row costs no allocation.
#[derive(Default)]
struct WireRows<'a> {
    values: Vec<sys::Value>,
    count: usize,
    width: usize,
    ragged: bool,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'de: 'a, 'a> Deserialize<'de> for WireRows<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireRows<'a>, D::Error> {
        deserializer.deserialize_seq(RowsVisitor).map(|rows| WireRows {
            borrowed: PhantomData,
            ..rows
        })
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = WireRows<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<WireRows<'de>, A::Error> {
        let mut rows = WireRows::default();
        while let Some(width) = sequence.next_element_seed(RowSeed(&mut rows.values))? {
            rows.ragged |= rows.count > 0 && width != rows.width;
            rows.width = width;
            rows.count += 1;
        }
        Ok(rows)
    }
}

/// Appends a row's values; yields its width.
struct RowSeed<'a>(&'a mut Vec<sys::Value>);

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = usize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<usize, A::Error> {
        let mut width = 0;
        while let Some(WireValue(value)) = sequence.next_element()? {
            self.0.push(value);
            width += 1;
        }
        Ok(width)
    }
}

/// Makes a value of the ABI that points to the given bytes.
pub(crate) fn integer_value(value: i64) -> sys::Value {
    sys::Value {
        kind: sys::KIND_INTEGER,
        reserved: 0,
        value: sys::ValueAs { integer: value },
    }
}

/// As [`integer_value`], for a number with a fraction.
pub(crate) fn real_value(value: f64) -> sys::Value {
    sys::Value {
        kind: sys::KIND_REAL,
        reserved: 0,
        value: sys::ValueAs { real: value },
    }
}

/// As [`integer_value`], for text and blobs; the bytes must outlive every use.
pub(crate) fn bytes_value(kind: u32, bytes: &[u8]) -> sys::Value {
    sys::Value {
        kind,
        reserved: 0,
        value: sys::ValueAs {
            text: sys::Text::of(bytes),
        },
    }
}

struct WireValue(sys::Value);

impl<'de> Deserialize<'de> for WireValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireValue, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(WireValue)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = sys::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nil, a number, text or bytes")
    }

    fn visit_unit<E: de::Error>(self) -> Result<sys::Value, E> {
        Ok(sys::Value {
            kind: sys::KIND_NULL,
            ..integer_value(0)
        })
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<sys::Value, E> {
        Ok(integer_value(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<sys::Value, E> {
        i64::try_from(value)
            .map(integer_value)
            .map_err(|_| E::custom("integer exceeds 63 bits"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<sys::Value, E> {
        Ok(real_value(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<sys::Value, E> {
        Ok(bytes_value(sys::KIND_TEXT, value.as_bytes()))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, value: &'de [u8]) -> Result<sys::Value, E> {
        Ok(bytes_value(sys::KIND_BLOB, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isms_protocol::dbriver;

    #[test]
    fn a_borrowed_transaction_encodes_as_the_protocols_own() {
        let owned = dbriver::Transaction {
            database: "readings".into(),
            statements: vec![dbriver::Statement {
                sql: "insert into t values (?, ?, ?, ?, ?)".into(),
                parameters: vec![
                    dbriver::Value::Null,
                    dbriver::Value::Integer(-7),
                    dbriver::Value::Real(0.5),
                    dbriver::Value::Text("é".into()),
                    dbriver::Value::Blob(vec![0, 255]),
                ],
                rows_demanded: Some(1),
            }],
        };
        let borrowed = Transaction {
            database: "readings",
            statements: vec![Statement {
                sql: "insert into t values (?, ?, ?, ?, ?)",
                parameters: vec![
                    Value::Null,
                    Value::Integer(-7),
                    Value::Real(0.5),
                    Value::Text("é"),
                    Value::Blob(&[0, 255]),
                ],
                rows_demanded: Some(1),
            }],
        };
        assert_eq!(borrowed.encode(), Ok(Bytes::from(isms_protocol::encode(&owned))));
    }

    fn results(rows: Vec<Vec<dbriver::Value>>) -> Bytes {
        let columns = vec!["a".into(), "b".into()];
        let result = dbriver::StatementResult {
            columns,
            rows,
            rows_changed: 3,
        };
        isms_protocol::encode(&dbriver::Results {
            results: vec![result],
        })
        .into()
    }

    #[test]
    fn results_are_laid_out_row_after_row() {
        let row = |first, second| vec![dbriver::Value::Integer(first), dbriver::Value::Text(second)];
        let bytes = results(vec![row(1, "x".into()), row(2, "y".into())]);
        let decoded = Results::decode(bytes, 1).unwrap();
        let rows = decoded.rows(0).unwrap();
        assert_eq!((rows.rows_changed, rows.row_count, rows.column_count), (3, 2, 2));
        let kinds: Vec<_> = decoded.statements[0]
            .values
            .iter()
            .map(|value| value.kind)
            .collect();
        assert_eq!(
            kinds,
            [
                sys::KIND_INTEGER,
                sys::KIND_TEXT,
                sys::KIND_INTEGER,
                sys::KIND_TEXT
            ]
        );
        assert!(decoded.rows(1).is_none());
    }

    #[test]
    fn ragged_truncated_and_foreign_results_are_refused() {
        let ragged = results(vec![vec![dbriver::Value::Null], vec![dbriver::Value::Null; 3]]);
        assert!(Results::decode(ragged, 1).is_err());
        let whole = results(vec![vec![dbriver::Value::Null; 2]]);
        assert!(Results::decode(whole.clone(), 2).is_err());
        for len in 0..whole.len() {
            assert!(Results::decode(whole.slice(..len), 1).is_err(), "{len}");
        }
        let huge = Bytes::from_static(&[0x91, 0xdd, 0xff, 0xff, 0xff, 0xff]);
        assert!(Results::decode(huge, 1).is_err());
    }
}
