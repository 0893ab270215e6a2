//! When the runs of a schedule are planned. docs/scheduling.md states the policy.
//!
//! Invariants: no clock is read here; what follows a time lies after it; the same text plans the same times, whoever
//! asks and whenever, so that a run has one name.

mod cron;
mod zone;

use std::fmt;

use isms_protocol::{ContentHash, ProjectId};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub(crate) use cron::{Cron, CronError};

use crate::files;

/// The longest time between two runs, in s.
pub(crate) const EVERY_S_MAX: u32 = 400 * 24 * 60 * 60;
/// Schedules of a project, and so its runs that wait.
pub(crate) const SCHEDULES_MAX: usize = 64;

/// What a manifest says about the times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Times {
    /// The multiples of so many seconds since 1970.
    Every { seconds: u32 },
    /// The five or six fields, one space between them, and an IANA name.
    Cron { fields: String, time_zone: String },
}

/// Why text is not a time zone's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no time zone that this release knows; write an IANA name, like \"Europe/Berlin\"")]
pub(crate) struct UnknownZone;

/// Why stored text has no meaning any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimesError {
    #[error("cron {0}")]
    Cron(#[from] CronError),
    #[error("the time zone {0}")]
    Zone(#[from] UnknownZone),
}

/// Finds a zone by its IANA name; only the built-in data counts, so that all machines agree.
pub(crate) fn time_zone(name: &str) -> Result<TimeZone, UnknownZone> {
    let zone = TimeZone::get(name).map_err(|_| UnknownZone)?;
    // The database also answers to names of its own that are no zones.
    if zone.iana_name().is_none() || zone.is_unknown() {
        return Err(UnknownZone);
    }
    Ok(zone)
}

impl Times {
    /// The first planned time after a time, in s since 1970; `None` when there is none any more.
    pub(crate) fn next(&self, after_s: u64) -> Result<Option<u64>, TimesError> {
        match self {
            Times::Every { seconds } => Ok((after_s / u64::from(*seconds))
                .checked_add(1)
                .and_then(|count| count.checked_mul(u64::from(*seconds)))),
            Times::Cron { fields, time_zone } => {
                let (cron, zone) = (Cron::parse(fields)?, self::time_zone(time_zone)?);
                Ok(zone::next(&cron, &zone, after_s))
            }
        }
    }

    /// Which schedule of a project it is: the same times of the same Doee are the same schedule.
    pub(crate) fn identity(&self, doee: &str) -> ContentHash {
        files::hash(format!("isms schedule\0{doee}\0{self}").as_bytes())
    }
}

impl fmt::Display for Times {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Times::Every { seconds } => write!(out, "every {seconds}s"),
            Times::Cron { fields, time_zone } => write!(out, "{fields} {time_zone}"),
        }
    }
}

/// The idempotency key of one run. The revision under which it was planned is part of it, since a run that a
/// deployment has cancelled may be planned again, for the same time.
pub(crate) fn key(project: ProjectId, schedule: ContentHash, planned_s: u64, revision: u64) -> [u8; 32] {
    let mut name = b"isms scheduled run\0".to_vec();
    name.extend_from_slice(&project.to_bytes());
    name.extend_from_slice(&schedule.0);
    name.extend_from_slice(&planned_s.to_le_bytes());
    name.extend_from_slice(&revision.to_le_bytes());
    files::hash(&name).0
}

/// A planned time as text, such as `2026-03-29T01:00:00Z`.
pub(crate) fn planned_text(planned_s: u64) -> String {
    i64::try_from(planned_s)
        .ok()
        .and_then(|planned| Timestamp::from_second(planned).ok())
        .map_or_else(|| planned_s.to_string(), |planned| planned.to_string())
}

#[cfg(test)]
mod tests;
