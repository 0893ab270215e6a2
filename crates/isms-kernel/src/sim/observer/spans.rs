//! What the Kernel tells of traced processes.

use isms_protocol::{
    Message, Service, SpanId,
    gate::{Operation, Outcome, Span, Spans},
    limits::{MESSAGE_LEN_MAX, SPANS_MAX, SPANS_PER_CALL_MAX},
};

use super::Observer;
use crate::clock::Moment;

impl Observer {
    /// The core tells of spans, each of which makes sense by itself.
    pub(super) fn spans_told(&mut self, to: Service, message: &Message, now: Moment) {
        assert_eq!(to, Service::Gate, "spans are for Control Gate");
        assert_eq!(message.header.operation, Operation::Spans as u16);
        assert!(message.len() <= MESSAGE_LEN_MAX);
        let told: Spans = message.decode_body().expect("the core encodes spans");
        assert!((1..=SPANS_MAX).contains(&told.spans.len()), "a batch of its size");
        self.tally.traced += told.spans.len() as u64;
        for span in &told.spans {
            check(span, now);
        }
    }
}

fn check(span: &Span, now: Moment) {
    let dispatched = span.dispatched_us.unwrap_or(span.queued_us);
    let times = [span.queued_us, dispatched, span.replied_us, span.ended_us];
    assert!(times.is_sorted(), "its times are in order: {span:?}");
    assert!(span.ended_us <= now.0, "{span:?}");
    let is_root = span.parent.is_none();
    assert_eq!(is_root, span.root == span.process, "{span:?}");
    assert!(is_root || span.client == SpanId::default(), "{span:?}");
    assert!(
        span.outcome != Outcome::Expired || span.dispatched_us.is_none(),
        "what ran has not expired: {span:?}"
    );
    assert!(span.omitted == 0 || is_root && SPANS_PER_CALL_MAX > 0, "{span:?}");
}
