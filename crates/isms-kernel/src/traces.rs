//! Which calls are traced, and what waits to be told of them.
//!
//! Invariants: whether a call is traced is decided once, when it comes in, and again when it ends badly or slowly; both
//! are bounded by a rate, of which no project takes what a quieter one needs; what waits to be told is bounded and
//! counted when it is lost. Nothing is kept here of a call that is not traced.

use isms_protocol::{
    Header, Kind, Message, ProjectId, Service,
    gate::{self, Span, Spans},
    limits::SPANS_MAX,
};

use crate::{
    clock::{Calendar, Moment},
    config::Config,
    core::Core,
};

/// How long a span waits for others.
const FLUSH_US: u64 = 200_000;
/// Of the calls that may be traced at once, those that nobody takes but who asks for it or has had none lately.
const RESERVED_PERCENT: u64 = 25;
/// Of them, those that are for nobody but who has had none lately.
const QUIET_PERCENT: u64 = 12;
/// The least that may be traced at once, however low the rate.
const BURST_MIN: u64 = 8;
/// How long ago the last traced call of a project must be for it to be quiet.
const QUIET_US: u64 = 1_000_000;
/// What the calendar must have moved by to have been set, rather than looked at late.
const SET_US: u64 = 100_000;
/// Projects that are remembered; of two in one place the later one is.
const SEEN: usize = 64;

/// Decides which calls are traced.
pub(crate) struct Sampler {
    /// Between two calls at the full rate, in µs; 0 for none at all.
    interval_us: u64,
    /// What the bucket holds, in µs; what of it anybody may use, and what those may who ask for it.
    burst_us: u64,
    free_us: u64,
    asked_us: u64,
    /// When the bucket is full again.
    full_at: Moment,
    seen: [Option<(ProjectId, Moment)>; SEEN],
}

impl Sampler {
    pub(crate) fn new(per_s: u32) -> Sampler {
        let interval_us = 1_000_000_u64.checked_div(per_s.into()).unwrap_or(0);
        let burst_us = (BURST_MIN * interval_us).max(1_000_000);
        Sampler {
            interval_us,
            burst_us,
            free_us: burst_us - burst_us * RESERVED_PERCENT / 100,
            asked_us: burst_us - burst_us * QUIET_PERCENT / 100,
            full_at: Moment(0),
            seen: [None; SEEN],
        }
    }

    /// Whether a call of a project is traced; `asked` if who calls wants it.
    pub(crate) fn takes(&mut self, project: ProjectId, asked: bool, now: Moment) -> bool {
        if self.interval_us == 0 {
            return false;
        }
        let used = self.full_at.us_since(now) + self.interval_us;
        let takes = used <= self.free_us
            || asked && used <= self.asked_us
            || used <= self.burst_us && self.is_quiet(project, now);
        if takes {
            self.full_at = self.full_at.max(now).after_us(self.interval_us);
            self.seen[place(project)] = Some((project, now));
        }
        takes
    }

    fn is_quiet(&self, project: ProjectId, now: Moment) -> bool {
        let seen = self.seen[place(project)].filter(|(seen, _)| *seen == project);
        seen.is_none_or(|(_, at)| now.us_since(at) >= QUIET_US)
    }
}

/// Ids end in random bits.
fn place(project: ProjectId) -> usize {
    usize::from(project.to_bytes()[15]) % SEEN
}

/// What the Kernel has of traces.
pub(crate) struct Traces {
    /// Of calls that come in, and of those that end badly.
    pub(crate) head: Sampler,
    pub(crate) tail: Sampler,
    pub(crate) slow_us: u64,
    /// The calendar's lead over the monotonic clock in µs, at the best look so far.
    ahead_us: i64,
    batch: Vec<Span>,
    flush_at: Option<Moment>,
    dropped: u64,
}

impl Traces {
    pub(crate) fn new(config: &Config) -> Traces {
        Traces {
            head: Sampler::new(config.traces_per_s),
            tail: Sampler::new(config.traces_per_s),
            slow_us: u64::from(config.slow_ms) * 1000,
            ahead_us: i64::MIN,
            batch: Vec::new(),
            flush_at: None,
            dropped: 0,
        }
    }

    /// A moment in Unix time, by one and the same lead for as long as the calendar is not set: it is looked at a little
    /// late each time, and spans of one call are compared with each other.
    pub(crate) fn unix_us(&mut self, calendar: Calendar, at: Moment) -> u64 {
        let ahead = calendar.ahead_us();
        if ahead > self.ahead_us || self.ahead_us.abs_diff(ahead) > SET_US {
            self.ahead_us = ahead;
        }
        at.0.saturating_add_signed(self.ahead_us)
    }

