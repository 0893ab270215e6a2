//! Who takes part: services, their incarnations and secrets.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A party on the wire. Exactly one process holds a service at a time, except for workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Service {
    /// Schedules and routes.
    Kernel = 0,
    /// Runs Doees.
    Doer = 1,
    /// Manages databases.
    Dbriver = 2,
    /// Speaks HTTP and MQTT.
    Commserver = 3,
    /// Manages resources and users.
    Resadmin = 4,
    /// Dashboard and management API.
    Gate = 5,
    /// A Doee Executor; speaks with the Doer only, never with the Kernel.
    Worker = 6,
}

impl Service {
    /// The services that register with the Kernel.
    pub const REGISTERED: [Service; 5] = [
        Service::Doer,
        Service::Dbriver,
        Service::Commserver,
        Service::Resadmin,
        Service::Gate,
    ];

    /// Reads a service from its number on the wire.
    pub const fn from_u8(value: u8) -> Option<Service> {
        match value {
            0 => Some(Service::Kernel),
            1 => Some(Service::Doer),
            2 => Some(Service::Dbriver),
            3 => Some(Service::Commserver),
            4 => Some(Service::Resadmin),
            5 => Some(Service::Gate),
            6 => Some(Service::Worker),
            _ => None,
        }
    }

    /// The name that the command line and logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Kernel => "kernel",
            Service::Doer => "doer",
            Service::Dbriver => "dbriver",
            Service::Commserver => "commserver",
            Service::Resadmin => "resadmin",
            Service::Gate => "gate",
            Service::Worker => "worker",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One run of a role's process; counts up for ever, also over restarts of the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// The generation of a registered service: its incarnation number, so it survives a Kernel restart.
pub type Generation = Incarnation;

/// The 256-bit secret of one role incarnation; never printed, never in argv or the environment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Defines the operations of a service: numbers on the wire, names in the rights table and in logs.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What this service can be asked or told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Operation { $($(#[$doc])* $name = $number,)* }

        impl Operation {
            /// All operations, by number.
            pub const ALL: &[Operation] = &[$(Operation::$name,)*];

            /// Reads an operation from its number on the wire.
            pub const fn from_u16(value: u16) -> Option<Operation> {
                match value { $($number => Some(Operation::$name),)* _ => None }
            }

            /// The name that the rights table and logs use.
            pub const fn name(self) -> &'static str {
                match self { $(Operation::$name => $text,)* }
            }
        }
    };
}
pub(crate) use operations;
