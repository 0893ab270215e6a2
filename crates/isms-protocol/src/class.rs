//! Scheduling classes.

use serde::{Deserialize, Serialize};

/// The scheduling class of a process; a smaller number runs first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Class {
    /// Ahead of everything else; for control loops.
    Realtime = 0,
    /// Ahead of normal work; for alarms.
    High = 1,
    /// What a call is when nothing is said.
    #[default]
    Normal = 2,
    /// When nothing else waits, kept alive by aging.
    Batch = 3,
}

impl Class {
    /// All classes, first to run first.
    pub const ALL: [Class; 4] = [Class::Realtime, Class::High, Class::Normal, Class::Batch];

    /// Reads a class from its number on the wire.
    pub const fn from_u8(value: u8) -> Option<Class> {
        match value {
            0 => Some(Class::Realtime),
            1 => Some(Class::High),
            2 => Some(Class::Normal),
            3 => Some(Class::Batch),
            _ => None,
        }
    }

    /// Its name, in manifests and everywhere else.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Realtime => "realtime",
            Class::High => "high",
            Class::Normal => "normal",
            Class::Batch => "batch",
        }
    }

    /// The lower of two classes: a child never runs in a higher class than its parent.
    pub fn capped_by(self, cap: Class) -> Class {
        self.max(cap)
    }
}
