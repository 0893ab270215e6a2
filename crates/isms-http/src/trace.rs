//! W3C trace contexts: a client's own, or fresh ones.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use isms_protocol::{Flags, SpanId, TraceContext, TraceId};

/// The flag of a `traceparent` by which who calls says that it keeps the trace.
const SAMPLED: u8 = 1;

/// Makes trace ids that do not repeat and that nobody can foretell: a keyed hash over a counter.
#[derive(Default)]
pub struct TraceIds {
    key: RandomState,
    counter: AtomicU64,
}

impl TraceIds {
    /// The context that a `traceparent` field carries, and [`Flags::TRACED`] where it says *sampled*; or a fresh one
    /// when there is none or when it is malformed: the standard asks to start a new trace then.
    pub fn context(&self, traceparent: Option<&[u8]>) -> (TraceContext, Flags) {
        traceparent
            .and_then(parse_traceparent)
            .unwrap_or_else(|| (self.fresh(), Flags::NONE))
    }

    /// A trace of no client's: it has no span yet.
    fn fresh(&self) -> TraceContext {
        // Two numbers a context; `| 1` keeps an id from being all zero, which is invalid.
        let number = self.counter.fetch_add(2, Ordering::Relaxed);
        let word = |offset| self.key.hash_one(number + offset).to_be_bytes();
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&word(0));
        trace[8..].copy_from_slice(&word(1));
        trace[15] |= 1;
        TraceContext {
            trace: TraceId(trace),
            span: SpanId::default(),
        }
    }
}

/// Reads `VERSION-TRACE-SPAN-FLAGS` (W3C Trace Context §3.2): lower-case hex, version not `ff`, ids
/// not all zero; a version above 00 may go on after the flags.
fn parse_traceparent(value: &[u8]) -> Option<(TraceContext, Flags)> {
    let [version]: [u8; 1] = hex(value.get(..2)?)?;
    let long = value.len() > 55;
    if version == 0xff || (long && (version == 0 || value[55] != b'-')) {
        return None;
    }
    if [2, 35, 52].iter().any(|&dash| value.get(dash) != Some(&b'-')) {
        return None;
    }
    let [flags]: [u8; 1] = hex(value.get(53..55)?)?;
    let trace: [u8; 16] = hex(&value[3..35])?;
    let span: [u8; 8] = hex(&value[36..52])?;
    if trace == [0; 16] || span == [0; 8] {
        return None;
    }
    let context = TraceContext {
        trace: TraceId(trace),
        span: SpanId(span),
    };
    let sampled = flags & SAMPLED != 0;
    Some((context, if sampled { Flags::TRACED } else { Flags::NONE }))
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_traceparent_is_taken_over() {
        let (context, flags) = TraceIds::default().context(Some(VALID));
        assert_eq!(flags, Flags::TRACED);
        assert_eq!(context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span.to_string(), "b7ad6b7169203331");
    }

    #[test]
    fn what_its_client_does_not_keep_is_not_asked_for() {
        for (flags, asked) in [("00", Flags::NONE), ("02", Flags::NONE), ("03", Flags::TRACED)] {
            let value = [&VALID[..53], flags.as_bytes()].concat();
            assert_eq!(TraceIds::default().context(Some(&value)).1, asked, "{flags}");
        }
        assert_eq!(TraceIds::default().context(None).1, Flags::NONE);
    }

    #[test]
    fn a_newer_version_may_carry_more() {
        let newer = [b"cc", &VALID[2..], b"-what-the-future-will-be"].concat();
        assert!(parse_traceparent(&newer).is_some());
    }

    #[test]
    fn malformed_traceparents_start_a_fresh_trace() {
        let cases: [&[u8]; 9] = [
            b"",
            b"00",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            b"00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-\xff\xff",
        ];
        for case in cases {
            assert_eq!(parse_traceparent(case), None, "{}", case.escape_ascii());
        }
    }

    #[test]
    fn fresh_traces_differ_are_never_zero_and_have_no_span_of_a_client() {
        let ids = TraceIds::default();
        let (first, second) = (ids.context(None).0, ids.context(None).0);
        assert_ne!(first, second);
        assert_ne!(first.trace, TraceId::default());
        assert!(first.span.is_none());
    }
}
