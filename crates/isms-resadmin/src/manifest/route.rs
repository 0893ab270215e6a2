//! A method and a path pattern, such as `GET /machines/{id}/readings`.

use std::fmt;

use isms_protocol::commserver::PROCESSES_SEGMENT;

/// Length of a pattern.
const PATTERN_LEN_MAX: usize = 128;
/// Segments of a pattern.
const SEGMENTS_MAX: usize = 16;
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// A checked route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: String,
    pub(crate) path: String,
}

/// Why text is not a route.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("is not METHOD /path, like \"GET /machines/{{id}}\"")]
    Form,
    #[error("has the method {method:?}; allowed: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS")]
    Method { method: String },
    #[error("has a path longer than {PATTERN_LEN_MAX} bytes or {SEGMENTS_MAX} segments")]
    Len,
    #[error("has the segment {segment:?}; a segment is literal (letters, digits, - . _ ~) or {{name}}")]
    Segment { segment: String },
    #[error("has the parameter {{{name}}} twice")]
    ParameterTwice { name: String },
    #[error(
        "begins with /{PROCESSES_SEGMENT}, where the platform answers about asynchronous calls; take another path"
    )]
    Reserved,
}

impl Route {
    /// Reads `METHOD /path`.
    pub(crate) fn parse(text: &str) -> Result<Route, RouteError> {
        let (method, path) = text.split_once(' ').ok_or(RouteError::Form)?;
        if !METHODS.contains(&method) {
            return Err(RouteError::Method {
                method: method.to_owned(),
            });
        }
        let segments = path.strip_prefix('/').ok_or(RouteError::Form)?;
        if path.len() > PATTERN_LEN_MAX || segments.split('/').count() > SEGMENTS_MAX {
            return Err(RouteError::Len);
        }
        if segments.split('/').next() == Some(PROCESSES_SEGMENT) {
            return Err(RouteError::Reserved);
        }
        let mut names = Vec::new();
        for segment in segments.split('/').filter(|_| !segments.is_empty()) {
            match parameter(segment) {
                Some(name) if names.contains(&name) => {
                    return Err(RouteError::ParameterTwice {
                        name: name.to_owned(),
                    });
                }
                Some(name) => names.push(name),
                None if is_literal(segment) => {}
                None => {
                    return Err(RouteError::Segment {
                        segment: segment.to_owned(),
                    });
                }
            }
        }
        Ok(Route {
            method: method.to_owned(),
            path: path.to_owned(),
        })
    }

    /// True when both match exactly the same requests.
    pub(crate) fn collides_with(&self, other: &Route) -> bool {
        self.method == other.method && self.shape().eq(other.shape())
    }

    fn shape(&self) -> impl Iterator<Item = Option<&str>> {
        self.path.split('/').map(|segment| {
            if parameter(segment).is_some() {
                None
            } else {
                Some(segment)
            }
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)
    }
}

/// The name in `{name}`.
fn parameter(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.bytes().all(plain)).then_some(name)
}

fn is_literal(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
}
