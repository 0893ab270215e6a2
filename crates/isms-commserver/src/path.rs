//! The path of a request, split and decoded segment by segment.
//!
//! What different parsers could read differently is refused instead of repaired: an encoded slash,
//! control characters, `.` and `..`, broken escapes, bytes that are not UTF-8.

use std::borrow::Cow;

/// Segments of one path, the project's name included.
const SEGMENTS_MAX: usize = 64;

/// A request's path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestPath<'a> {
    /// First segment.
    pub(crate) project: Cow<'a, str>,
    /// The other segments; none for the project's root.
    pub(crate) segments: Vec<Cow<'a, str>>,
}

/// Why a path is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("the request target is not a path")]
    NotAPath,
    #[error("the path has more than {SEGMENTS_MAX} segments")]
    Segments,
    #[error("the path has a `%` that is not followed by two hex digits")]
    Escape,
    #[error("the path is not utf-8 after percent-decoding")]
    Utf8,
    #[error("the path has an encoded slash or a control character")]
    Character,
    #[error("the path has a `.` or `..` segment; send it resolved")]
    Dots,
}

impl<'a> RequestPath<'a> {
    /// Splits and decodes a path; `/PROJECT` and `/PROJECT/` both mean the project's root.
    pub(crate) fn parse(path: &'a str) -> Result<RequestPath<'a>, PathError> {
        let path = path.strip_prefix('/').ok_or(PathError::NotAPath)?;
        let (project, rest) = path.split_once('/').unwrap_or((path, ""));
        let mut segments = Vec::new();
        if !rest.is_empty() {
            for segment in rest.split('/') {
                if segments.len() + 1 == SEGMENTS_MAX {
                    return Err(PathError::Segments);
                }
                segments.push(decode(segment)?);
            }
        }
        Ok(RequestPath {
            project: decode(project)?,
            segments,
        })
    }

    /// The decoded path below the project; starts with `/`.
    pub(crate) fn below_project(&self) -> String {
        if self.segments.is_empty() {
            return "/".to_owned();
        }
        let len = self.segments.iter().map(|segment| segment.len() + 1).sum();
        let mut path = String::with_capacity(len);
        for segment in &self.segments {
            path.push('/');
            path.push_str(segment);
        }
        path
    }
}

fn decode(segment: &str) -> Result<Cow<'_, str>, PathError> {
    let decoded = if segment.contains('%') {
        Cow::Owned(unescape(segment)?)
    } else {
        Cow::Borrowed(segment)
    };
    if decoded
        .bytes()
        .any(|byte| byte == b'/' || byte.is_ascii_control())
    {
        return Err(PathError::Character);
    }
    if matches!(&*decoded, "." | "..") {
        return Err(PathError::Dots);
    }
    Ok(decoded)
}

fn unescape(segment: &str) -> Result<String, PathError> {
    let digit = |byte: Option<u8>| {
        byte.and_then(|byte| char::from(byte).to_digit(16))
            .ok_or(PathError::Escape)
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => (digit(rest.next())? << 4 | digit(rest.next())?) as u8,
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| PathError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(&str, &[&str]), PathError>) {
        let expected = expected.map(|(project, segments)| RequestPath {
            project: project.into(),
            segments: segments.iter().map(|&segment| segment.into()).collect(),
        });
        assert_eq!(RequestPath::parse(path), expected, "{path}");
    }

    #[test]
    fn a_path_is_split_into_project_and_decoded_segments() {
        check("/p", Ok(("p", &[])));
        check("/p/", Ok(("p", &[])));
        check("/p/a/b", Ok(("p", &["a", "b"])));
        check("/p/a/", Ok(("p", &["a", ""])));
        check("/p//a", Ok(("p", &["", "a"])));
        check("/p/caf%C3%A9/a%20b%25", Ok(("p", &["café", "a b%"])));
        check("/", Ok(("", &[])));
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        check("*", Err(PathError::NotAPath));
        check("", Err(PathError::NotAPath));
        check("/p/a%2Fb", Err(PathError::Character));
        check("/p/a%00", Err(PathError::Character));
        check("/p/a%0d%0a", Err(PathError::Character));
        check("/p/%7f", Err(PathError::Character));
        check("/p/%ff", Err(PathError::Utf8));
        check("/p/%c0%af", Err(PathError::Utf8));
        check("/p/%", Err(PathError::Escape));
        check("/p/%2", Err(PathError::Escape));
        check("/p/%zz", Err(PathError::Escape));
        check("/p/%+1", Err(PathError::Escape));
        check("/p/../q", Err(PathError::Dots));
        check("/p/%2e%2E", Err(PathError::Dots));
        check("/p/./a", Err(PathError::Dots));
        check("/%2e", Err(PathError::Dots));
        check(&"/a".repeat(SEGMENTS_MAX + 1), Err(PathError::Segments));
    }

    #[test]
    fn the_path_below_the_project_is_decoded() {
        let below = |path| RequestPath::parse(path).expect("valid").below_project();
        assert_eq!(below("/p"), "/");
        assert_eq!(below("/p/a%20b/c/"), "/a b/c/");
    }
}
