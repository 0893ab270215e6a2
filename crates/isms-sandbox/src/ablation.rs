//! Layers that are left out on purpose, to see which attack each one stops.
//!
//! Only a build with the feature `ablation` can: `enabled` reads their names at the start of the spawner and again in
//! the executor, to which the spawner hands them on. Nothing that ships has the feature (tidy and a test of `isms`
//! look), and without it every question here is answered by a constant. To be used in a virtual machine that is thrown
//! away.

#[cfg(not(feature = "ablation"))]
mod disabled;
#[cfg(feature = "ablation")]
mod enabled;

#[cfg(not(feature = "ablation"))]
pub(crate) use self::disabled::*;
#[cfg(feature = "ablation")]
pub(crate) use self::enabled::*;

/// A layer, in the order of `policy/layers.toml`.
#[cfg_attr(
    not(feature = "ablation"),
    expect(dead_code, reason = "some are only asked about with the feature")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    UserNamespace,
    SubUid,
    MountNamespace,
    ReadOnlyRoot,
    TmpLimits,
    ProcSubset,
    PidNamespace,
    NetworkNamespace,
    IpcNamespace,
    UtsNamespace,
    CgroupNamespace,
    Capabilities,
    NoNewPrivileges,
    Landlock,
    ResourceLimits,
    Seccomp,
    SecondSeccomp,
    Descriptors,
    CgroupMemory,
    CgroupCpu,
    CgroupPids,
    ParentDeath,
}

/// Takes a step, unless it is that of a layer which is left out.
pub(crate) fn unless<E>(layer: Layer, step: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    if leaves_out(layer) { Ok(()) } else { step() }
}
