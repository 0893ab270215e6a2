//! Clients that call all the while something happens.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::{Http, Platform, eventually};

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
