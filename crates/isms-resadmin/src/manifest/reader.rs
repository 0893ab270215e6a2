//! Typed access to TOML that knows the line and the full key of everything.

use std::fmt::Write;

use isms_protocol::{doer::Parameter, limits::NAME_LEN_MAX};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{MANIFEST_LEN_MAX, ManifestError};

/// Length of a path in a manifest.
const PATH_LEN_MAX: usize = 200;

/// A parsed document and its text.
pub(super) struct Manifest<'a> {
    text: &'a str,
    document: Spanned<DeTable<'a>>,
}

impl<'a> Manifest<'a> {
    pub(super) fn new(text: &'a str) -> Result<Manifest<'a>, ManifestError> {
        if text.len() > MANIFEST_LEN_MAX {
            let message = format!("is {} bytes long; {MANIFEST_LEN_MAX} are allowed", text.len());
            return Err(ManifestError {
                line: 1,
                key: "project.toml".to_owned(),
                message,
            });
        }
        let document = DeTable::parse(text).map_err(|error| ManifestError {
            line: line(text, error.span().map_or(0, |span| span.start)),
            key: "syntax".to_owned(),
            message: error.message().replace('\n', ", "),
        })?;
        Ok(Manifest { text, document })
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section {
            text: self.text,
            path: String::new(),
            start: 0,
            table: self.document.get_ref(),
        }
    }
}

/// A table.
#[derive(Clone)]
pub(super) struct Section<'a> {
    text: &'a str,
    path: String,
    start: usize,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// The last part of its key.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Fails on the first key that is not known; `later` ones are told to come, and may be empty.
    pub(super) fn check_keys(&self, known: &[&str], later: &[&str]) -> Result<(), ManifestError> {
        for item in self.items() {
            let key = item.key();
            if known.contains(&key) || later.contains(&key) && item.is_empty() {
                continue;
            }
            if later.contains(&key) {
                return Err(item.error("is not supported yet; leave it out"));
            }
            return Err(item.error(&format!("is not a known key; allowed: {}", known.join(", "))));
        }
        Ok(())
    }

    /// All entries, in the order of the file.
    pub(super) fn items(&self) -> Vec<Item<'a>> {
        let mut items: Vec<(usize, Item<'a>)> = self
            .table
            .iter()
            .map(|(key, value)| {
                (
                    key.span().start,
                    self.item(key.get_ref(), key.span().start, value),
                )
            })
            .collect();
        items.sort_by_key(|(start, _)| *start);
        items.into_iter().map(|(_, item)| item).collect()
    }

    pub(super) fn optional(&self, key: &str) -> Option<Item<'a>> {
        let (found, value) = self.table.iter().find(|(found, _)| found.get_ref() == key)?;
        Some(self.item(found.get_ref(), found.span().start, value))
    }

    pub(super) fn required(&self, key: &str) -> Result<Item<'a>, ManifestError> {
        self.optional(key).ok_or_else(|| self.error(key, "is missing"))
    }

    pub(super) fn integer(&self, key: &str, min: i64, max: i64, default: i64) -> Result<i64, ManifestError> {
        self.optional(key)
            .map_or(Ok(default), |item| item.integer(min, max))
    }

    /// An error about a key of this section, or about the section where it has no such key.
    pub(super) fn error(&self, key: &str, message: &str) -> ManifestError {
        match self.optional(key) {
            Some(item) => item.error(message),
            None => manifest_error(self.text, self.start, &join(&self.path, key), message),
        }
    }

    /// An error about the section itself.
    pub(super) fn error_here(&self, message: &str) -> ManifestError {
        manifest_error(self.text, self.start, &self.path, message)
    }

    fn item(&self, key: &str, start: usize, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        Item {
            text: self.text,
            path: join(&self.path, key),
            key: key.to_owned(),
            start,
            value,
        }
    }
}

