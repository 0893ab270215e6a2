//! Calls of a Doee to other Doees of its project.
//!
//! A worker names its callee and says nothing else that counts: on whose behalf it is called the Kernel says, whether it may
//! be Resadmin does, and who asked for the call at the beginning stands in the call that the worker was sent.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use isms_ipc::{Answer, StreamReceiver, StreamSender};
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError,
    doer::{Invocation, Operation, Trigger},
    encode,
    limits::{
        ASYNC_BODY_LEN_MAX, CALL_BODY_LEN_MAX, CALL_HEAD_LEN_MAX, CALL_HEADERS_MAX, KEY_LEN, MESSAGE_LEN_MAX,
        NAME_LEN_MAX,
    },
    resadmin::{self, Callee, FindCallee},
    worker::{CallAccepted, DoeeCall},
};
use sha2::{Digest, Sha256};

use crate::{connection::WorkerConnection, doer_admin::TaskId, service::Doer, worker_handler::Event};

/// Begins what is hashed for the key of an asynchronous call: no other hash of this program does.
const KEY_DOMAIN: &[u8] = b"isms call of a doee 1";

/// A call that a worker may make.
pub(crate) struct Outgoing {
    asked: DoeeCall,
    connection: Rc<WorkerConnection>,
    /// The call that makes it.
    task: TaskId,
    caller: DoeeVersion,
    /// Which one it is among the asynchronous ones that the attempt makes, from 1; 0 for one that is waited for.
    number: u32,
}

/// Reads what a worker asks for. An `Err` is what no honest executor does.
pub(crate) fn read(message: &Message, connection: &Rc<WorkerConnection>) -> Result<Outgoing, String> {
    let asked: DoeeCall = message
        .decode_body()
        .map_err(|error| format!("its call of a Doee cannot be read: {error}"))?;
    check(&asked, message)?;
    let Header { parent, attempt, .. } = message.header;
    let (task, number) = connection
        .caller(parent, attempt, asked.is_async)
        .ok_or("it asked on behalf of a call that it does not run")?;
    let doee = connection
        .doee()
        .ok_or("it has no Doee that could call another")?;
    Ok(Outgoing {
        asked,
        connection: Rc::clone(connection),
        task,
        caller: doee.spec.version,
        number,
    })
}

fn check(asked: &DoeeCall, message: &Message) -> Result<(), String> {
    let body_len_max = match asked.is_async {
        true => ASYNC_BODY_LEN_MAX as u64,
        false => CALL_BODY_LEN_MAX,
    };
    let fields = asked.headers.iter();
    let fields_len: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
    let is_stream = message.header.flags.contains(Flags::STREAM);
    let wrong = match () {
        () if asked.doee.is_empty() || asked.doee.len() > NAME_LEN_MAX => "the name",
        () if asked.headers.len() > CALL_HEADERS_MAX || fields_len > CALL_HEAD_LEN_MAX => "the header fields",
        () if !asked.headers.iter().all(|(name, _)| is_field_name(name)) => "the name of a header field",
        () if asked.body_len > body_len_max => "the body",
        () if message.raw.len() as u64 != if is_stream { 0 } else { asked.body_len } => {
            "the length of the body"
        }
        () => return Ok(()),
    };
    Err(format!(
        "{wrong} of its call of a Doee is none that an executor sends"
    ))
}

/// A name in lower case (RFC 9110), of a field that is not the platform's own.
fn is_field_name(name: &str) -> bool {
    let is_letter =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && !name.starts_with("isms-") && name.bytes().all(is_letter)
}

/// Makes the call, on behalf of the one that the Kernel knows.
pub(crate) async fn make(
    doer: &Rc<Doer>,
    outgoing: Outgoing,
    message: Message,
    stream: Option<StreamReceiver>,
) -> Result<Answer, WireError> {
    let callee = find(doer, &outgoing, &message.header).await?;
    let principal = doer.principal(outgoing.task)?;
    let is_async = outgoing.asked.is_async;
    let parent_is_durable = doer.state.borrow().durables.get(message.header.parent).is_some();
    let call = Request {
        asked: &outgoing.asked,
        number: outgoing.number,
    };
    let request = request(&call, message, &callee, principal, parent_is_durable);
    if request.len() > MESSAGE_LEN_MAX {
        let text = "the header fields of the call do not fit a message";
        return Err(WireError::new(ErrorCode::LimitReached, text));
    }
    let answer = match stream {
        None => doer.link.call(request).await?,
        Some(mut source) => {
            let (sink, pending) = doer.link.call_streaming(request);
            tokio::pin!(pending);
            let (doer, connection) = (Rc::clone(doer), outgoing.connection);
            let relay = async move {
                if let Err(what) = relay_exactly(&mut source, sink, outgoing.asked.body_len).await {
                    let worker = connection.worker;
                    doer.dispatch(Event::Misbehaved { worker, what });
                }
            };
            tokio::select! {
                biased;
                answer = &mut pending => answer?,
                () = relay => pending.await?,
            }
        }
    };
    Ok(match is_async {
        true => accepted(answer),
        false => answer,
    })
}

