//! Something that happens once, and can be waited for by many.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Flag {
    set: AtomicBool,
    notify: Notify,
}

impl Flag {
    pub(super) fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    pub(super) async fn wait(&self) {
        let mut notified = pin!(self.notify.notified());
        // Enlisted before the look at the flag, or a set between the two would be missed.
        notified.as_mut().enable();
        if !self.is_set() {
            notified.await;
        }
    }
}
