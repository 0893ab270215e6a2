//! The passage of one call between HTTP and the Kernel, bodies included.
//!
//! A body that fits a message is collected and travels inside the request; a larger one is pumped
//! as a stream, piece by piece against the callee's credit, so no process holds it whole. The pump
//! is no task of its own: it runs inside the handler's future until the answer is there, and after
//! that inside the response's body. Dropping either gives the call up.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use isms_ipc::{Answer, Link, StreamReceiver, StreamSender};
use isms_protocol::{
    ErrorCode, Header, Message, WireError,
    limits::{INLINE_LEN_MAX, MESSAGE_LEN_MAX},
};
use tokio::time::{Instant, timeout_at};

use crate::{Body, Problem};

/// A request's body on its way into the platform.
pub struct Upload {
    /// The body.
    pub body: Incoming,
    /// Bytes that it may have.
    pub len_max: u64,
    /// When the client must have sent it.
    pub deadline: Instant,
}

/// An answer, and what is left of the request's body.
pub struct Exchange {
    answer: Answer,
    pump: Option<Pump>,
}

type Pump = Pin<Box<dyn Future<Output = Result<(), Problem>> + Send>>;

enum Collected {
    Whole(Bytes),
    /// The first bytes; more than a message holds will come.
    Start(Bytes),
}

