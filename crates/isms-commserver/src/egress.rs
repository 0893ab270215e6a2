//! Requests of Doees to servers outside, over HTTP/1.1 and TLS.
//!
//! CommServer owns the way out and decides: the calling version, as the Kernel vouches for it, must have
//! been granted the server by name and port; the address that the name has now must be public or
//! permitted by the administrator; and both hold again for each redirect. Each request has a connection
//! of its own, which ends with it. Everything has a limit: requests under way, time, heads, bodies; a
//! body is passed on as it is consumed and never held.
//!
//! Deliberately absent: proxies (none is read from the environment), a cache, cookies, decompression,
//! HTTP/2, connections that are kept.

mod address;
mod dial;
mod error;
mod exchange;
mod grants;
mod request;
mod slots;
mod target;
mod tls;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isms_http::{CaError, tls_client};
use isms_ipc::{InboundRequest, Link, StreamReceiver, StreamSender};
use isms_protocol::{
    Header, Message, WireError,
    commserver::Fetch,
    limits::{FETCH_BODY_LEN_MAX, FETCH_REDIRECTS_MAX, INLINE_LEN_MAX},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use address::{AddressRule, AddressRuleError};
pub use dial::Resolver;
pub(crate) use dial::system_resolver;
pub(crate) use slots::FETCHES_MAX;

use dial::Dialer;
use error::{BODY_LIMIT, FetchError};
use exchange::{Answer, Payload, exchange};
use grants::GrantsCache;
use request::Outgoing;
use slots::Slots;
use target::Target;

/// Time for one request, redirects included, whatever the call has.
const FETCH_TIME_MAX: Duration = Duration::from_secs(120);

/// What the administrator says of requests to servers outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressConfig {
    /// Addresses that are permitted although they are not public.
    pub allow: Vec<AddressRule>,
    /// Certificates (PEM) that are trusted beside the public ones; empty for none.
    pub ca_pem: String,
}

impl EgressConfig {
    /// Fails when a server could not be told from another by these settings.
    pub fn check(&self) -> Result<(), CaError> {
        tls_client(&self.ca_pem).map(drop)
    }
}

/// The way out.
pub(crate) struct Egress {
    dialer: Dialer,
    grants: GrantsCache,
    slots: Slots,
}

/// An answer with where it came from.
struct Answered {
    answer: Answer,
    target: Target,
    until: Instant,
}

impl Egress {
    pub(crate) fn new(config: EgressConfig, link: Link, resolver: Resolver) -> Result<Egress, CaError> {
        Ok(Egress {
            dialer: Dialer {
                resolver,
                rules: config.allow,
                tls: tls_client(&config.ca_pem)?,
            },
            grants: GrantsCache::new(link),
            slots: Slots::default(),
        })
    }

    /// Serves one request. When nobody wants its answer any more, its connection is closed at once.
    pub(crate) async fn serve(&self, request: InboundRequest) {
        let InboundRequest {
            message,
            deadline,
            stream,
            responder,
        } = request;
        let header = message.header;
        // It counts until the last byte of the answer.
        let slot = match self.slots.take(header.project) {
            Ok(slot) => slot,
            Err(error) => return responder.error(error.into()),
        };
        let mut until = Instant::now() + FETCH_TIME_MAX;
        if let Some(deadline) = deadline {
            until = until.min(deadline.into());
        }
        let fetched = tokio::select! {
            biased;
            fetched = self.fetch(message, stream, &slot, until) => fetched,
            () = responder.cancelled() => return,
        };
        let mut answered = match fetched {
            Ok(answered) => answered,
            Err(error) => return refuse(responder, &header, error),
        };
        let head = match answered.answer.head(&answered.target) {
            Ok(head) => head,
            Err(error) => return refuse(responder, &header, error),
        };
        let server = &answered.target.server;
        tracing::debug!(process = %header.process, project = %header.project, %server, status = head.status, "a server answered");
        if head.body_len.is_none_or(|len| len > INLINE_LEN_MAX as u64) {
            let sink = responder.reply_stream(&head);
            return answered.pass_on(sink, &header).await;
        }
        let collected = tokio::select! {
            biased;
            collected = answered.collect() => collected,
            () = responder.cancelled() => return,
        };
        match collected {
            Ok(body) => responder.reply(&head, body),
            Err(error) => refuse(responder, &header, error),
        }
    }

    async fn fetch(
        &self,
        message: Message,
        stream: Option<StreamReceiver>,
        slot: &std::sync::Arc<slots::Slot>,
        until: Instant,
    ) -> Result<Answered, FetchError> {
        let Header {
            project,
            calling_doee,
            ..
        } = message.header;
        let fetch: Fetch = message.decode_body().map_err(|_| FetchError::Undecodable)?;
        let mut outgoing = Outgoing::new(&fetch)?;
        let until = match fetch.timeout_ms {
            0 => until,
            timeout_ms => until.min(Instant::now() + Duration::from_millis(timeout_ms.into())),
        };
        let mut payload = match stream {
            Some(stream) => Payload::Stream(stream),
            None if message.raw.len() as u64 == outgoing.body_len => Payload::Whole(message.raw),
            None => return Err(FetchError::Undecodable),
        };
        let grants = self.grants.of((project, calling_doee)).await?;
        let mut redirects_left = fetch.redirects_max.min(FETCH_REDIRECTS_MAX);
        loop {
            grants.check(&outgoing.target.server)?;
            let connection = self.dialer.dial(&outgoing.target, slot, until).await?;
            let answer = exchange(connection, &outgoing, payload, until).await?;
            let next = match redirects_left {
                0 => None,
                _ => outgoing.redirected(answer.status(), answer.response.headers())?,
            };
            let Some(next) = next else {
                return Ok(Answered {
                    answer,
                    target: outgoing.target,
                    until,
                });
            };
            redirects_left -= 1;
            outgoing = next;
            payload = Payload::Whole(Bytes::new());
        }
    }
}

impl Answered {
    /// The whole of a body whose length is known to be small.
    async fn collect(&mut self) -> Result<Bytes, FetchError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.answer.piece(&self.target, self.until).await {
            // Within the length that was announced, to which hyper holds the server.
            body.extend_from_slice(&piece?);
        }
        Ok(body.freeze())
    }

    /// Passes the body on as fast as the Doee reads it. What breaks off is told to the Doee as such.
    async fn pass_on(mut self, mut sink: StreamSender, header: &Header) {
        let ended = async {
            let mut len = 0;
            loop {
                let piece = tokio::select! {
                    biased;
                    _why = sink.refused() => return Ok(None),
                    piece = self.answer.piece(&self.target, self.until) => piece,
                };
                let Some(piece) = piece else {
                    return Ok(Some(sink));
                };
                let piece = piece?;
                len += piece.len() as u64;
                if len > FETCH_BODY_LEN_MAX {
                    return Err(FetchError::AnswerTooLarge {
                        server: self.target.server.clone(),
                        limit: BODY_LIMIT,
                    });
                }
                // It waits for credit, so a Doee that does not read has no more time than a server.
                match tokio::time::timeout_at(self.until, sink.send(piece)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Ok(None),
                }
            }
        };
        match ended.await {
            Ok(Some(sink)) => sink.finish(),
            Ok(None) => {}
            Err(error) => log_failure(header, &error),
        }
    }
}

fn refuse(responder: isms_ipc::Responder, header: &Header, error: FetchError) {
    log_failure(header, &error);
    responder.error(WireError::from(error));
}

fn log_failure(header: &Header, error: &FetchError) {
    let Header { process, project, .. } = header;
    tracing::debug!(%process, %project, %error, "a request to a server outside failed");
}