/// What the Kernel has accepted, as the worker is told.
fn accepted(answer: Answer) -> Answer {
    let process = answer.message.header.process;
    let message = Message::with_body(answer.message.header, &CallAccepted { process });
    Answer {
        message,
        stream: None,
    }
}

/// What the name stands for: what serves, if the calling version may call it.
async fn find(doer: &Doer, outgoing: &Outgoing, header: &Header) -> Result<Callee, WireError> {
    let name = &outgoing.asked.doee;
    let epoch = {
        let callees = &doer.state.borrow().callees;
        if let Some(callee) = callees.get(outgoing.caller, name, Instant::now()) {
            return Ok(callee);
        }
        callees.epoch()
    };
    let question = Header {
        operation: resadmin::Operation::Callee as u16,
        parent: header.parent,
        attempt: header.attempt,
        class: header.class,
        remaining_us: header.remaining_us,
        trace: header.trace,
        ..Header::new(Kind::Request, Service::Doer, Service::Resadmin)
    };
    let find = FindCallee { doee: name.clone() };
    let answer = doer.link.call(Message::with_body(question, &find)).await?;
    let callee: Callee = answer.message.decode_body().map_err(|error| {
        let text = format!("resadmin's answer cannot be read: {error}");
        WireError::new(ErrorCode::Internal, text)
    })?;
    if let Some(doee) = outgoing.connection.doee() {
        let key = (outgoing.caller, name.clone());
        let callees = &mut doer.state.borrow_mut().callees;
        callees.insert(key, doee.spec.project, callee, epoch, Instant::now());
    }
    Ok(callee)
}

/// What a worker asks for, and the number of that.
struct Request<'a> {
    asked: &'a DoeeCall,
    number: u32,
}

/// What the Kernel is asked for. It caps class and time once more by what the calling process has.
fn request(
    call: &Request<'_>,
    message: Message,
    callee: &Callee,
    principal: String,
    parent_is_durable: bool,
) -> Message {
    let Request { asked, number } = call;
    let Header {
        parent,
        attempt,
        class,
        remaining_us,
        trace,
        ..
    } = message.header;
    let asked_us = match asked.deadline_ms {
        0 => u64::MAX,
        ms => Duration::from_millis(ms.into()).as_micros() as u64,
    };
    let callees_us = Duration::from_millis(callee.deadline_ms.into()).as_micros() as u64;
    // What runs by itself has its own time.
    let callers_us = match asked.is_async || remaining_us == 0 {
        true => u64::MAX,
        false => remaining_us,
    };
    // The nth call of an attempt is that of another attempt; where nothing is tried again there is no other one.
    let key =
        (asked.is_async && callee.is_durable && parent_is_durable).then(|| key(parent, *number, &asked.doee));
    let mut flags = Flags::NONE;
    if asked.is_async {
        flags = flags.with(Flags::ASYNC).with(Flags::DURABLE);
    }
    if key.is_some() {
        flags = flags.with(Flags::KEYED);
    }
    let header = Header {
        operation: Operation::Invoke as u16,
        flags,
        class: asked
            .class
            .unwrap_or(class)
            .capped_by(class)
            .capped_by(callee.class),
        remaining_us: asked_us.min(callees_us).min(callers_us).max(1),
        parent,
        attempt,
        trace,
        target_doee: callee.version,
        ..Header::new(Kind::Request, Service::Doer, Service::Doer)
    };
    let invocation = Invocation {
        trigger: Trigger::Call,
        path: "/".to_owned(),
        headers: asked.headers.clone(),
        principal,
        payload_len: Some(asked.body_len),
        ..Invocation::default()
    };
    let raw = match key {
        Some(key) => [&key[..], &message.raw[..]].concat().into(),
        None => message.raw,
    };
    Message {
        header,
        body: encode(&invocation).into(),
        raw,
    }
}

