//! Calls of other Doees, on their way to the Doer and back.

use bytes::Bytes;
use isms_doee_sys as sys;
use isms_protocol::doer::InvocationReply;
use isms_protocol::limits::{
    ASYNC_BODY_LEN_MAX, CALL_BODY_LEN_MAX, CALL_HEAD_LEN_MAX, CALL_HEADERS_MAX, NAME_LEN_MAX,
};
use isms_protocol::worker::{CallAccepted, DoeeCall};
use isms_protocol::{Class, DecodeError, ErrorCode, Message, WireError};
use serde_bytes::ByteBuf;

use crate::body::Body;
use crate::refusal::Refusal;
use crate::response::header_name;

/// The status of a call that was accepted to run by itself.
const ACCEPTED: u32 = 202;

/// A call, as the Doee asks for it.
pub(crate) struct Request<'a> {
    pub(crate) doee: &'a str,
    pub(crate) headers: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) body: &'a [u8],
    pub(crate) class_max: u32,
    pub(crate) deadline_ms: u32,
    pub(crate) flags: u32,
}

/// Checks the number of a call's header fields.
pub(crate) fn check_headers(count: usize) -> Result<(), Refusal> {
    if count > CALL_HEADERS_MAX {
        return Err(Refusal::limit(format!(
            "a call has at most {CALL_HEADERS_MAX} header fields"
        )));
    }
    Ok(())
}

impl Request<'_> {
    /// True when it is to run by itself.
    pub(crate) fn is_async(&self) -> bool {
        self.flags & sys::INVOKE_ASYNC != 0
    }

    /// The head in the form that travels, and the body. Whatever the Doer would cut this worker off for is refused here.
    pub(crate) fn encode(&self) -> Result<(Bytes, Bytes), Refusal> {
        if self.flags & !sys::INVOKE_ASYNC != 0 {
            return Err(Refusal::invalid(
                "the call has a flag that this platform does not know",
            ));
        }
        if self.doee.is_empty() || self.doee.len() > NAME_LEN_MAX {
            let text = format!("the name of a Doee has 1 to {NAME_LEN_MAX} bytes");
            return Err(Refusal::invalid(text));
        }
        let fields = self.headers.iter().map(|(name, value)| name.len() + value.len());
        if fields.sum::<usize>() > CALL_HEAD_LEN_MAX {
            let text = format!("the header fields of a call have at most {CALL_HEAD_LEN_MAX} bytes");
            return Err(Refusal::limit(text));
        }
        let body_len_max = match self.is_async() {
            true => ASYNC_BODY_LEN_MAX as u64,
            false => CALL_BODY_LEN_MAX,
        };
        if self.body.len() as u64 > body_len_max {
            let text = format!("the body of this call has at most {body_len_max} bytes");
            return Err(Refusal::limit(text));
        }
        let field = |(name, value): &(&[u8], &[u8])| Ok((field_name(name)?, ByteBuf::from(*value)));
        let call = DoeeCall {
            doee: self.doee.to_owned(),
            headers: self.headers.iter().map(field).collect::<Result<_, Refusal>>()?,
            body_len: self.body.len() as u64,
            class: class(self.class_max)?,
            deadline_ms: self.deadline_ms,
            is_async: self.is_async(),
        };
        Ok((
            isms_protocol::encode(&call).into(),
            Bytes::copy_from_slice(self.body),
        ))
    }
}

fn class(number: u32) -> Result<Option<Class>, Refusal> {
    Ok(Some(match number {
        sys::CLASS_SAME => return Ok(None),
        sys::CLASS_REALTIME => Class::Realtime,
        sys::CLASS_HIGH => Class::High,
        sys::CLASS_NORMAL => Class::Normal,
        sys::CLASS_BATCH => Class::Batch,
        _ => return Err(Refusal::invalid(format!("{number} is no class"))),
    }))
}

fn field_name(name: &[u8]) -> Result<String, Refusal> {
    let name = header_name(name)?;
    if name.starts_with("isms-") {
        return Err(Refusal::invalid(format!(
            "the header field {name} is the platform's own"
        )));
    }
    Ok(name)
}

/// Why a call of another Doee failed: its failure and the end of its time are not this call's.
pub(crate) fn refusal(error: WireError) -> Refusal {
    match error.code {
        ErrorCode::Expired | ErrorCode::TimedOut => Refusal::new(sys::TIMEOUT, error.message),
        _ => error.into(),
    }
}

/// An answer: its head as the ABI shows it, and its body as far as it has come.
#[derive(Debug)]
pub(crate) struct Answer {
    view: Box<sys::InvokeAnswer>,
    pub(crate) body: Body,
    _texts: Vec<(String, String)>,
    _process: String,
    _pairs: Vec<sys::Pair>,
}