    /// When there is something to tell.
    pub(crate) fn next_wake(&self) -> Option<Moment> {
        self.flush_at
    }
}

impl Core {
    /// Tells of a span, with others.
    pub(crate) fn tell_span(&mut self, span: Span) {
        self.traces.batch.push(span);
        self.traces.flush_at.get_or_insert(self.now.after_us(FLUSH_US));
        if self.traces.batch.len() >= SPANS_MAX {
            self.send_spans();
        }
    }

    /// Tells of the spans that have waited long enough.
    pub(crate) fn flush_spans(&mut self) {
        if self.traces.flush_at.is_some_and(|at| at <= self.now) {
            self.send_spans();
        }
    }

    fn send_spans(&mut self) {
        let traces = &mut self.traces;
        traces.flush_at = None;
        let spans = Spans {
            spans: std::mem::take(&mut traces.batch),
            dropped: traces.dropped,
        };
        if self.services.registration(Service::Gate).is_none() {
            self.traces.dropped += spans.spans.len() as u64;
            return;
        }
        let header = Header {
            operation: gate::Operation::Spans as u16,
            sender_generation: self.generation(Service::Kernel),
            ..Header::new(Kind::Event, Service::Kernel, Service::Gate)
        };
        self.send_to(Service::Gate, Message::with_body(header, &spans));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Unix;

    fn project(number: u8) -> ProjectId {
        ProjectId::from_bytes([number; 16])
    }

    /// How many of the calls of a project are traced that come every `every_us` for so long.
    fn traced(sampler: &mut Sampler, from: Moment, for_us: u64, every_us: u64, asked: bool) -> u64 {
        let moments = (0..for_us / every_us).map(|number| from.after_us(number * every_us));
        moments
            .filter(|&now| sampler.takes(project(1), asked, now))
            .count() as u64
    }

    #[test]
    fn of_a_flood_no_more_are_traced_than_the_rate_and_what_may_come_at_once() {
        for per_s in [1, 10, 200, 10_000] {
            let mut sampler = Sampler::new(per_s);
            let seconds = 20;
            let count = traced(&mut sampler, Moment(1 << 40), seconds * 1_000_000, 33, true);
            let rate = u64::from(per_s);
            let burst = rate.max(BURST_MIN);
            assert!(count <= rate * seconds + burst, "{count} at {per_s}");
            assert!(count >= rate * (seconds - 1), "{count} at {per_s}");
        }
    }

    #[test]
    fn a_late_look_at_the_calendar_moves_no_span_and_a_calendar_that_is_set_all() {
        let mut traces = Traces::new(&Config::default());
        let mut calendar = Calendar::default();
        let now = Moment(5_000_000);
        for (shows, expected) in [
            (9_000_000, 9_000_000),
            (8_999_000, 9_000_000),
            (9_000_007, 9_000_007),
            (8_000_000, 8_000_000),
            (9_500_000, 9_500_000),
        ] {
            calendar.set(now, Unix(shows));
            assert_eq!(traces.unix_us(calendar, now), expected, "{shows}");
        }
    }

    #[test]
    fn without_a_rate_nothing_is_traced() {
        let mut sampler = Sampler::new(0);
        assert!(!sampler.takes(project(1), true, Moment(5)));
    }

    #[test]
    fn a_lone_call_is_always_traced() {
        let mut sampler = Sampler::new(1);
        for number in 1..50 {
            assert!(sampler.takes(project(1), false, Moment(number * 2_000_000)));
        }
    }

    #[test]
    fn the_flood_of_one_project_leaves_room_for_another_and_for_who_asks() {
        let mut sampler = Sampler::new(100);
        let now = Moment(1 << 40);
        traced(&mut sampler, now, 5_000_000, 33, false);
        // Before the next one comes in.
        let now = now.after_us(4_999_970);
        assert!(!sampler.takes(project(1), false, now));
        assert!(sampler.takes(project(1), true, now), "it asks");
        assert!(sampler.takes(project(2), false, now), "it is quiet");
        // Not even who asks takes what quiet projects need.
        traced(&mut sampler, now, 5_000_000, 33, true);
        let now = now.after_us(4_999_970);
        assert!(!sampler.takes(project(1), true, now));
        assert!(sampler.takes(project(3), false, now));
        assert!(!sampler.takes(project(3), false, now), "it has had one");
    }
}
