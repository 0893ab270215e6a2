//! Idempotency keys: `Idempotency-Key` of an asynchronous call, by which a repeated request is answered with the
//! call that the first has made.
//!
//! What goes to the Kernel is a hash that also covers whose key it is and what it was used for, so that the same text means
//! nothing elsewhere. Fields are hashed with their lengths: what one holds can never pass for the beginning of the next.

use http::{HeaderMap, HeaderName};
use isms_protocol::{ErrorCode, Flags, Header, Message, PrincipalId, ProjectId, limits::KEY_LEN};
use sha2::{Digest, Sha256};

use crate::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Characters of a key.
const CHARACTERS_MAX: usize = 255;
/// Begins what is hashed: no other hash of this program does.
const DOMAIN: &[u8] = b"isms idempotency key 1";

/// The key that a client has given its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// What a request with a key calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope<'a> {
    /// A request below a project.
    Route {
        /// Its method.
        method: &'a str,
        /// Its path and query, as they were sent.
        target: &'a str,
    },
    /// A Doee, by its name.
    Doee {
        /// Its name.
        name: &'a str,
    },
}

impl IdempotencyKey {
    /// Reads the request's field. One on a call that is waited for is refused rather than ignored: whoever sends it counts on it.
    pub fn of(headers: &HeaderMap, respond_async: bool) -> Result<Option<IdempotencyKey>, Problem> {
        let invalid = |detail: &str| Problem::new(ErrorCode::Invalid, detail);
        let mut fields = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(field) = fields.next() else {
            return Ok(None);
        };
        if fields.next().is_some() {
            return Err(invalid("`idempotency-key` is there more than once"));
        }
        if !respond_async {
            return Err(invalid(
                "`idempotency-key` is for asynchronous calls: send `prefer: respond-async` as well, or leave it out",
            ));
        }
        let key = field
            .to_str()
            .ok()
            .and_then(|text| key_of(text.trim_matches([' ', '\t'])));
        let key = key.ok_or_else(|| {
            let detail = format!(
                "`idempotency-key` is 1 to {CHARACTERS_MAX} visible ASCII characters, bare without `\"` or as a string in \
                 double quotes"
            );
            invalid(&detail)
        })?;
        Ok(Some(IdempotencyKey(key)))
    }

    /// Puts what stands for the key in front of a durable call's body, as the call of the header's project and principal.
    pub fn put_on(&self, mut message: Message, scope: KeyScope<'_>) -> Message {
        let Header {
            project, principal, ..
        } = message.header;
        message.header.flags = message.header.flags.with(Flags::KEYED);
        message.with_raw(self.hash(project, principal, scope).to_vec())
    }

    fn hash(&self, project: ProjectId, principal: PrincipalId, scope: KeyScope<'_>) -> [u8; KEY_LEN] {
        let (kind, first, second) = match scope {
            KeyScope::Route { method, target } => ("route", method, target),
            KeyScope::Doee { name } => ("doee", name, ""),
        };
        let mut hash = Sha256::new();
        for field in [
            DOMAIN,
            &project.to_bytes(),
            &principal.to_bytes(),
            kind.as_bytes(),
            first.as_bytes(),
            second.as_bytes(),
            self.0.as_bytes(),
        ] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }
}

/// The key that a field's value stands for: itself, or what the string (RFC 9651 §3.3.3) in it says.
fn key_of(value: &str) -> Option<String> {
    let key = match value.strip_prefix('"') {
        Some(rest) => unescaped(rest.strip_suffix('"')?)?,
        None if value.contains('"') => return None,
        None => value.to_owned(),
    };
    let is_key = (1..=CHARACTERS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then_some(key)
}

fn unescaped(inner: &str) -> Option<String> {
    let mut letters = inner.chars();
    let mut text = String::with_capacity(inner.len());
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '"' => return None,
            '\\' => letters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            letter => letter,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(fields: &[&[u8]], respond_async: bool) -> Result<Option<String>, u16> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(
                IDEMPOTENCY_KEY,
                http::HeaderValue::from_bytes(field).expect("a value"),
            );
        }
        IdempotencyKey::of(&headers, respond_async)
            .map(|key| key.map(|key| key.0))
            .map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_key_is_the_same_bare_and_as_a_string() {
        let longest = "k".repeat(255);
        for (field, key) in [
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            (" a ", "a"),
            ("\"a\\\"b\\\\c\"", "a\"b\\c"),
            ("a\\b;c,d", "a\\b;c,d"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(
                read(&[field.as_bytes()], true),
                Ok(Some(key.to_owned())),
                "{field}"
            );
        }
        assert_eq!(read(&[], true), Ok(None));
        assert_eq!(read(&[], false), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "k".repeat(256);
        let long_string = format!("\"{long}\"");
        for field in [
            "",
            "\"\"",
            "\"",
            "a b",
            "\"a b\"",
            "\"a",
            "a\"",
            "a\"b",
            "\"a\"b\"",
            "\"a\\\"",
            "\"a\\b\"",
            "\"a\"; x=1",
            "a\tb",
            "\u{e9}",
            &long,
            &long_string,
        ] {
            assert_eq!(read(&[field.as_bytes()], true), Err(400), "{field}");
        }
        assert_eq!(read(&[b"a", b"a"], true), Err(400), "twice");
        assert_eq!(read(&[b"a"], false), Err(400), "of a call that is waited for");
    }

    #[test]
    fn a_key_counts_for_one_principal_and_one_thing_that_it_calls() {
        let key = |text: &str| IdempotencyKey(text.into());
        let (project, principal) = (ProjectId::from_bytes([1; 16]), PrincipalId::from_bytes([2; 16]));
        let route = |method, target| KeyScope::Route { method, target };
        let hashes: BTreeSet<_> = [
            key("k").hash(project, principal, route("POST", "/a")),
            key("l").hash(project, principal, route("POST", "/a")),
            key("k").hash(ProjectId::from_bytes([2; 16]), principal, route("POST", "/a")),
            key("k").hash(project, PrincipalId::NONE, route("POST", "/a")),
            key("k").hash(project, principal, route("PUT", "/a")),
            key("k").hash(project, principal, route("POST", "/ak")),
            key("ak").hash(project, principal, route("POST", "/")),
            key("k").hash(project, principal, KeyScope::Doee { name: "POST" }),
            key("k").hash(project, principal, route("doee", "POST")),
        ]
        .into();
        assert_eq!(hashes.len(), 9);
        let again = key("k").hash(project, principal, route("POST", "/a"));
        assert!(hashes.contains(&again));
    }
}