impl Answer {
    /// Decodes the reply to a call; `streams` when its body follows.
    pub(crate) fn decode(message: Message, is_async: bool, streams: bool) -> Result<Answer, DecodeError> {
        if is_async {
            let accepted: CallAccepted = message.decode_body()?;
            let process = accepted.process.to_string();
            return Ok(Answer::new(
                ACCEPTED,
                Vec::new(),
                process,
                Some(0),
                Body::inline(Bytes::new()),
            ));
        }
        let reply: InvocationReply = message.decode_body()?;
        let (body, body_len) = match streams {
            true => (
                Body::stream("the answer of the called Doee broke off"),
                reply.payload_len,
            ),
            false => {
                let len = message.raw.len() as u64;
                (Body::inline(message.raw), Some(len))
            }
        };
        Ok(Answer::new(
            reply.status.into(),
            reply.headers,
            String::new(),
            body_len,
            body,
        ))
    }

    fn new(
        status: u32,
        texts: Vec<(String, String)>,
        process: String,
        body_len: Option<u64>,
        body: Body,
    ) -> Answer {
        let pair = |(name, value): &(String, String)| sys::Pair {
            name: sys::Text::of(name.as_bytes()),
            value: sys::Text::of(value.as_bytes()),
        };
        let pairs: Vec<_> = texts.iter().map(pair).collect();
        let view = Box::new(sys::InvokeAnswer {
            size: size_of::<sys::InvokeAnswer>(),
            status,
            reserved: 0,
            process: sys::Text::of(process.as_bytes()),
            body_len: body_len.unwrap_or(sys::LEN_UNKNOWN),
            headers: pairs.as_ptr(),
            header_count: pairs.len(),
        });
        Answer {
            view,
            body,
            _texts: texts,
            _process: process,
            _pairs: pairs,
        }
    }

    /// The struct to hand to the Doee; good while this answer lives.
    pub(crate) fn as_ptr(&self) -> *const sys::InvokeAnswer {
        &raw const *self.view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(headers: Vec<(&'a [u8], &'a [u8])>, body: &'a [u8]) -> Request<'a> {
        Request {
            doee: "other",
            headers,
            body,
            class_max: sys::CLASS_BATCH,
            deadline_ms: 7,
            flags: 0,
        }
    }

    fn refused(request: &Request<'_>) -> sys::ResultCode {
        request
            .encode()
            .map(drop)
            .map_err(|refusal| refusal.code)
            .unwrap_err()
    }

    #[test]
    fn a_call_travels_as_the_protocol_says() {
        let (head, body) = request(vec![(b"X-Mine", b"\xff")], b"abc").encode().unwrap();
        let expected = DoeeCall {
            doee: "other".into(),
            headers: vec![("x-mine".into(), ByteBuf::from(vec![0xff]))],
            body_len: 3,
            class: Some(Class::Batch),
            deadline_ms: 7,
            is_async: false,
        };
        assert_eq!(isms_protocol::decode::<DoeeCall>(&head).unwrap(), expected);
        assert_eq!(&body[..], b"abc");
    }

    #[test]
    fn a_call_over_a_limit_or_that_makes_no_sense_is_refused() {
        let long = vec![b'x'; CALL_HEAD_LEN_MAX];
        assert_eq!(refused(&request(vec![(b"x", &long)], b"")), sys::LIMIT);
        let body = vec![0; CALL_BODY_LEN_MAX as usize + 1];
        assert_eq!(refused(&request(vec![], &body)), sys::LIMIT);
        let body = &body[..=ASYNC_BODY_LEN_MAX];
        assert!(request(vec![], body).encode().is_ok());
        let flags = sys::INVOKE_ASYNC;
        assert_eq!(
            refused(&Request {
                flags,
                ..request(vec![], body)
            }),
            sys::LIMIT
        );
        assert!(check_headers(CALL_HEADERS_MAX).is_ok());
        assert!(check_headers(CALL_HEADERS_MAX + 1).is_err());
        for name in [&b"content-length"[..], b"ISMS-Planned", b"a b", b""] {
            assert_eq!(
                refused(&request(vec![(name, b"1")], b"")),
                sys::INVALID,
                "{name:?}"
            );
        }
        let name = "x".repeat(NAME_LEN_MAX + 1);
        for doee in ["", &name] {
            assert_eq!(
                refused(&Request {
                    doee,
                    ..request(vec![], b"")
                }),
                sys::INVALID
            );
        }
        let class_max = sys::CLASS_BATCH + 1;
        assert_eq!(
            refused(&Request {
                class_max,
                ..request(vec![], b"")
            }),
            sys::INVALID
        );
        assert_eq!(
            refused(&Request {
                flags: 2,
                ..request(vec![], b"")
            }),
            sys::INVALID
        );
    }

    #[test]
    fn the_end_of_a_callees_time_is_not_that_of_its_caller() {
        let code = |code| refusal(WireError::new(code, "")).code;
        assert_eq!(code(ErrorCode::Expired), sys::TIMEOUT);
        assert_eq!(code(ErrorCode::TimedOut), sys::TIMEOUT);
        assert_eq!(code(ErrorCode::DoeeFailed), sys::FAILED);
        assert_eq!(code(ErrorCode::Crashed), sys::UNAVAILABLE);
        assert_eq!(code(ErrorCode::Cancelled), sys::CANCELLED);
    }
}