/// Stands for the nth asynchronous call that any attempt of a durable call makes.
fn key(parent: ProcessId, number: u32, doee: &str) -> [u8; KEY_LEN] {
    let mut hash = Sha256::new();
    for field in [
        KEY_DOMAIN,
        &parent.to_bytes(),
        &number.to_le_bytes(),
        doee.as_bytes(),
    ] {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

/// Moves a body on that has this many bytes. An `Err` is what no honest executor does.
async fn relay_exactly(source: &mut StreamReceiver, mut sink: StreamSender, len: u64) -> Result<(), String> {
    let mut left = len;
    while let Some(chunk) = source.next().await {
        // Broken off: it gives the call up.
        let Ok(chunk): Result<Bytes, _> = chunk else {
            return Ok(());
        };
        let rest = left.checked_sub(chunk.len() as u64);
        left = rest.ok_or("it sent more of a body than it had announced")?;
        if sink.send(chunk).await.is_err() {
            return Ok(());
        }
    }
    if left > 0 {
        return Err("it sent less of a body than it had announced".to_owned());
    }
    sink.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use isms_protocol::Class;

    fn asked() -> DoeeCall {
        DoeeCall {
            doee: "other".into(),
            body_len: 3,
            ..DoeeCall::default()
        }
    }

    fn message(flags: Flags, raw: &'static [u8]) -> Message {
        let header = Header {
            flags,
            ..Header::new(Kind::Request, Service::Worker, Service::Doer)
        };
        Message::bare(header).with_raw(raw)
    }

    #[test]
    fn only_what_an_honest_executor_sends_is_taken() {
        let inline = message(Flags::NONE, b"abc");
        assert_eq!(check(&asked(), &inline), Ok(()));
        assert_eq!(check(&asked(), &message(Flags::STREAM, b"")), Ok(()));
        assert!(check(&asked(), &message(Flags::STREAM, b"abc")).is_err());
        assert!(check(&asked(), &message(Flags::NONE, b"ab")).is_err());
        let field = |name: &str, len: usize| (name.to_owned(), vec![0; len].into());
        let with = |change: &dyn Fn(&mut DoeeCall)| {
            let mut call = asked();
            change(&mut call);
            check(&call, &inline)
        };
        assert_eq!(with(&|call| call.headers = vec![field("x-a", 3)]), Ok(()));
        for name in ["", "X-A", "isms-planned", "a b", "a\n"] {
            assert!(
                with(&|call| call.headers = vec![field(name, 1)]).is_err(),
                "{name:?}"
            );
        }
        assert!(with(&|call| call.headers = vec![field("x", CALL_HEAD_LEN_MAX)]).is_err());
        assert!(with(&|call| call.headers = vec![field("x", 0); CALL_HEADERS_MAX + 1]).is_err());
        assert!(with(&|call| call.doee = String::new()).is_err());
        assert!(with(&|call| call.doee = "x".repeat(NAME_LEN_MAX + 1)).is_err());
        let stream = message(Flags::STREAM, b"");
        let long = |body_len, is_async| {
            let call = DoeeCall {
                body_len,
                is_async,
                ..asked()
            };
            check(&call, &stream)
        };
        assert_eq!(long(CALL_BODY_LEN_MAX, false), Ok(()));
        assert!(long(CALL_BODY_LEN_MAX + 1, false).is_err());
        assert!(long(ASYNC_BODY_LEN_MAX as u64 + 1, true).is_err());
    }

    #[test]
    fn a_key_is_that_of_one_call_among_those_of_one_process() {
        let process = |number: u8| ProcessId::from_bytes([number; 16]);
        let first = key(process(1), 1, "other");
        assert_eq!(first, key(process(1), 1, "other"));
        for another in [
            key(process(2), 1, "other"),
            key(process(1), 2, "other"),
            key(process(1), 1, "another"),
        ] {
            assert_ne!(first, another);
        }
    }

    #[test]
    fn class_and_time_are_the_least_that_anybody_says() {
        let callee = Callee {
            version: DoeeVersion::from_bytes([3; 16]),
            class: Class::Normal,
            deadline_ms: 900,
            is_durable: true,
        };
        let head = |asked: DoeeCall, parent_is_durable: bool| {
            let mut message = message(Flags::NONE, b"abc");
            message.header.class = Class::High;
            message.header.remaining_us = 500_000;
            let call = Request {
                asked: &asked,
                number: 1,
            };
            request(&call, message, &callee, "me".into(), parent_is_durable)
        };
        let plain = head(asked(), true);
        assert_eq!(
            (plain.header.class, plain.header.remaining_us, plain.header.flags),
            (Class::Normal, 500_000, Flags::NONE)
        );
        let invocation: Invocation = plain.decode_body().unwrap();
        assert_eq!(
            (invocation.trigger, &*invocation.principal),
            (Trigger::Call, "me")
        );
        let lowered = DoeeCall {
            class: Some(Class::Batch),
            deadline_ms: 100,
            ..asked()
        };
        let lowered = head(lowered, true).header;
        assert_eq!((lowered.class, lowered.remaining_us), (Class::Batch, 100_000));
        let raised = DoeeCall {
            class: Some(Class::Realtime),
            deadline_ms: 5_000,
            ..asked()
        };
        let raised = head(raised, true).header;
        assert_eq!((raised.class, raised.remaining_us), (Class::Normal, 500_000));
        let later = DoeeCall {
            is_async: true,
            ..asked()
        };
        let (once, any) = (head(later.clone(), true), head(later, false));
        assert_eq!(once.header.remaining_us, 900_000);
        assert!(once.header.flags.contains(Flags::KEYED) && once.raw.len() == KEY_LEN + 3);
        assert!(!any.header.flags.contains(Flags::KEYED) && any.raw.len() == 3);
    }
}
