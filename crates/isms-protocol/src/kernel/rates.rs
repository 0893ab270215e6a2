//! Limits of calls per second of single Doees.

use serde::{Deserialize, Serialize};

use crate::{DoeeVersion, limits};

/// Body of [`super::Operation::SetRates`]: the Doees of a project whose calls have a limit, at most
/// [`limits::DOEES_MAX`]. Who is not among them has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeRates {
    /// The versions that serve.
    pub doees: Vec<DoeeRate>,
}

/// The limit of one version of a Doee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeRate {
    /// Which.
    pub doee: DoeeVersion,
    /// Its limit.
    pub rate: CallRate,
}

/// How many calls are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRate {
    /// In a second, in the long run; 1 to [`limits::RATE_MAX`].
    pub per_s: u32,
    /// At once, after a while without calls; 1 to [`limits::RATE_MAX`].
    pub burst: u32,
}

impl DoeeRates {
    /// True when every number is within its bounds.
    pub fn is_valid(&self) -> bool {
        let within = |number| (1..=limits::RATE_MAX).contains(&number);
        let mut rates = self.doees.iter().map(|doee| doee.rate);
        self.doees.len() <= limits::DOEES_MAX && rates.all(|rate| within(rate.per_s) && within(rate.burst))
    }
}
