//! Alarms against labelled windows: an episode is a maximal run of alarms at most 24 h apart.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

const DAY_S: i64 = 24 * 60 * 60;

/// A labelled window of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    from: i64,
    to: i64,
    text: String,
}

/// Reads the windows of the machine's file.
pub(crate) fn windows(labels: &str) -> Result<Vec<Window>> {
    let labels: Value = serde_json::from_str(labels).context("the labels cannot be read")?;
    let windows = labels["machine_temperature_system_failure.csv"]
        .as_array()
        .context("the labels have no windows")?;
    windows
        .iter()
        .map(|window| {
            let end = |index: usize| window[index].as_str().map(|text| &text[..text.len().min(19)]);
            let (from, to) = (end(0).context("no start")?, end(1).context("no end")?);
            Ok(Window {
                from: seconds(from)?,
                to: seconds(to)?,
                text: format!("{from} to {to}"),
            })
        })
        .collect()
}

/// A maximal run of alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Episode {
    from: i64,
    to: i64,
    alarms: usize,
}

fn episodes(mut alarms: Vec<i64>) -> Vec<Episode> {
    alarms.sort_unstable();
    let mut episodes: Vec<Episode> = Vec::new();
    for at in alarms {
        match episodes.last_mut() {
            Some(last) if at - last.to <= DAY_S => {
                last.to = at;
                last.alarms += 1;
            }
            _ => episodes.push(Episode {
                from: at,
                to: at,
                alarms: 1,
            }),
        }
    }
    episodes
}

/// The labelled windows, each with its alarms, and what lies outside of all.
pub(crate) fn table(anomalies: &Value, windows: &[Window]) -> Result<String> {
    let alarms = anomalies.as_array().context("the anomalies are no list")?;
    let times = alarms
        .iter()
        .map(|alarm| {
            seconds(
                alarm["timestamp"]
                    .as_str()
                    .context("an anomaly has no timestamp")?,
            )
        })
        .collect::<Result<Vec<i64>>>()?;
    let inside = |window: &Window| {
        times
            .iter()
            .filter(|at| (window.from..=window.to).contains(*at))
            .count()
    };
    let mut text = String::from("labelled window                             alarms\n");
    for window in windows {
        let count = inside(window);
        let mark = if count > 0 { "found" } else { "missed" };
        writeln!(text, "{}  {count:>6}  {mark}", window.text)?;
    }
    let found = windows.iter().filter(|window| inside(window) > 0).count();
    let hits = |at: i64| {
        windows
            .iter()
            .any(|window| (window.from..=window.to).contains(&at))
    };
    let outside = episodes(times.clone())
        .into_iter()
        .filter(|episode| {
            !times
                .iter()
                .any(|at| (episode.from..=episode.to).contains(at) && hits(*at))
        })
        .count();
    write!(
        text,
        "{found} of {} windows found, {outside} episodes outside of them, {} alarms in all",
        windows.len(),
        times.len()
    )?;
    Ok(text)
}

/// Seconds since 1970 of `YYYY-MM-DD hh:mm:ss`.
fn seconds(text: &str) -> Result<i64> {
    let number = |from: usize, to: usize| -> Result<i64> {
        let part = text
            .get(from..to)
            .with_context(|| format!("{text:?} is no timestamp"))?;
        part.parse().with_context(|| format!("{text:?} is no timestamp"))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days from civil: years begin in March, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    Ok(days * DAY_S + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_count_seconds_since_1970() {
        assert_eq!(seconds("1970-01-01 00:00:00").unwrap(), 0);
        assert_eq!(seconds("2013-12-02 21:15:00").unwrap(), 1_386_018_900);
        assert_eq!(seconds("2016-02-29 00:00:01").unwrap(), 1_456_704_001);
        assert!(seconds("yesterday").is_err());
    }

    #[test]
    fn alarms_at_most_a_day_apart_are_one_episode() {
        let found = episodes(vec![3 * DAY_S, 0, DAY_S]);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Episode {
                from: 0,
                to: DAY_S,
                alarms: 2
            }
        );
    }

    #[test]
    fn the_table_counts_windows_found_and_episodes_outside() {
        let windows = [Window {
            from: 0,
            to: 10,
            text: "w".into(),
        }];
        let alarms = serde_json::json!([{ "timestamp": "1970-01-01 00:00:05" }, { "timestamp": "1970-01-09 00:00:00" }]);
        let text = table(&alarms, &windows).unwrap();
        assert!(
            text.ends_with("1 of 1 windows found, 1 episodes outside of them, 2 alarms in all"),
            "{text}"
        );
    }
}
