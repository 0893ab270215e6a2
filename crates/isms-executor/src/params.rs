//! The manifest's `params`, as the ABI shows them.

use isms_doee_sys as sys;
use isms_protocol::doer::Parameter;

use crate::sql::{bytes_value, integer_value, real_value};

/// Entries that point into what is kept beside them.
pub(crate) struct Params {
    entries: Vec<sys::Param>,
    _named: Vec<(String, Parameter)>,
}

impl Params {
    pub(crate) fn new(named: Vec<(String, Parameter)>) -> Params {
        let entry = |(name, value): &(String, Parameter)| sys::Param {
            name: sys::Text::of(name.as_bytes()),
            value: match value {
                Parameter::Integer(value) => integer_value(*value),
                Parameter::Real(value) => real_value(*value),
                Parameter::Boolean(value) => sys::Value {
                    kind: sys::KIND_BOOLEAN,
                    ..integer_value(i64::from(*value))
                },
                Parameter::Text(value) => bytes_value(sys::KIND_TEXT, value.as_bytes()),
            },
        };
        Params {
            entries: named.iter().map(entry).collect(),
            _named: named,
        }
    }

    /// The entries; good while the worker lives.
    pub(crate) fn entries(&self) -> &[sys::Param] {
        &self.entries
    }
}
