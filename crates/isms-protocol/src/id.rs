//! Identifiers. Public ids are UUIDv7 newtypes; the nil value stands for "none" on the wire.

mod fresh;

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// No id.
            pub const NONE: $name = $name(Uuid::nil());

            /// Makes a fresh id, which sorts after all that this thread has made before.
            pub fn generate() -> $name {
                $name(fresh::uuid_v7())
            }

            /// Reads an id from its 16 bytes; any bytes are an id.
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(Uuid::from_bytes(bytes))
            }

            /// The id's 16 bytes.
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }

            /// True for [`Self::NONE`].
            pub const fn is_none(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<$name, uuid::Error> {
                Uuid::parse_str(text).map($name)
            }
        }
    )*};
}

uuid_id! {
    /// A process: one request that the Kernel manages. Stable over its attempts.
    ProcessId;
    /// A project: a tenant's Doees, databases and routes.
    ProjectId;
    /// One immutable version of a Doee; a deployment makes a new one.
    DoeeVersion;
    /// Who asks: a user, token or device.
    PrincipalId;
}

macro_rules! byte_id {
    ($($(#[$doc:meta])* $name:ident, $len:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl Default for $name {
            fn default() -> $name {
                $name([0; $len])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                serde_bytes::ByteArray::<$len>::deserialize(deserializer).map(|bytes| $name(bytes.into_array()))
            }
        }
    )*};
}

byte_id! {
    /// A W3C trace id.
    TraceId, 16;
    /// A W3C span id.
    SpanId, 8;
    /// SHA-256 of a binary, a source tree or an image.
    ContentHash, 32;
    /// SHA-256 of a token; the token itself is never stored.
    TokenHash, 32;
}

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is written as 64 of the digits 0-9 and a-f")]
pub struct HashError;

impl std::str::FromStr for ContentHash {
    type Err = HashError;
    /// Reads what [`fmt::Display`] writes, and nothing else: a hash has one spelling.
    fn from_str(text: &str) -> Result<ContentHash, HashError> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| HashError)?;
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(HashError),
        };
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(ContentHash(hash))
    }
}

/// The W3C trace context that a message carries (24 bytes on the wire).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The whole trace.
    pub trace: TraceId,
    /// The sender's span.
    pub span: SpanId,
}
