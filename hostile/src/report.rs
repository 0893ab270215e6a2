//! What came of the probes: for people a table, for programs one JSON object.

use std::fmt;

use crate::last_ablation;
use serde::{Deserialize, Serialize};

/// What came of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub probe: String,
    /// What it goes for.
    pub attacks: String,
    /// It was refused as expected and harmed nobody.
    pub contained: bool,
    /// It got something that it must not have, whatever was expected.
    pub succeeded: bool,
    /// What was seen, in short.
    pub seen: String,
    /// Harm that was found from outside.
    pub harm: Vec<String>,
    /// It was called at all.
    pub ran: bool,
    /// What was harmed cannot be mended, so the next probe would find another machine than this one.
    pub spoilt: bool,
}

/// What came of all of them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The manifest's `isolation`.
    pub backend: String,
    /// How many ran.
    pub probes: usize,
    /// How many were contained.
    pub contained: usize,
    /// Those that succeed as soon as one layer is missing, as it was last measured.
    pub by_one_layer_only: Vec<String>,
    /// Each of them.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Counts.
    pub fn new(backend: &str, outcomes: Vec<Outcome>) -> Self {
        Self {
            backend: backend.to_owned(),
            probes: outcomes.len(),
            contained: outcomes.iter().filter(|outcome| outcome.contained).count(),
            by_one_layer_only: last_ablation().by_one_layer_only(),
            outcomes,
        }
    }

    /// Whether every probe was contained.
    pub fn is_contained(&self) -> bool {
        self.contained == self.probes && self.probes > 0
    }

    /// The table; `colour` for a terminal.
    pub fn table(&self, colour: bool) -> String {
        let paint = |contained: bool| match (contained, colour) {
            (true, true) => "\x1b[32mcontained\x1b[0m    ",
            (true, false) => "contained    ",
            (false, true) => "\x1b[1;31mNOT CONTAINED\x1b[0m",
            (false, false) => "NOT CONTAINED",
        };
        let mut text = String::new();
        for outcome in &self.outcomes {
            text.push_str(&format!(
                "{:28} {}  {}\n",
                outcome.probe,
                paint(outcome.contained),
                outcome.seen
            ));
            for harm in &outcome.harm {
                text.push_str(&format!("{:28} harm: {harm}\n", ""));
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of {} probes contained on {}",
            self.contained, self.probes, self.backend
        )
    }
}
