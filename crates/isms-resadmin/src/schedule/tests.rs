//! Planned times: by example, and against a search of every minute.

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};
use proptest::prelude::*;

use super::*;

fn cron(fields: &str, time_zone: &str) -> Times {
    Times::Cron {
        fields: fields.into(),
        time_zone: time_zone.into(),
    }
}

fn seconds(text: &str) -> u64 {
    text.parse::<Timestamp>().unwrap().as_second() as u64
}

/// The first planned times after a time.
fn after(times: &Times, start: &str, count: usize) -> Vec<String> {
    let mut at = seconds(start);
    let mut next = || {
        at = times.next(at).unwrap().unwrap();
        planned_text(at)
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn multiples_since_1970_are_planned_whatever_the_time_zone() {
    let every = Times::Every { seconds: 90 };
    assert_eq!(every.next(0), Ok(Some(90)));
    assert_eq!(every.next(89), Ok(Some(90)));
    assert_eq!(every.next(90), Ok(Some(180)));
    assert_eq!(every.next(u64::MAX), Ok(None));
}

#[test]
fn fields_name_what_they_say() {
    let friday = "2026-01-02T10:58:00Z";
    let plan = |fields, count| after(&cron(fields, "UTC"), friday, count);
    assert_eq!(
        plan("*/30 8-10 * * MON-FRI", 2),
        ["2026-01-05T08:00:00Z", "2026-01-05T08:30:00Z"]
    );
    assert_eq!(plan("0 12 * * 7", 1), plan("0 12 * * sun", 1));
    assert_eq!(plan("0 12 * * fri-sun", 1), ["2026-01-02T12:00:00Z"]);
    assert_eq!(
        plan("*/25 58,59 10 * * *", 2),
        ["2026-01-02T10:58:25Z", "2026-01-02T10:58:50Z"]
    );
    assert_eq!(plan("* * * * * *", 1), ["2026-01-02T10:58:01Z"]);
    // Day of the month or day of the week, when both are given.
    assert_eq!(
        plan("0 0 13 * MON", 3),
        [
            "2026-01-05T00:00:00Z",
            "2026-01-12T00:00:00Z",
            "2026-01-13T00:00:00Z"
        ]
    );
    assert_eq!(plan("0 0 29 2 *", 1), ["2028-02-29T00:00:00Z"]);
    let late = after(&cron("0 0 29 FEB *", "UTC"), "2096-03-01T00:00:00Z", 1);
    assert_eq!(late, ["2104-02-29T00:00:00Z"]);
}

#[test]
fn what_is_no_expression_or_never_fires_is_refused() {
    let error = |text| Cron::parse(text).expect_err(text).to_string();
    assert_eq!(
        error("0 0 31 2 *"),
        "never fires: no month that it names has such a day"
    );
    assert_eq!(error("0 0 31 4,6,9,11 *"), error("0 0 30 2 *"));
    assert!(error("* * * *").starts_with("has 4 fields; it is `minute hour"));
    assert!(error("@daily").starts_with("has 1 fields"));
    assert!(error("60 * * * *").starts_with("has \"60\" as minute; allowed: 0 to 59"));
    for bad in [
        "", "+1", "1-", "-1", "*/0", "*/", "1/x", "999", "JAN", "1,,2", "ß", "*-3",
    ] {
        let text = format!("0 {} 1 1 *", if bad.is_empty() { "," } else { bad });
        assert!(Cron::parse(&text).is_err(), "{text}");
    }
    assert_eq!(
        error("0 0 * * FRI-TUE"),
        "has the range \"FRI-TUE\" as day of the week, which ends before it begins"
    );
    assert!(Cron::parse("0 0 31 2 MON").is_ok(), "Mondays of February");
}

#[test]
fn a_name_that_is_no_time_zone_is_refused() {
    for bad in ["", "Mars/Olympus", "Etc/Unknown", "../UTC", "+01:00"] {
        assert_eq!(time_zone(bad).err(), Some(UnknownZone), "{bad}");
    }
    assert_eq!(
        time_zone("europe/berlin").unwrap().iana_name(),
        Some("Europe/Berlin")
    );
    assert_eq!(time_zone("UTC").unwrap().iana_name(), Some("UTC"));
}

#[test]
fn a_time_that_does_not_exist_runs_at_the_first_moment_after_the_gap() {
    // Clocks go from 02:00 to 03:00 on March 29, at 01:00 UTC.
    let daily = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        after(&daily, "2026-03-27T12:00:00Z", 3),
        [
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
    // All that the gap swallowed is one run, and what is planned at its end is the same one.
    let often = cron("*/20 2,3 * * *", "Europe/Berlin");
    assert_eq!(
        after(&often, "2026-03-29T00:59:00Z", 2),
        ["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"]
    );
    // Midnight is swallowed in Havana.
    let midnight = cron("0 0 * * *", "America/Havana");
    assert_eq!(
        after(&midnight, "2026-03-07T12:00:00Z", 1),
        ["2026-03-08T05:00:00Z"]
    );
}

#[test]
fn a_time_that_exists_twice_runs_once_at_the_first() {
    // Clocks go from 03:00 to 02:00 on October 25, at 01:00 UTC.
    let daily = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        after(&daily, "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    assert_eq!(after(&daily, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
}

#[test]
fn a_schedule_of_every_hour_keeps_its_pace_through_both() {
    let hourly = cron("30 * * * *", "Europe/Berlin");
    for night in ["2026-03-28T22:00:00Z", "2026-10-24T22:00:00Z"] {
        let planned = after(&hourly, night, 6);
        let first = seconds(&planned[0]);
        let expected: Vec<_> = (0..6).map(|hour| planned_text(first + 3_600 * hour)).collect();
        assert_eq!(planned, expected);
    }
}

#[test]
fn runs_have_different_keys_and_the_same_run_has_the_same() {
    let (one, two) = (ProjectId::from_bytes([1; 16]), ProjectId::from_bytes([2; 16]));
    let daily = cron("0 0 * * *", "UTC");
    let (a, b) = (daily.identity("a"), daily.identity("b"));
    let keys = [
        key(one, a, 5, 1),
        key(two, a, 5, 1),
        key(one, b, 5, 1),
        key(one, a, 6, 1),
        key(one, a, 5, 2),
    ];
    for (index, first) in keys.iter().enumerate() {
        assert!(keys[index + 1..].iter().all(|other| other != first));
    }
    assert_eq!(key(one, daily.identity("a"), 5, 1), keys[0]);
}

const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Santiago",
];

/// How far the search of every minute goes.
const MINUTES: u64 = 3 * 24 * 60;

/// True when a run is planned at a moment; looks at each moment by itself, and at each minute of a gap.
fn is_planned(cron: &Cron, zone: &TimeZone, at_s: u64) -> bool {
    let at = Timestamp::from_second(at_s as i64).unwrap();
    let before = Timestamp::from_second(at_s as i64 - 1).unwrap();
    let matches = |named: DateTime| cron.from(named) == Some(named);
    let shown = zone.to_datetime(at);
    if cron.is_every_hour() {
        return matches(shown);
    }
    let is_second = matches!(zone.to_ambiguous_timestamp(shown).offset(),
        AmbiguousOffset::Fold { after, .. } if after == zone.to_offset(at));
    let mut swallowed = zone.to_offset(before).to_datetime(at);
    let mut has_swallowed = false;
    while swallowed < shown {
        has_swallowed |= matches(swallowed);
        swallowed = swallowed.checked_add(jiff::Span::new().minutes(1)).unwrap();
    }
    has_swallowed || matches(shown) && !is_second
}

fn field(min: u8, max: u8) -> impl Strategy<Value = String> {
    let number = min..=max;
    prop_oneof![
        2 => Just("*".to_owned()),
        2 => (1..=max).prop_map(|step| format!("*/{step}")),
        3 => number.clone().prop_map(|number| number.to_string()),
        2 => (number.clone(), number).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

proptest! {
    #[test]
    fn the_next_time_is_the_first_that_a_search_of_every_minute_finds(
        fields in (field(0, 59), field(0, 4), field(1, 31), field(0, 6)),
        zone in 0..ZONES.len(),
        year in 2024_i16..=2032,
        day in 0_i64..366,
        minutes in -36_i64 * 60..36 * 60,
        near_a_change in any::<bool>(),
    ) {
        let (minute, hour, day_of_month, weekday) = fields;
        let times = cron(&format!("{minute} {hour} {day_of_month} * {weekday}"), ZONES[zone]);
        let Times::Cron { fields, time_zone } = &times else { unreachable!() };
        let (cron, zone) = (Cron::parse(fields).unwrap(), self::time_zone(time_zone).unwrap());
        let new_year = jiff::civil::date(year, 1, 1).to_zoned(TimeZone::UTC).unwrap().timestamp();
        let some_day = new_year.as_second() + day * 24 * 60 * 60;
        let change = zone.following(Timestamp::from_second(some_day).unwrap()).next();
        let around = change.filter(|_| near_a_change).map_or(some_day, |change| change.timestamp().as_second());
        let start = (around + minutes * 60) as u64;
        let next = times.next(start).unwrap().unwrap();
        prop_assert!(next > start);
        let searched = (1..=MINUTES).map(|minute| start + 60 * minute).find(|at| is_planned(&cron, &zone, *at));
        match searched {
            Some(found) => prop_assert_eq!(planned_text(next), planned_text(found)),
            None => prop_assert!(next > start + 60 * MINUTES),
        }
    }
}
