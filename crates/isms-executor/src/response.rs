//! The Doee's answer: held back while it fits one message, a stream from then on.

use bytes::{Bytes, BytesMut};
use isms_protocol::doer::InvocationReply;
use isms_protocol::limits::INLINE_LEN_MAX;

use crate::limits::{RESPONSE_HEADERS_LEN_MAX, RESPONSE_HEADERS_MAX};
use crate::refusal::Refusal;
use crate::stream::Outflow;

/// How far the answer to the running call is.
#[derive(Debug, Default)]
pub(crate) enum Response {
    /// Not begun.
    #[default]
    None,
    /// Begun; small so far, so nothing has been sent.
    Held { reply: InvocationReply, body: BytesMut },
    /// The reply has been sent, and its body follows.
    Streaming {
        outflow: Outflow,
        written: u64,
        promised: Option<u64>,
    },
}

impl Response {
    /// Begins the answer.
    pub(crate) fn begin(&mut self, reply: InvocationReply) -> Result<(), Refusal> {
        if !matches!(self, Response::None) {
            return Err(Refusal::invalid("the answer has begun already"));
        }
        *self = Response::Held {
            reply,
            body: BytesMut::new(),
        };
        Ok(())
    }

    /// True when `len` more bytes can be held back.
    pub(crate) fn holds(&self, len: usize) -> bool {
        matches!(self, Response::Held { body, .. } if body.len() + len <= INLINE_LEN_MAX)
    }

    /// Checks that `len` more bytes may be written.
    pub(crate) fn check_write(&self, len: usize) -> Result<(), Refusal> {
        let (written, promised) = match self {
            Response::None => return Err(Refusal::invalid("the answer has not begun")),
            Response::Held { reply, body } => (body.len() as u64, reply.payload_len),
            Response::Streaming {
                written, promised, ..
            } => (*written, *promised),
        };
        match promised {
            Some(promised) if written + len as u64 > promised => Err(Refusal::invalid(format!(
                "the answer's body is longer than the {promised} bytes promised"
            ))),
            _ => Ok(()),
        }
    }

    /// Appends to what is held back.
    pub(crate) fn hold(&mut self, data: &[u8]) {
        if let Response::Held { body, .. } = self {
            body.extend_from_slice(data);
        }
    }

    /// A held answer, to send as a whole.
    pub(crate) fn take_held(&mut self) -> Option<(InvocationReply, Bytes)> {
        let Response::Held { reply, body } = self else {
            return None;
        };
        let held = (std::mem::take(reply), std::mem::take(body).freeze());
        *self = Response::None;
        Some(held)
    }

    /// Turns a held answer into a stream; returns the reply to send before it.
    pub(crate) fn start_stream(&mut self) -> Option<InvocationReply> {
        let Response::Held { reply, body } = self else {
            return None;
        };
        let (reply, body) = (std::mem::take(reply), std::mem::take(body));
        let (written, promised) = (body.len() as u64, reply.payload_len);
        *self = Response::Streaming {
            outflow: Outflow::new(body),
            written,
            promised,
        };
        Some(reply)
    }

    /// The stream, once there is one.
    pub(crate) fn outflow(&mut self) -> Option<&mut Outflow> {
        match self {
            Response::Streaming { outflow, .. } => Some(outflow),
            _ => None,
        }
    }

    /// Takes what fits the stream's next chunk; returns how many bytes that were.
    pub(crate) fn fill(&mut self, data: &[u8]) -> usize {
        let Response::Streaming { outflow, written, .. } = self else {
            return 0;
        };
        let taken = outflow.fill(data);
        *written += taken as u64;
        taken
    }

    /// Checks that the Doee wrote what it promised.
    pub(crate) fn check_end(&self) -> Result<(), Refusal> {
        let (written, promised) = match self {
            Response::None => return Err(Refusal::invalid("execute returned without an answer")),
            Response::Held { reply, body } => (body.len() as u64, reply.payload_len),
            Response::Streaming {
                written, promised, ..
            } => (*written, *promised),
        };
        match promised {
            Some(promised) if promised != written => Err(Refusal::invalid(format!(
                "the answer's body has {written} bytes, {promised} were promised"
            ))),
            _ => Ok(()),
        }
    }
}

/// Checks the head of an answer and puts it into the form that travels.
pub(crate) fn head<'a>(
    status: u32,
    headers: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    payload_len: Option<u64>,
) -> Result<InvocationReply, Refusal> {
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status));
    let status = status.ok_or_else(|| Refusal::invalid("a status is 200 to 599"))?;
    if headers.len() > RESPONSE_HEADERS_MAX {
        return Err(Refusal::limit(format!(
            "an answer has at most {RESPONSE_HEADERS_MAX} header fields"
        )));
    }
    let mut len = 0;
    let mut fields = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        len += name.len() + value.len();
        if len > RESPONSE_HEADERS_LEN_MAX {
            return Err(Refusal::limit(format!(
                "an answer's header fields have at most {RESPONSE_HEADERS_LEN_MAX} bytes"
            )));
        }
        fields.push((header_name(name)?, header_value(value)?));
    }
    Ok(InvocationReply {
        status,
        headers: fields,
        payload_len,
    })
}

/// A token of RFC 9110, in lower case. What frames the message is the platform's own.
pub(crate) fn header_name(name: &[u8]) -> Result<String, Refusal> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Refusal::invalid(format!(
            "{:?} is no name of a header field",
            String::from_utf8_lossy(name)
        )));
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let framing = [
        "connection",
        "content-length",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if framing.contains(&name.as_str()) {
        return Err(Refusal::invalid(format!(
            "the header field {name} is the platform's own"
        )));
    }
    Ok(name)
}

fn header_value(value: &[u8]) -> Result<String, Refusal> {
    let text = str::from_utf8(value).ok().filter(|text| {
        !text
            .bytes()
            .any(|byte| byte == 0x7f || (byte < 0x20 && byte != b'\t'))
    });
    let text = text
        .ok_or_else(|| Refusal::invalid("a header field's value has control characters, or is no UTF-8"))?;
    Ok(text.trim_matches([' ', '\t']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_head(name: &str, value: &str) -> Result<(String, String), String> {
        let pairs: Vec<(&[u8], &[u8])> = vec![(name.as_bytes(), value.as_bytes())];
        head(200, pairs.into_iter(), None)
            .map(|head| head.headers[0].clone())
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn header_fields_are_normalised_and_hostile_ones_refused() {
        assert_eq!(
            check_head("Content-Type", " text/plain "),
            Ok(("content-type".into(), "text/plain".into()))
        );
        assert!(check_head("a b", "x").is_err());
        assert!(check_head("", "x").is_err());
        assert!(check_head("x", "a\r\nset-cookie: b").is_err());
        assert!(check_head("Transfer-Encoding", "chunked").is_err());
    }

    #[test]
    fn a_status_outside_200_to_599_is_refused() {
        for status in [0, 100, 199, 600, 70_000] {
            assert!(head(status, std::iter::empty(), None).is_err(), "{status}");
        }
    }

    #[test]
    fn a_promise_of_a_length_is_kept() {
        let mut response = Response::default();
        response
            .begin(head(200, std::iter::empty(), Some(3)).unwrap())
            .unwrap();
        assert!(response.check_write(4).is_err());
        response.hold(b"ab");
        assert!(response.check_end().is_err());
        response.hold(b"c");
        assert!(response.check_end().is_ok());
    }
}
