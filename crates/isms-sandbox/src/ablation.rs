//! Layers that are left out on purpose, to see which attack each one stops.
//!
//! Only a build with the feature `ablation` can: it reads their names from [`VARIABLE`], at the start of the spawner
//! and again in the executor, to which the spawner hands it on. Nothing that ships has the feature (tidy looks), and
//! without it every question here is answered with a constant. To be used in a virtual machine that is thrown away.

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

#[cfg(feature = "ablation")]
pub(crate) use enabled::{any, handed_on, leaves_out, read};

/// Whether a layer is left out: never, in this build.
#[cfg(not(feature = "ablation"))]
pub(crate) const fn leaves_out(_: Layer) -> bool {
    false
}

/// Whether any is.
#[cfg(not(feature = "ablation"))]
pub(crate) const fn any() -> bool {
    false
}

#[cfg(feature = "ablation")]
mod enabled {
    use std::{
        ffi::{CStr, CString},
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::Layer;

    /// Names of layers, separated by commas.
    const VARIABLE: &str = "ISMS_WITHOUT_LAYERS";

    const NAMES: [&str; 22] = [
        "user-namespace",
        "sub-uid",
        "mount-namespace",
        "read-only-root",
        "tmp-limits",
        "proc-subset",
        "pid-namespace",
        "network-namespace",
        "ipc-namespace",
        "uts-namespace",
        "cgroup-namespace",
        "capabilities",
        "no-new-privileges",
        "landlock",
        "resource-limits",
        "seccomp",
        "second-seccomp",
        "descriptors",
        "cgroup-memory",
        "cgroup-cpu",
        "cgroup-pids",
        "parent-death",
    ];

    /// A bit for each, by its number. Read between clone and exec, where nothing may allocate.
    static LEFT_OUT: AtomicU32 = AtomicU32::new(0);
    static HANDED_ON: OnceLock<CString> = OnceLock::new();

    /// Reads the environment. A name that is none is ignored aloud: the table would be wrong without a word.
    pub(crate) fn read() {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            match NAMES.iter().position(|known| *known == name) {
                Some(at) => {
                    LEFT_OUT.fetch_or(1 << at, Ordering::Relaxed);
                }
                None => eprintln!("{VARIABLE}: there is no layer {name:?}"),
            }
        }
        let _ = HANDED_ON.set(CString::new(format!("{VARIABLE}={names}")).unwrap_or_default());
    }

    pub(crate) fn leaves_out(layer: Layer) -> bool {
        LEFT_OUT.load(Ordering::Relaxed) & (1 << layer as u32) != 0
    }

    pub(crate) fn any() -> bool {
        LEFT_OUT.load(Ordering::Relaxed) != 0
    }

    /// The variable, for the environment of a sandbox's program.
    pub(crate) fn handed_on() -> &'static CStr {
        HANDED_ON.get().map_or(c"", CString::as_c_str)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_names_are_those_of_the_policy_in_its_order() {
            let policy: toml::Table = toml::from_str(include_str!("../../../policy/layers.toml")).unwrap();
            let layers = policy["layer"].as_array().unwrap();
            let names: Vec<_> = layers
                .iter()
                .map(|layer| layer["name"].as_str().unwrap())
                .collect();
            assert_eq!(names, NAMES);
            assert_eq!(Layer::ParentDeath as usize, NAMES.len() - 1);
        }
    }
}
