//! A `[[trigger]]` with `cron` or `every`.

use isms_protocol::Class;

use super::{
    Doee, ManifestError, class, named_doee,
    reader::{Item, Section},
};
use crate::schedule::{Cron, EVERY_S_MAX, Times, time_zone};

/// Runs of a Doee at planned times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleTrigger {
    pub(crate) times: Times,
    pub(crate) doee: String,
    /// Its own, or the Doee's.
    pub(crate) class: Class,
}

/// Reads a schedule, if the trigger is one.
pub(super) fn schedule(
    section: &Section<'_>,
    doees: &[Doee],
) -> Result<Option<ScheduleTrigger>, ManifestError> {
    let times = if let Some(item) = section.optional("cron") {
        section.check_keys(&["cron", "time_zone", "doee", "class"], &[])?;
        cron(section, &item)?
    } else if let Some(item) = section.optional("every") {
        section.check_keys(&["every", "doee", "class"], &[])?;
        let seconds = seconds(item.text()?).ok_or_else(|| {
            item.error("is no time from 1 s to 400 d; write a whole number and s, m, h or d, like \"30s\"")
        })?;
        Times::Every { seconds }
    } else {
        return Ok(None);
    };
    let doee = named_doee(section, doees)?;
    Ok(Some(ScheduleTrigger {
        times,
        doee: doee.name.clone(),
        class: class(section, doee.class)?,
    }))
}

fn cron(section: &Section<'_>, item: &Item<'_>) -> Result<Times, ManifestError> {
    let fields = item.text()?;
    Cron::parse(fields).map_err(|error| item.error(&error.to_string()))?;
    let zone = section.optional("time_zone");
    let name = zone.as_ref().map_or(Ok("UTC"), |zone| zone.text())?;
    let found = time_zone(name).map_err(|error| zone.as_ref().unwrap_or(item).error(&error.to_string()))?;
    Ok(Times::Cron {
        fields: fields.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        time_zone: found.iana_name().unwrap_or(name).to_owned(),
    })
}

/// A whole number and its unit.
fn seconds(text: &str) -> Option<u32> {
    let unit = match text.bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 60 * 60,
        b'd' => 24 * 60 * 60,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = is_number
        .then(|| digits.parse::<u32>().ok())
        .flatten()?
        .checked_mul(unit)?;
    (1..=EVERY_S_MAX).contains(&seconds).then_some(seconds)
}
