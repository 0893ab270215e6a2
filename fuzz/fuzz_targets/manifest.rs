//! Any text as a project's manifest: nothing may panic.

#![no_main]

use isms_resadmin::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = fuzzing::manifest(text);
});
