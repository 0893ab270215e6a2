//! The answers of a build that ships: nothing is left out.

use std::{
    ffi::{CStr, c_char, c_int},
    io,
    os::fd::RawFd,
    ptr,
};

use super::Layer;
use crate::native::{INNER_ID, Ids};

/// There is nothing to read.
pub(crate) const fn read() {}

/// Never.
pub(crate) const fn leaves_out(_: Layer) -> bool {
    false
}

/// Never.
pub(crate) const fn any() -> bool {
    false
}

/// All of them.
pub(crate) const fn namespaces(all: c_int) -> c_int {
    all
}

/// Who a sandbox is on the host.
pub(crate) const fn ids(ids: Ids) -> Ids {
    ids
}

/// The id that it takes.
pub(crate) const fn inner_id(_: Ids) -> u32 {
    INNER_ID
}

/// Nothing has to be done first.
#[expect(clippy::unnecessary_wraps, reason = "it can fail with the feature")]
pub(crate) const fn prepare_identity() -> io::Result<()> {
    Ok(())
}

/// Drops all.
pub(crate) fn drop_capabilities(drop_all: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    drop_all()
}

/// The program's path and its environment, which is empty.
pub(crate) const fn program(executable: &CStr, _: RawFd) -> (*const c_char, [*const c_char; 2]) {
    (executable.as_ptr(), [ptr::null(); 2])
}
