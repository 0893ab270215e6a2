//! From dates and times of a calendar to points in time, where clocks are put forward and back.
//!
//! Invariants: a schedule of given hours has exactly one run for each date and time that it names, however often clocks
//! show it: at the first of two, and at the first moment after a gap that swallowed it. One of every hour has a run
//! whenever clocks show what it names, so that it keeps its pace.

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use super::cron::Cron;

/// Changes of a zone's offset that are looked through: two in a year for as long as a match may take, and room for zones
/// that change oftener.
const TRANSITIONS_SEARCHED: usize = 200;

/// The first planned time after a time, in s since 1970.
pub(super) fn next(cron: &Cron, zone: &TimeZone, after_s: u64) -> Option<u64> {
    let after = Timestamp::from_second(i64::try_from(after_s).ok()?).ok()?;
    let next = match cron.is_every_hour() {
        true => next_shown(cron, zone, after),
        false => next_named(cron, zone, after),
    };
    u64::try_from(next?.as_second()).ok()
}

/// The next moment at which clocks show a match.
fn next_shown(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut start = second_after(after)?;
    for _ in 0..TRANSITIONS_SEARCHED {
        let offset = zone.to_offset(start);
        let change = zone.following(start).next().map(|change| change.timestamp());
        let at = to_timestamp(offset, cron.from(offset.to_datetime(start))?)?;
        match change {
            Some(change) if at >= change => start = change,
            _ => return Some(at),
        }
    }
    None
}

/// The moment of the next date and time that has its own after `after`.
fn next_named(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = zone.to_datetime(second_after(after)?);
    // What clocks show for the second time has had its moments; they are left behind one by one.
    loop {
        let named = cron.from(from)?;
        let at = moment(zone, named)?;
        if at > after {
            return Some(at);
        }
        from = named.checked_add(jiff::Span::new().seconds(1)).ok()?;
    }
}

fn moment(zone: &TimeZone, named: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(named).offset() {
        AmbiguousOffset::Unambiguous { offset } => to_timestamp(offset, named),
        AmbiguousOffset::Fold { before, .. } => to_timestamp(before, named),
        AmbiguousOffset::Gap { after, .. } => {
            // With the offset that counts after the gap, a time within it comes out before.
            let before_gap = to_timestamp(after, named)?;
            zone.following(before_gap).next().map(|change| change.timestamp())
        }
    }
}

fn to_timestamp(offset: Offset, datetime: DateTime) -> Option<Timestamp> {
    offset.to_timestamp(datetime).ok()
}

fn second_after(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_second().checked_add(1)?).ok()
}
