//! The mechanism of isolation: namespaces, cgroups, seccomp, Landlock, and the spawner.
//!
//! - [`linux`]: raw Linux calls as safe functions, for every process of the platform;
//! - [`native`]: one sandbox: its read-only template root, its start, its limits;
//! - `apptainer`: the same executor in a SIF image, by a container runtime;
//! - [`probe`]: proves at start, layer by layer, that this machine really isolates;
//! - [`sif`]: Apptainer's image format: finds an image's root, wraps one;
//! - [`spawner`]: the small process that starts sandboxes for the Doer, and the codec to talk to it;
//! - `seccomp`: policy files → tree-shaped BPF filters.
//!
//! Invariants: no code of a Doee runs before every layer is in place; no host path, descriptor,
//! environment or capability is left inside; a worker dies with the spawner. Not here: what a worker
//! does (isms-executor), who may have one (isms-doer). This crate imports no other crate of ours.

mod ablation;
mod apptainer;
pub mod linux;
pub mod native;
pub mod probe;
mod seccomp;
pub mod sif;
pub mod spawner;
