//! Clients that call all the while something happens.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::{Http, Platform, Response, eventually};

/// Eight clients that call without pause, each call answered well, while `meanwhile` runs; it is given the number
/// of calls that they have made.
pub(crate) fn under_load(platform: &Platform, path: &str, meanwhile: impl FnOnce(&AtomicU32)) {
    let (calls, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut http = Http::connect(platform.http);
                while !stop.load(Relaxed) {
                    let answer = http.send("GET", path, &[], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    calls.fetch_add(1, Relaxed);
                }
            });
        }
        // A failed client ends the test by its panic, once the others have stopped.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&calls)));
        stop.store(true, Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until the clients have made more calls.
pub(crate) fn await_calls(calls: &AtomicU32, more: u32) {
    let until = calls.load(Relaxed) + more;
    eventually("calls under load", || {
        (calls.load(Relaxed) >= until).then_some(())
    });
}

/// Posts one call after the other below a path, each with an id of its own as its query, until it is stopped; says how
/// those were answered that were. Who answers may die meanwhile.
pub(crate) fn post_each(
    platform: &Platform,
    client: usize,
    path: &str,
    fields: &[(&str, &str)],
    stop: &AtomicBool,
    answered: impl Fn(String, &Response),
) {
    let mut connection = None;
    for number in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let Some(mut http) = connection
            .take()
            .or_else(|| Http::try_connect(platform.http).ok())
        else {
            continue;
        };
        let id = format!("{client}-{number}");
        if let Ok(answer) = http.try_send("POST", &format!("{path}?{id}"), fields, b"") {
            answered(id, &answer);
            connection = Some(http);
        }
    }
}
