//! What a sandbox consists of, as a Doer may ask for it: names from closed sets, a content hash, and indexes into
//! the administrator's lists. Equal environments are interchangeable, so a pool can be kept for each.

use crate::native::Profile;

/// Entries of each of the administrator's lists.
pub const HOLES_MAX: usize = 64;

/// Makes the walls of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Namespaces, mounts and filters made by the spawner itself.
    #[default]
    Native,
    /// Apptainer, or Singularity where only that is installed. Always with an image.
    Apptainer,
}

/// Names an image: the SHA-256 of its SIF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageHash(pub [u8; 32]);

/// Controlled openings in the walls, each allowed by the administrator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holes {
    /// Bit `n`: the device node number `n` of [`SpawnerConfig::device_nodes`](super::SpawnerConfig::device_nodes).
    pub devices: u64,
    /// Bit `n`: the directory number `n` of [`SpawnerConfig::directories`](super::SpawnerConfig::directories),
    /// read-only.
    pub directories: u64,
    /// A builder uses the host's network.
    pub network: bool,
}

/// What a sandbox consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Environment {
    /// What runs inside.
    pub profile: Profile,
    /// Who makes its walls.
    pub backend: Backend,
    /// What its root is made of instead of the platform's template.
    pub image: Option<ImageHash>,
    /// Openings in its walls.
    pub holes: Holes,
}

impl Environment {
    /// A native worker without an image, with no hole.
    pub const WORKER: Self = Self::native(Profile::Worker);
    /// A builder without network.
    pub const BUILDER: Self = Self::native(Profile::Builder);

    const fn native(profile: Profile) -> Self {
        Self {
            profile,
            backend: Backend::Native,
            image: None,
            holes: Holes {
                devices: 0,
                directories: 0,
                network: false,
            },
        }
    }

    /// True when such an environment exists at all: a builder is native and has the toolchain for its root, a worker
    /// never has the host's network, and Apptainer has an image to run.
    pub(super) fn is_possible(&self) -> bool {
        match self.profile {
            Profile::Builder => {
                self.backend == Backend::Native
                    && self.image.is_none()
                    && self.holes.devices == 0
                    && self.holes.directories == 0
            }
            Profile::Worker => {
                !self.holes.network && (self.backend == Backend::Native || self.image.is_some())
            }
        }
    }
}

impl Backend {
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Native => 0,
            Self::Apptainer => 1,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Native),
            1 => Some(Self::Apptainer),
            _ => None,
        }
    }
}
