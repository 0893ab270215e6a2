//! The fields of a cron expression, and the next date and time of a calendar that they name. Knows no time zones.

use jiff::civil::{Date, DateTime};

/// How far ahead a match is looked for: the longest that a date may take, February 29 on a given day of the week around
/// a year such as 2100.
const DAYS_SEARCHED: u32 = 41 * 366;
const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field: its name, its smallest and largest number, and names of its numbers.
type Field = (&'static str, u8, u8, &'static [&'static str]);

const FIELDS: [Field; 6] = [
    ("second", 0, 59, &[]),
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of the month", 1, 31, &[]),
    ("month", 1, 12, &MONTHS),
    // 7 is Sunday as well.
    ("day of the week", 0, 7, &WEEKDAYS),
];

/// A parsed expression: each set has a bit for each number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both the day of the month and that of the week are given: one of them has to match.
    either_day: bool,
}

/// Why text is no cron expression.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CronError {
    #[error(
        "has {count} fields; it is `minute hour day-of-month month day-of-week`, with a field of seconds before them if need be"
    )]
    Count { count: usize },
    #[error(
        "has {part:?} as {field}; allowed: {min} to {max}, `*`, ranges A-B, steps /N, lists with commas, and names of months and days of the week"
    )]
    Part {
        part: String,
        field: &'static str,
        min: u8,
        max: u8,
    },
    #[error("has the range {part:?} as {field}, which ends before it begins")]
    Backwards { part: String, field: &'static str },
    #[error("never fires: no month that it names has such a day")]
    Never,
}

impl Cron {
    /// Reads five fields, or six with the seconds first. What never fires is an error.
    pub(crate) fn parse(text: &str) -> Result<Cron, CronError> {
        let mut parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if parts.len() == 5 {
            parts.insert(0, "0");
        }
        let [second, minute, hour, day, month, weekday] = parts[..] else {
            return Err(CronError::Count { count: parts.len() });
        };
        let weekdays = set(weekday, &FIELDS[5])?;
        let cron = Cron {
            seconds: set(second, &FIELDS[0])?,
            minutes: set(minute, &FIELDS[1])?,
            hours: set(hour, &FIELDS[2])?,
            days: set(day, &FIELDS[3])?,
            months: set(month, &FIELDS[4])?,
            weekdays: weekdays & 0x7f | weekdays >> 7,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        let epoch = Date::constant(2000, 1, 1).at(0, 0, 0, 0);
        cron.from(epoch).map(|_| cron).ok_or(CronError::Never)
    }

    /// True when it names every hour of the day, so that it says how often rather than at which times.
    pub(crate) fn is_every_hour(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    /// The first match at or after a date and time of whole seconds.
    pub(crate) fn from(&self, start: DateTime) -> Option<DateTime> {
        let mut date = start.date();
        let mut earliest = [start.hour(), start.minute(), start.second()];
        for _ in 0..DAYS_SEARCHED {
            if self.names_date(date)
                && let Some([hour, minute, second]) = self.time_from(earliest)
            {
                return Some(date.at(hour, minute, second, 0));
            }
            earliest = [0; 3];
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn names_date(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month())
            && match self.either_day {
                true => day || weekday,
                false => day && weekday,
            }
    }

    fn time_from(&self, [hour, minute, second]: [i8; 3]) -> Option<[i8; 3]> {
        for at_hour in members(self.hours, hour) {
            let minute = if at_hour == hour { minute } else { 0 };
            for at_minute in members(self.minutes, minute) {
                let is_first = (at_hour, at_minute) == (hour, minute);
                let second = if is_first { second } else { 0 };
                if let Some(at_second) = members(self.seconds, second).next() {
                    return Some([at_hour, at_minute, at_second]);
                }
            }
        }
        None
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

/// The members of a set that are not below a number, in order.
fn members(set: u64, from: i8) -> impl Iterator<Item = i8> {
    (from..60).filter(move |number| has(set, *number))
}

fn set(text: &str, field: &Field) -> Result<u64, CronError> {
    text.split(',')
        .try_fold(0, |set, part| Ok(set | range(part, field)?))
}

/// `*`, `A`, `A-B`, each with `/N` or without; `A/N` goes on to the largest number.
fn range(part: &str, field: &Field) -> Result<u64, CronError> {
    let (name, min, max, _) = *field;
    let bad = || CronError::Part {
        part: part.chars().take(40).collect(),
        field: name,
        min,
        max,
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (
            range,
            Some(digits(step).filter(|step| *step > 0).ok_or_else(bad)?),
        ),
        None => (part, None),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" => (min, if name == "day of the week" { 6 } else { max }),
        Some((first, last)) => (
            number(first, field).ok_or_else(bad)?,
            number(last, field).ok_or_else(bad)?,
        ),
        None => {
            let first = number(range, field).ok_or_else(bad)?;
            (first, if step.is_some() { max } else { first })
        }
    };
    // A week may be written to end with its Sunday.
    let last = if last == 0 && first > 0 && name == "day of the week" {
        7
    } else {
        last
    };
    if last < first {
        return Err(CronError::Backwards {
            part: part.to_owned(),
            field: name,
        });
    }
    let numbers = (first..=last).step_by(step.unwrap_or(1).into());
    Ok(numbers.fold(0, |set, number| set | 1 << number))
}

fn number(text: &str, &(_, min, max, names): &Field) -> Option<u8> {
    if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return u8::try_from(index).ok().map(|index| index + min);
    }
    digits(text).filter(|number| (min..=max).contains(number))
}

/// A number of one or two digits, without a sign.
fn digits(text: &str) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