impl Upload {
    /// Calls with this body. `request` makes the message once the body's length is known, or known
    /// to be unknown; raw bytes that it has already stand in front of the body. Dropping the future cancels the call.
    pub async fn call<F>(mut self, link: &Link, request: F) -> Result<Exchange, Problem>
    where
        F: FnOnce(Option<u64>) -> Result<Message, Problem>,
    {
        let announced = self.body.size_hint().exact();
        if announced.is_some_and(|len| len > self.len_max) {
            return Err(too_large(self.len_max));
        }
        let collected = self.collect(announced).await?;
        let len = match &collected {
            Collected::Whole(payload) => Some(payload.len() as u64),
            Collected::Start(_) => announced,
        };
        let message = request(len)?;
        if message.len() > MESSAGE_LEN_MAX {
            let detail = "path, query and header fields together do not fit a message";
            return Err(Problem::http(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
        }
        match collected {
            Collected::Whole(payload) if message.len() + payload.len() <= MESSAGE_LEN_MAX => {
                let raw = match message.raw.is_empty() {
                    true => payload,
                    false => [&message.raw[..], &payload[..]].concat().into(),
                };
                let answer = link.call(message.with_raw(raw)).await?;
                Ok(Exchange { answer, pump: None })
            }
            Collected::Whole(start) | Collected::Start(start) => self.stream(link, message, start).await,
        }
    }

    /// Takes the whole body; for the small ones that a handler reads itself.
    pub async fn whole(mut self) -> Result<Bytes, Problem> {
        if self
            .body
            .size_hint()
            .exact()
            .is_some_and(|len| len > self.len_max)
        {
            return Err(too_large(self.len_max));
        }
        let mut collected = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            self.check_len((collected.len() + piece.len()) as u64)?;
            collected.extend_from_slice(&piece);
        }
        Ok(collected.freeze())
    }

    /// Takes as much of the body as a message holds.
    async fn collect(&mut self, announced: Option<u64>) -> Result<Collected, Problem> {
        if self.body.is_end_stream() {
            return Ok(Collected::Whole(Bytes::new()));
        }
        if announced.is_some_and(|len| len > INLINE_LEN_MAX as u64) {
            return Ok(Collected::Start(Bytes::new()));
        }
        let Some(first) = self.piece().await? else {
            return Ok(Collected::Whole(Bytes::new()));
        };
        if first.len() as u64 == announced.unwrap_or(u64::MAX) {
            return Ok(Collected::Whole(first));
        }
        let mut collected = BytesMut::from(&first[..]);
        while collected.len() <= INLINE_LEN_MAX {
            self.check_len(collected.len() as u64)?;
            match self.piece().await? {
                Some(piece) => collected.extend_from_slice(&piece),
                None => return Ok(Collected::Whole(collected.freeze())),
            }
        }
        Ok(Collected::Start(collected.freeze()))
    }

    async fn stream(self, link: &Link, message: Message, start: Bytes) -> Result<Exchange, Problem> {
        let (sender, pending) = link.call_streaming(message);
        let mut pump: Option<Pump> = Some(Box::pin(self.pump(start, sender)));
        let answer = beside(&mut pump, pending).await??;
        // Whoever has answered in full does not want the rest of the body.
        let pump = answer.stream.is_some().then_some(pump).flatten();
        Ok(Exchange { answer, pump })
    }

    /// Sends the body to the callee. Fails when the client is to blame; a callee that no longer
    /// reads is no failure, for its answer tells why.
    async fn pump(mut self, start: Bytes, mut sender: StreamSender) -> Result<(), Problem> {
        let mut sent = start.len() as u64;
        self.check_len(sent)?;
        if !start.is_empty() && sender.send(start).await.is_err() {
            return Ok(());
        }
        while let Some(piece) = self.piece().await? {
            sent += piece.len() as u64;
            self.check_len(sent)?;
            if sender.send(piece).await.is_err() {
                return Ok(());
            }
        }
        sender.finish();
        Ok(())
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let frame = timeout_at(self.deadline, frame).await.map_err(|_| {
                Problem::http(
                    StatusCode::REQUEST_TIMEOUT,
                    "the request's body did not arrive within the deadline",
                )
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    tracing::debug!(%error, "request body broke off");
                    let detail = "the request's body is malformed or incomplete";
                    return Err(Problem::new(ErrorCode::Invalid, detail));
                }
                // Trailer fields are dropped: nothing here means anything by them.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    fn check_len(&self, len: u64) -> Result<(), Problem> {
        if len > self.len_max {
            Err(too_large(self.len_max))
        } else {
            Ok(())
        }
    }
}

impl From<Answer> for Exchange {
    /// Of a call whose request is there in full.
    fn from(answer: Answer) -> Exchange {
        Exchange { answer, pump: None }
    }
}

impl Exchange {
    /// The answer's message.
    pub fn message(&self) -> &Message {
        &self.answer.message
    }

    /// The answer's header, and its payload as a response's body. `len` is what the callee says of
    /// a streamed payload's length.
    pub fn into_body(self, len: Option<u64>) -> (Header, Body) {
        let header = self.answer.message.header;
        let body = match self.answer.stream {
            None => Body::full(self.answer.message.raw),
            Some(stream) => Body::unfold(
                Transfer {
                    stream,
                    pump: self.pump,
                },
                len,
                Transfer::pull,
            ),
        };
        (header, body)
    }
}

struct Transfer {
    stream: StreamReceiver,
    pump: Option<Pump>,
}

impl Transfer {
    async fn pull(mut self) -> Option<(Result<Bytes, WireError>, Transfer)> {
        let piece = match beside(&mut self.pump, self.stream.next()).await {
            Ok(piece) => piece?,
            Err(problem) => Err(WireError::new(ErrorCode::Invalid, problem.detail())),
        };
        Some((piece, self))
    }
}

/// Awaits `wanted` and lets the pump run beside it; fails as soon as the pump does.
async fn beside<T>(pump: &mut Option<Pump>, wanted: impl Future<Output = T>) -> Result<T, Problem> {
    let mut wanted = std::pin::pin!(wanted);
    poll_fn(|context| {
        if let Some(running) = pump
            && let Poll::Ready(ended) = running.as_mut().poll(context)
        {
            *pump = None;
            if let Err(problem) = ended {
                return Poll::Ready(Err(problem));
            }
        }
        wanted.as_mut().poll(context).map(Ok)
    })
    .await
}

fn too_large(len_max: u64) -> Problem {
    Problem::new(
        ErrorCode::TooLarge,
        format!("the request's body may have at most {len_max} bytes"),
    )
    .with_header(header::CONNECTION, http::HeaderValue::from_static("close"))
}
