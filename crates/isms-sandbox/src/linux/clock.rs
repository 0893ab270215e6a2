//! The clock that `Instant` hides, as a number.
#![allow(unsafe_code)] // clock_gettime

use std::{mem::MaybeUninit, time::Duration};

/// Time on CLOCK_MONOTONIC, read without a system call in a worker too: libc gets the address of the kernel's
/// clock from the kernel, where rustix would look for it in `/proc`.
pub fn monotonic() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` may be written to, and zeroes are a value should it not be.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_advances_as_instants_do() {
        let (instant, before) = (std::time::Instant::now(), monotonic());
        while instant.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(monotonic() >= before + Duration::from_millis(1));
    }
}
