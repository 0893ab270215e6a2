//! What comes out of a worker into the Doer, judged: any datagram as a report, any frames as a message. Nothing may
//! panic, and nothing may pass but a line of the log or a transaction of a running call.
//!
//! Byte 0 says which, and whether the call runs.

#![no_main]

use bytes::Bytes;
use isms_doer::fuzzing;
use isms_protocol::{HEADER_LEN, Kind, Message, Service, dbriver, worker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        return fuzzing::report(data);
    }
    let (header, body) = data.split_at(data.len().min(HEADER_LEN));
    let frames = vec![Bytes::copy_from_slice(header), Bytes::copy_from_slice(body)];
    let Ok(message) = Message::from_frames(frames) else {
        return;
    };
    let runs = choice & 2 != 0;
    if fuzzing::message(&message, runs) {
        let header = message.header;
        let is_line = header.kind == Kind::Event && header.operation == worker::Operation::Log as u16;
        let is_call = runs
            && header.target == Service::Dbriver
            && header.operation == dbriver::Operation::Transaction as u16;
        assert!(is_line || is_call);
    }
});
