//! Values between the protocol and SQLite, without loss in either direction.

use isms_protocol::dbriver::Value;
use sqlx::{
    Decode, Row, Sqlite, TypeInfo, ValueRef,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// Adds a parameter to a query.
pub(crate) fn bind(
    query: Query<'_, Sqlite, SqliteArguments>,
    value: Value,
) -> Query<'_, Sqlite, SqliteArguments> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Blob(value) => query.bind(value),
    }
}

/// Reads a row by the types of its values; the columns' declared types have no say.
pub(crate) fn read_row(row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
    (0..row.len()).map(|column| read_value(row, column)).collect()
}

/// Bytes that a value takes in an answer, a few more at most.
pub(crate) fn encoded_len(value: &Value) -> usize {
    const HEAD_LEN: usize = 9;
    HEAD_LEN
        + match value {
            Value::Null | Value::Integer(_) | Value::Real(_) => 0,
            Value::Text(value) => value.len(),
            Value::Blob(value) => value.len(),
        }
}

fn read_value(row: &SqliteRow, column: usize) -> Result<Value, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(Value::Null);
    }
    let storage = value.type_info().name().to_owned();
    match storage.as_str() {
        "INTEGER" => Decode::<Sqlite>::decode(value).map(Value::Integer),
        "REAL" => Decode::<Sqlite>::decode(value).map(Value::Real),
        "TEXT" => Decode::<Sqlite>::decode(value).map(Value::Text),
        _ => Decode::<Sqlite>::decode(value).map(Value::Blob),
    }
    .map_err(sqlx::Error::Decode)
}
