//! Any bytes as a request to the spawner, as its event, and as the supervisor's word: nothing may panic, and a request
//! that is understood has exactly one encoding.

#![no_main]

use isms_sandbox::spawner::{EVENT_LEN_MAX, Event, FromSpawner, Request, ToSpawner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Ok(event) = Event::decode(data) {
        let again = event.encode();
        assert!(again.len() <= EVENT_LEN_MAX);
        assert_eq!(Event::decode(&again).as_ref(), Ok(&event));
    }
    let _ = ToSpawner::decode(data);
    let _ = FromSpawner::decode(data);
});
