//! HTTP requests to servers outside, on their way to CommServer and back.

use bytes::Bytes;
use isms_doee_sys as sys;
use isms_protocol::commserver::{Fetch, FetchReply};
use isms_protocol::limits::{FETCH_BODY_LEN_MAX, FETCH_HEAD_LEN_MAX, FETCH_HEADERS_MAX};
use isms_protocol::{DecodeError, Message};
use serde_bytes::ByteBuf;

use crate::body::Body;
use crate::refusal::Refusal;
use crate::response::header_name;

/// A request, as the Doee asks for it.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a str,
    pub(crate) headers: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) body: &'a [u8],
    pub(crate) timeout_ms: u32,
    pub(crate) redirects_max: u32,
}

/// Checks the number of a request's header fields.
pub(crate) fn check_headers(count: usize) -> Result<(), Refusal> {
    if count > FETCH_HEADERS_MAX {
        return Err(Refusal::limit(format!(
            "a request has at most {FETCH_HEADERS_MAX} header fields"
        )));
    }
    Ok(())
}

impl Request<'_> {
    /// The head in the form that travels, and the body. CommServer checks what it means; here is
    /// checked that it fits.
    pub(crate) fn encode(&self) -> Result<(Bytes, Bytes), Refusal> {
        let fields = self.headers.iter().map(|(name, value)| name.len() + value.len());
        if fields.sum::<usize>() + self.method.len() + self.url.len() > FETCH_HEAD_LEN_MAX {
            return Err(Refusal::limit(format!(
                "a request's URL and header fields have at most {FETCH_HEAD_LEN_MAX} bytes"
            )));
        }
        if self.body.len() as u64 > FETCH_BODY_LEN_MAX {
            return Err(Refusal::limit(format!(
                "a request's body has at most {FETCH_BODY_LEN_MAX} bytes"
            )));
        }
        let field = |(name, value): &(&[u8], &[u8])| Ok((header_name(name)?, ByteBuf::from(*value)));
        let fetch = Fetch {
            method: self.method.to_owned(),
            url: self.url.to_owned(),
            headers: self.headers.iter().map(field).collect::<Result<_, Refusal>>()?,
            body_len: self.body.len() as u64,
            timeout_ms: self.timeout_ms,
            redirects_max: self.redirects_max,
        };
        Ok((
            isms_protocol::encode(&fetch).into(),
            Bytes::copy_from_slice(self.body),
        ))
    }
}

/// An answer: its head as the ABI shows it, and its body as far as it has come.
#[derive(Debug)]
pub(crate) struct Answer {
    view: Box<sys::HttpAnswer>,
    pub(crate) body: Body,
    _head: FetchReply,
    _pairs: Vec<sys::Pair>,
}

impl Answer {
    /// Decodes the reply to a request; `streams` when its body follows.
    pub(crate) fn decode(message: Message, streams: bool) -> Result<Answer, DecodeError> {
        let head: FetchReply = message.decode_body()?;
        let pair = |(name, value): &(String, ByteBuf)| sys::Pair {
            name: sys::Text::of(name.as_bytes()),
            value: sys::Text::of(value),
        };
        let pairs: Vec<_> = head.headers.iter().map(pair).collect();
        let view = Box::new(sys::HttpAnswer {
            size: size_of::<sys::HttpAnswer>(),
            status: head.status.into(),
            reserved: 0,
            url: sys::Text::of(head.url.as_bytes()),
            body_len: head.body_len.unwrap_or(sys::LEN_UNKNOWN),
            headers: pairs.as_ptr(),
            header_count: pairs.len(),
        });
        let body = if streams {
            Body::stream("the server's answer broke off, is over 16 MiB, or took too long")
        } else {
            Body::inline(message.raw)
        };
        Ok(Answer {
            view,
            body,
            _head: head,
            _pairs: pairs,
        })
    }

    /// The struct to hand to the Doee; good while this answer lives.
    pub(crate) fn as_ptr(&self) -> *const sys::HttpAnswer {
        &raw const *self.view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(headers: Vec<(&'a [u8], &'a [u8])>, body: &'a [u8]) -> Request<'a> {
        Request {
            method: "GET",
            url: "http://a.b/",
            headers,
            body,
            timeout_ms: 1,
            redirects_max: 2,
        }
    }

    #[test]
    fn a_request_travels_as_the_protocol_says() {
        let (head, body) = request(vec![(b"X-Mine", b"\xff")], b"abc").encode().unwrap();
        let expected = Fetch {
            method: "GET".into(),
            url: "http://a.b/".into(),
            headers: vec![("x-mine".into(), ByteBuf::from(vec![0xff]))],
            body_len: 3,
            timeout_ms: 1,
            redirects_max: 2,
        };
        assert_eq!(isms_protocol::decode::<Fetch>(&head).unwrap(), expected);
        assert_eq!(&body[..], b"abc");
    }

    #[test]
    fn a_request_over_a_limit_or_with_fields_of_the_platform_is_refused() {
        let long = vec![b'x'; FETCH_HEAD_LEN_MAX];
        assert_eq!(
            request(vec![(b"x", &long)], b"").encode().unwrap_err().code,
            sys::LIMIT
        );
        let body = vec![0; FETCH_BODY_LEN_MAX as usize + 1];
        assert_eq!(request(vec![], &body).encode().unwrap_err().code, sys::LIMIT);
        assert!(check_headers(FETCH_HEADERS_MAX).is_ok());
        assert!(check_headers(FETCH_HEADERS_MAX + 1).is_err());
        for name in [&b"content-length"[..], b"Transfer-Encoding", b"a b", b""] {
            let refused = request(vec![(name, b"1")], b"").encode().unwrap_err();
            assert_eq!(refused.code, sys::INVALID, "{name:?}");
        }
    }
}
