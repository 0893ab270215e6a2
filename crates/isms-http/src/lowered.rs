//! Lower class and deadline: `isms-class` and `isms-deadline-ms` of a request, by which a client asks for less than its call
//! would get.
//!
//! A client never gets more: what it asks for beyond that is capped. What makes no sense is refused rather than ignored, since
//! whoever sends it counts on it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use isms_protocol::{Class, ErrorCode};

use crate::Problem;

const CLASS: HeaderName = HeaderName::from_static("isms-class");
const DEADLINE_MS: HeaderName = HeaderName::from_static("isms-deadline-ms");

/// How much less a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lowered {
    class: Option<Class>,
    deadline: Option<Duration>,
}

impl Lowered {
    /// Reads the request's fields.
    pub fn of(headers: &HeaderMap) -> Result<Lowered, Problem> {
        let class = only(headers, &CLASS)?.map(|text| {
            let class = Class::ALL.into_iter().find(|class| class.name() == text);
            let names = Class::ALL.map(Class::name).join(", ");
            class.ok_or_else(|| invalid(format!("`isms-class` is one of {names}")))
        });
        let deadline = only(headers, &DEADLINE_MS)?.map(|text| {
            let wrong = || {
                invalid(format!(
                    "`isms-deadline-ms` is a whole number from 1 to {}",
                    u32::MAX
                ))
            };
            milliseconds(text).ok_or_else(wrong)
        });
        Ok(Lowered {
            class: class.transpose()?,
            deadline: deadline.transpose()?,
        })
    }

    /// The class of a call that would have this one.
    pub fn class(self, given: Class) -> Class {
        self.class.map_or(given, |asked| asked.capped_by(given))
    }

    /// The time of a call that would have this one.
    pub fn deadline(self, given: Duration) -> Duration {
        self.deadline.map_or(given, |asked| asked.min(given))
    }
}

/// The text of a field that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut fields = headers.get_all(name).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(invalid(format!("`{name}` is there more than once")));
    }
    let text = field
        .to_str()
        .map_err(|_| invalid(format!("`{name}` is no text")))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// Digits and nothing else; a sign neither.
fn milliseconds(text: &str) -> Option<Duration> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = text.parse().ok().filter(|&number| is_number && number > 0)?;
    Some(Duration::from_millis(number.into()))
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::Invalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &[u8])]) -> Result<Lowered, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_bytes(value).expect("a value"));
        }
        Lowered::of(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_class_is_lowered_and_never_raised() {
        for (at, asked) in Class::ALL.into_iter().enumerate() {
            let lowered = read(&[("isms-class", asked.name().as_bytes())]).expect("a class");
            for (below, given) in Class::ALL.into_iter().enumerate() {
                assert_eq!(
                    lowered.class(given),
                    Class::ALL[at.max(below)],
                    "{asked:?} {given:?}"
                );
            }
        }
        assert_eq!(
            read(&[]).map(|lowered| lowered.class(Class::High)),
            Ok(Class::High)
        );
    }

    #[test]
    fn a_deadline_is_brought_forward_and_never_put_off() {
        let given = Duration::from_millis(500);
        for (asked, expected) in [("1", 1), (" 499 ", 499), ("500", 500), ("4294967295", 500)] {
            let lowered = read(&[("isms-deadline-ms", asked.as_bytes())]).expect("a number");
            assert_eq!(
                lowered.deadline(given),
                Duration::from_millis(expected),
                "{asked}"
            );
        }
        assert_eq!(read(&[]).map(|lowered| lowered.deadline(given)), Ok(given));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [&b""[..], b"urgent", b"Batch", b"batch, batch", b"3", b"\xff"] {
            assert_eq!(read(&[("isms-class", text)]), Err(400), "{text:?}");
        }
        for text in [
            &b""[..],
            b"0",
            b"000",
            b"-1",
            b"+1",
            b"1.5",
            b"1s",
            b"4294967296",
            b"99999999999999999999999",
            b"\xff",
        ] {
            assert_eq!(read(&[("isms-deadline-ms", text)]), Err(400), "{text:?}");
        }
        assert_eq!(
            read(&[("isms-class", b"batch"), ("isms-class", b"batch")]),
            Err(400)
        );
        assert_eq!(
            read(&[("isms-deadline-ms", b"1"), ("isms-deadline-ms", b"1")]),
            Err(400)
        );
    }
}
