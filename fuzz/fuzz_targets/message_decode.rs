//! Reads any bytes as a message and its body as every type that a hostile peer could aim at: nothing
//! may panic, and a header that decodes must encode to what means the same.
//!
//! Byte 0 is the number of frames, byte 1 the length of the body's frame; the rest are the frames.

#![no_main]

use bytes::Bytes;
use isms_protocol::{
    HEADER_LEN, Header, Message, WireError, commserver, dbriver, doer, kernel, resadmin, worker,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [count, body_len, rest @ ..] = data else {
        return;
    };
    let (header, rest) = rest.split_at(rest.len().min(HEADER_LEN));
    let (body, raw) = rest.split_at(rest.len().min(usize::from(*body_len)));
    let frames = [header, body, raw, b"one too many"].map(Bytes::copy_from_slice);
    let frames = frames.into_iter().take(usize::from(*count % 5)).collect();
    if let Ok(message) = Message::from_frames(frames) {
        assert_eq!(
            Header::decode(&message.header.encode()).ok(),
            Some(message.header)
        );
    }
    let message = Message {
        header: Header::new(
            isms_protocol::Kind::Request,
            isms_protocol::Service::Worker,
            isms_protocol::Service::Doer,
        ),
        body: Bytes::copy_from_slice(rest),
        raw: Bytes::new(),
    };
    let _ = message.decode_body::<WireError>();
    let _ = message.decode_body::<kernel::Register>();
    let _ = message.decode_body::<kernel::StreamCredit>();
    let _ = message.decode_body::<doer::Invocation>();
    let _ = message.decode_body::<doer::InvocationReply>();
    let _ = message.decode_body::<worker::Report>();
    let _ = message.decode_body::<worker::LogLine>();
    let _ = message.decode_body::<dbriver::Sequence>();
    let _ = message.decode_body::<dbriver::Transaction>();
    let _ = message.decode_body::<dbriver::Results>();
    let _ = message.decode_body::<commserver::ProjectRoutes>();
    let _ = message.decode_body::<resadmin::Deploy>();
});
