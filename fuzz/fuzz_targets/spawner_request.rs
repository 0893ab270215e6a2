//! Reads any bytes as a Doer's request and as a spawner's event: nothing may panic, and what is accepted has one
//! encoding.

#![no_main]

use isms_sandbox::spawner::{Event, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode().as_slice(), data);
    }
    if let Ok(event) = Event::decode(data) {
        assert_eq!(Event::decode(&event.encode()), Ok(event));
    }
});
