//! Real sandboxes, started by a real spawner process, with a small C program playing the executor.
//!
//! By concern: `apptainer` (the same walls in a container), `isolation` (what is not possible inside), `limits`, `lifetime` (who dies when), `images` (roots made
//! of images), `openings` (what an administrator may let in), `hostile` (a Doer that lies), `lacking` (machines without something).
//! Where this machine or user lacks what a sandbox needs, a test skips aloud.
#![allow(clippy::unwrap_used)] // helpers of tests are test code too

mod apptainer;
mod hostile;
mod image;
mod images;
mod isolation;
mod lacking;
mod lifetime;
mod limits;
mod openings;
mod platform;
