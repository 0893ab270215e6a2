//! The body of a message: MessagePack in array form.
//!
//! Structs encode as arrays of their fields, so a field may only be appended, with a serde default.

use serde::{Serialize, de::DeserializeOwned};

use crate::DecodeError;

/// Encodes a body.
///
/// # Panics
/// Only on a type that MessagePack cannot express, which is a bug in this crate.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("every protocol body is expressible in MessagePack")
}

/// Decodes a body received from another process; the bytes may be hostile. What holds them has
/// bounded their length already: a message by its limit, a collected stream by its receiver's.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|source| DecodeError::Body { source })
}