/// A key with its value, or an element of an array.
#[derive(Clone)]
pub(super) struct Item<'a> {
    text: &'a str,
    path: String,
    key: String,
    start: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Item<'a> {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn key_len(&self) -> usize {
        self.key.len()
    }

    pub(super) fn error(&self, message: &str) -> ManifestError {
        manifest_error(self.text, self.start, &self.path, message)
    }

    pub(super) fn section(&self) -> Result<Section<'a>, ManifestError> {
        let table = self
            .value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong_type("a table"))?;
        Ok(Section {
            text: self.text,
            path: self.path.clone(),
            start: self.start,
            table,
        })
    }

    /// The elements of an array, numbered from 1 in their keys.
    pub(super) fn array(&self) -> Result<Vec<Item<'a>>, ManifestError> {
        let array = self
            .value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong_type("a list"))?;
        let element = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Item {
            text: self.text,
            path: format!("{}[{}]", self.path, index + 1),
            key: self.key.clone(),
            start: value.span().start,
            value,
        };
        Ok(array.iter().enumerate().map(element).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, ManifestError> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type("text"))
    }

    pub(super) fn name(&self) -> Result<String, ManifestError> {
        let name = self.text()?;
        if is_name(name) {
            return Ok(name.to_owned());
        }
        Err(self.error(&format!("{name:?} is not a name; {NAME_RULE}")))
    }

    /// Checks that the key itself is a name.
    pub(super) fn check_name(&self) -> Result<(), ManifestError> {
        match is_name(&self.key) {
            true => Ok(()),
            false => Err(self.error(&format!("{:?} is not a name; {NAME_RULE}", self.key))),
        }
    }

    /// A path below the project's folder, without `.` and `..`.
    pub(super) fn path(&self) -> Result<String, ManifestError> {
        let path = self.text()?;
        let plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
        if path.len() <= PATH_LEN_MAX && path.split('/').all(plain) {
            return Ok(path.to_owned());
        }
        Err(self.error(&format!(
            "{path:?} is not a path; write it relative to the project's folder, like \"doees/x\""
        )))
    }

    /// A path of the host: absolute, below `below`, in its one spelling.
    pub(super) fn host_path(&self, below: &str) -> Result<String, ManifestError> {
        let path = self.text()?;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let parts = path.strip_prefix('/').filter(|_| path.starts_with(below));
        match parts {
            Some(parts)
                if path.len() <= PATH_LEN_MAX
                    && parts.split('/').all(plain)
                    && !path.contains(char::is_control) =>
            {
                Ok(path.to_owned())
            }
            _ => Err(self.error(&format!(
                "{path:?} is not allowed; write an absolute path below {below}, without . and .., at most \
                 {PATH_LEN_MAX} bytes"
            ))),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, ManifestError> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    pub(super) fn integer(&self, min: i64, max: i64) -> Result<i64, ManifestError> {
        let value = self
            .whole_number()
            .ok_or_else(|| self.wrong_type("a whole number"))?;
        match value {
            Some(value) if (min..=max).contains(&value) => Ok(value),
            Some(value) => Err(self.error(&format!("is {value}; allowed: {min} to {max}"))),
            None => Err(self.error(&format!("is beyond 64 bits; allowed: {min} to {max}"))),
        }
    }

    pub(super) fn one_of<T: Copy>(&self, allowed: &[(&str, T)], later: &[&str]) -> Result<T, ManifestError> {
        let text = self.text()?;
        if let Some((_, value)) = allowed.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let mut message = match later.contains(&text) {
            true => format!("{text:?} is not supported yet; allowed:"),
            false => format!("{text:?} is not known; allowed:"),
        };
        for (index, (name, _)) in allowed.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(message, "{comma} {name:?}").ok();
        }
        Err(self.error(&message))
    }

    pub(super) fn parameter(&self) -> Result<Parameter, ManifestError> {
        Ok(match self.value.get_ref() {
            DeValue::String(text) => Parameter::Text(text.clone().into_owned()),
            DeValue::Boolean(value) => Parameter::Boolean(*value),
            DeValue::Float(value) => {
                Parameter::Real(value.as_str().parse().map_err(|_| self.wrong_type("a number"))?)
            }
            DeValue::Integer(_) => Parameter::Integer(self.integer(i64::MIN, i64::MAX)?),
            _ => return Err(self.wrong_type("a number, text, true or false")),
        })
    }

    /// The error that a name refers to nothing.
    pub(super) fn unknown_name<'b>(
        &self,
        name: &str,
        kind: &str,
        known: impl Iterator<Item = &'b str>,
    ) -> ManifestError {
        let known: Vec<&str> = known.collect();
        let known = if known.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there are: {}", known.join(", "))
        };
        self.error(&format!("no [{kind}.{name}] exists; {known}"))
    }

    fn is_empty(&self) -> bool {
        self.value
            .get_ref()
            .as_array()
            .is_some_and(|array| array.is_empty())
    }

    /// None for another type, `Some(None)` for a number beyond 64 bits.
    fn whole_number(&self) -> Option<Option<i64>> {
        let integer = self.value.get_ref().as_integer()?;
        Some(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
    }

    fn wrong_type(&self, expected: &str) -> ManifestError {
        self.error(&format!(
            "is {}, expected {expected}",
            type_name(self.value.get_ref())
        ))
    }
}

const NAME_RULE: &str = "allowed: a lower-case letter, then lower-case letters, digits and -, at most 63";

/// True for `[a-z][a-z0-9-]*` of at most 63 characters.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= NAME_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn manifest_error(text: &str, start: usize, key: &str, message: &str) -> ManifestError {
    ManifestError {
        line: line(text, start),
        key: key.to_owned(),
        message: message.to_owned(),
    }
}

fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
