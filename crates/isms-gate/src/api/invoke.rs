//! Direct calls of a Doee.

use std::time::Duration;

use http::{HeaderValue, Response, header};
use isms_http::{
    Body, Exchange, IdempotencyKey, Incoming, KeyScope, Lowered, Preferences, Problem, Upload, accepted,
    reply_head,
};
use isms_protocol::{
    ErrorCode, Flags, Message, Service,
    doer::{Invocation, InvocationReply, Operation, Trigger},
    limits::{ASYNC_BODY_LEN_MAX, HTTP_BODY_LEN_DEFAULT},
};
use serde_bytes::ByteBuf;
use tokio::time::Instant;

use super::{Answer, Call, process};

/// The fields of the request that the Doee gets to see.
const PASSED_ON: [header::HeaderName; 2] = [header::CONTENT_TYPE, header::ACCEPT];

impl Call<'_> {
    /// Calls a Doee with the request's body; its status, fields and body are the response, unless the request
    /// prefers not to wait for them.
    pub(super) async fn invoke(&self, body: Incoming) -> Answer {
        let project = self.project(self.parameter(0)).await?;
        let name = self.parameter(1);
        let doee = project.doees.iter().find(|doee| doee.name == name);
        let doee = doee.ok_or_else(|| Problem::new(ErrorCode::NotFound, "the project has no such doee"))?;
        let lowered = Lowered::of(&self.parts.headers)?;
        let within = lowered.deadline(Duration::from_millis(doee.deadline_ms.into()));
        let deadline = Instant::now() + within;
        let Preferences { respond_async, .. } = Preferences::of(&self.parts.headers);
        let (kept, len_max) = match respond_async {
            true => (Flags::ASYNC.with(Flags::DURABLE), ASYNC_BODY_LEN_MAX as u64),
            false => (Flags::NONE, HTTP_BODY_LEN_DEFAULT),
        };
        let key = IdempotencyKey::of(&self.parts.headers, respond_async)?;
        let upload = Upload {
            body,
            len_max,
            deadline,
        };
        let (trace, asked) = self.trace();
        let request = |payload_len| {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // No time at all would mean "no deadline".
            let remaining = remaining.max(Duration::from_micros(1));
            let mut header = self.header(Service::Doer, Operation::Invoke as u16, project.id, remaining);
            header.target_doee = doee.version;
            header.trace = trace;
            header.flags = kept.with(asked);
            header.class = lowered.class(doee.class);
            let message = Message::with_body(header, &self.invocation(payload_len));
            Ok(match &key {
                Some(key) => key.put_on(message, KeyScope::Doee { name }),
                None => message,
            })
        };
        let called = upload.call(&self.gate.link, request).await;
        let exchange = called.map_err(|problem| problem.in_trace(trace.trace))?;
        if respond_async {
            let id = exchange.message().header.process;
            return Ok(accepted(id, &process::location(id)));
        }
        respond(exchange)
    }

    fn invocation(&self, payload_len: Option<u64>) -> Invocation {
        let headers = &self.parts.headers;
        let fields = PASSED_ON
            .iter()
            .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
        Invocation {
            trigger: Trigger::Direct,
            method: self.parts.method.as_str().to_owned(),
            path: "/".to_owned(),
            query: self.parts.uri.query().unwrap_or_default().to_owned(),
            headers: fields
                .map(|(name, value)| (name.to_string(), ByteBuf::from(value.as_bytes())))
                .collect(),
            principal: self.caller.name.clone(),
            payload_len,
            ..Invocation::default()
        }
    }
}

/// The Doee's answer as that of this listener.
pub(super) fn respond(exchange: Exchange) -> Answer {
    let process = exchange.message().header.process;
    let reply: InvocationReply = exchange.message().decode_body().map_err(|error| {
        tracing::error!(%process, %error, "the doer gave a malformed reply");
        Problem::new(ErrorCode::Internal, "the call's reply is malformed").with_instance(process)
    })?;
    let (status, mut headers) = reply_head(&reply, process)?;
    // This is the management API's origin: what a Doee says must not act here.
    headers.remove(header::SET_COOKIE);
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    let (_, body) = exchange.into_body(reply.payload_len);
    let mut response: Response<Body> = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}
