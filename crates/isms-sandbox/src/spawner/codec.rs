//! What passes between spawner, Doer and supervisor, byte for byte: fixed little-endian layouts, no library.
//!
//! Everything unknown, truncated, too long or with a reserved byte set is refused as a whole.

use super::environment::{Backend, Environment, Holes, ImageHash};
use crate::{
    native::{Limits, Profile},
    probe::LayerReport,
};

/// Length of every request.
pub const REQUEST_LEN: usize = 80;
/// Length of the longest event.
pub const EVENT_LEN_MAX: usize = 36 * 1024;
/// Text of a failure.
const MESSAGE_LEN_MAX: usize = 4 * 1024;
/// Layers of one report.
const LAYERS_MAX: usize = 64;
/// Length of an event's fixed part.
const HEAD_LEN: usize = 24;

/// Doer → spawner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a sandbox. Answered by `Spawned` or `Failed`.
    Spawn {
        /// Number that the Doer gives it, never used before in this generation.
        worker: u64,
        /// What it consists of.
        environment: Environment,
        /// What it may use, within the administrator's maxima.
        limits: Limits,
    },
    /// Kill it. `Exited` follows; nothing when it is unknown (it has just exited).
    Kill {
        /// Which.
        worker: u64,
    },
    /// Set the limits of a pooled worker at its assignment, within a worker's maxima. One whose limits cannot be
    /// set is killed.
    Limit {
        /// Which.
        worker: u64,
        /// Its new limits.
        limits: Limits,
    },
}

/// Spawner → Doer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The executor runs. Three descriptors come along: control (SEQPACKET), data (stream), and the read
    /// end of the pipe that is its stdout and stderr.
    Spawned {
        /// Which.
        worker: u64,
        /// Its init process, as the host sees it.
        pid: u32,
    },
    /// A `Spawn` failed; there is no such worker.
    Failed {
        /// Which.
        worker: u64,
        /// Why.
        message: String,
    },
    /// The worker is gone: reaped, with every process it had.
    Exited {
        /// Which.
        worker: u64,
        /// Exit code, when it exited.
        code: Option<i32>,
        /// Signal, when one killed it.
        signal: Option<i32>,
        /// The kernel killed it for its memory limit.
        oom: bool,
    },
    /// The layers of isolation as proven so far; the first event on every channel, and again when a backend has been
    /// tried by its first use.
    Layers {
        /// Every layer.
        layers: Vec<LayerReport>,
        /// All required ones are proven; otherwise every `Spawn` fails.
        sufficient: bool,
    },
}

/// Supervisor → spawner, one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSpawner {
    /// `D` and one descriptor: the channel of a new Doer generation. The old one's workers are killed.
    Doer,
    /// `S`: kill all, clean up, exit.
    Stop,
}

/// Spawner → supervisor, one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromSpawner {
    /// `R`: swept, staged, probed, ready for a Doer.
    Ready,
    /// `H`: "I live", once a second.
    Heartbeat,
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short or too long for what it says it is.
    #[error("wrong length")]
    Length,
    /// An unknown kind or value, or a reserved byte that is not zero.
    #[error("unknown value")]
    Value,
}

impl ToSpawner {
    /// The datagram.
    pub fn encode(self) -> [u8; 1] {
        match self {
            Self::Doer => *b"D",
            Self::Stop => *b"S",
        }
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            b"D" => Ok(Self::Doer),
            b"S" => Ok(Self::Stop),
            [_] => Err(DecodeError::Value),
            _ => Err(DecodeError::Length),
        }
    }
}

impl FromSpawner {
    /// The datagram.
    pub fn encode(self) -> [u8; 1] {
        match self {
            Self::Ready => *b"R",
            Self::Heartbeat => *b"H",
        }
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            b"R" => Ok(Self::Ready),
            b"H" => Ok(Self::Heartbeat),
            [_] => Err(DecodeError::Value),
            _ => Err(DecodeError::Length),
        }
    }
}

// Layout of a request: kind u8 · profile u8 · backend u8 · flags u8 (1: an image, 2: network) · 4 zero bytes · worker
// u64 · memory u64 · cpu u32 · pids u32 · devices u64 · directories u64 · image [u8; 32].
const FLAG_IMAGE: u8 = 1;
const FLAG_NETWORK: u8 = 2;

impl Request {
    /// The datagram.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let (kind, worker, limits) = match *self {
            Self::Spawn { worker, limits, .. } => (1, worker, Some(limits)),
            Self::Kill { worker } => (2, worker, None),
            Self::Limit { worker, limits } => (3, worker, Some(limits)),
        };
        let mut bytes = [0; REQUEST_LEN];
        bytes[0] = kind;
        bytes[8..16].copy_from_slice(&worker.to_le_bytes());
        if let Some(limits) = limits {
            bytes[16..24].copy_from_slice(&limits.memory_bytes.to_le_bytes());
            bytes[24..28].copy_from_slice(&limits.cpu_permille.to_le_bytes());
            bytes[28..32].copy_from_slice(&limits.pids.to_le_bytes());
        }
        if let Self::Spawn { environment, .. } = self {
            environment.encode(&mut bytes);
        }
        bytes
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; REQUEST_LEN] = bytes.try_into().map_err(|_| DecodeError::Length)?;
        let mut reader = Reader(&bytes[8..]);
        let worker = reader.u64()?;
        let limits = Limits {
            memory_bytes: reader.u64()?,
            cpu_permille: reader.u32()?,
            pids: reader.u32()?,
        };
        let request = match bytes[0] {
            1 => Self::Spawn {
                worker,
                environment: Environment::decode([bytes[1], bytes[2], bytes[3]], &mut reader)?,
                limits,
            },
            2 => Self::Kill { worker },
            3 => Self::Limit { worker, limits },
            _ => return Err(DecodeError::Value),
        };
        // Reserved bytes, and fields that the kind does not use, are zero: one encoding per request.
        if request.encode() == *bytes {
            Ok(request)
        } else {
            Err(DecodeError::Value)
        }
    }
}

impl Environment {
    fn encode(&self, bytes: &mut [u8; REQUEST_LEN]) {
        bytes[1] = self.profile.to_byte();
        bytes[2] = self.backend.to_byte();
        if self.holes.network {
            bytes[3] |= FLAG_NETWORK;
        }
        bytes[32..40].copy_from_slice(&self.holes.devices.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.holes.directories.to_le_bytes());
        if let Some(ImageHash(hash)) = self.image {
            bytes[3] |= FLAG_IMAGE;
            bytes[48..].copy_from_slice(&hash);
        }
    }

    fn decode([profile, backend, flags]: [u8; 3], reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let environment = Self {
            profile: Profile::from_byte(profile).ok_or(DecodeError::Value)?,
            backend: Backend::from_byte(backend).ok_or(DecodeError::Value)?,
            holes: Holes {
                devices: reader.u64()?,
                directories: reader.u64()?,
                network: flags & FLAG_NETWORK != 0,
            },
            image: (flags & FLAG_IMAGE != 0)
                .then(|| reader.take().map(ImageHash))
                .transpose()?,
        };
        if environment.is_possible() {
            Ok(environment)
        } else {
            Err(DecodeError::Value)
        }
    }
}

// Layout of an event's head: kind u8 · three flags · u32 · worker u64 · i32 · i32; text follows.
impl Event {
    /// The datagram. Texts are cut at their limits.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Spawned { worker, pid } => head(1, [0; 3], *pid, *worker, [0; 2]),
            Self::Failed { worker, message } => {
                let message = cut(message, MESSAGE_LEN_MAX);
                let mut bytes = head(2, [0; 3], message.len() as u32, *worker, [0; 2]);
                bytes.extend_from_slice(message.as_bytes());
                bytes
            }
            Self::Exited {
                worker,
                code,
                signal,
                oom,
            } => {
                let flags = [code.is_some().into(), signal.is_some().into(), (*oom).into()];
                head(3, flags, 0, *worker, [code.unwrap_or(0), signal.unwrap_or(0)])
            }
            Self::Layers { layers, sufficient } => {
                let layers = &layers[..layers.len().min(LAYERS_MAX)];
                let mut bytes = head(4, [(*sufficient).into(), 0, 0], layers.len() as u32, 0, [0; 2]);
                layers.iter().for_each(|layer| encode_layer(layer, &mut bytes));
                bytes
            }
        }
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        let flags = [reader.flag()?, reader.flag()?, reader.flag()?];
        let (number, worker) = (reader.u32()?, reader.u64()?);
        let numbers = [reader.i32()?, reader.i32()?];
        let event = match kind {
            1 => Self::Spawned { worker, pid: number },
            2 => Self::Failed {
                worker,
                message: reader.text(number as usize, MESSAGE_LEN_MAX)?,
            },
            3 => Self::Exited {
                worker,
                code: flags[0].then_some(numbers[0]),
                signal: flags[1].then_some(numbers[1]),
                oom: flags[2],
            },
            4 => Self::Layers {
                layers: decode_layers(number as usize, &mut reader)?,
                sufficient: flags[0],
            },
            _ => return Err(DecodeError::Value),
        };
        if reader.0.is_empty() {
            Ok(event)
        } else {
            Err(DecodeError::Length)
        }
    }

    /// Descriptors that travel with it.
    pub fn descriptors(&self) -> usize {
        if matches!(self, Self::Spawned { .. }) {
            3
        } else {
            0
        }
    }
}

fn head(kind: u8, flags: [u8; 3], number: u32, worker: u64, numbers: [i32; 2]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN);
    bytes.push(kind);
    bytes.extend_from_slice(&flags);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&worker.to_le_bytes());
    numbers
        .iter()
        .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes
}

/// Layout: proven u8 · required u8 · length of name u8 · length of detail u8 · name · detail.
fn encode_layer(layer: &LayerReport, bytes: &mut Vec<u8>) {
    let (name, detail) = (
        cut(&layer.name, u8::MAX.into()),
        cut(&layer.detail, u8::MAX.into()),
    );
    bytes.extend_from_slice(&[
        layer.proven.into(),
        layer.required.into(),
        name.len() as u8,
        detail.len() as u8,
    ]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(detail.as_bytes());
}

fn decode_layers(count: usize, reader: &mut Reader<'_>) -> Result<Vec<LayerReport>, DecodeError> {
    if count > LAYERS_MAX {
        return Err(DecodeError::Value);
    }
    (0..count)
        .map(|_| {
            let (proven, required) = (reader.flag()?, reader.flag()?);
            let (name_len, detail_len) = (reader.u8()?.into(), reader.u8()?.into());
            let name = reader.text(name_len, u8::MAX.into())?;
            Ok(LayerReport {
                name,
                proven,
                required,
                detail: reader.text(detail_len, u8::MAX.into())?,
            })
        })
        .collect()
}

/// The longest start of `text` within `len_max` bytes that ends between characters.
fn cut(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

/// Takes fields off the front of a datagram.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(DecodeError::Length)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value),
        }
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.take().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self, len: usize, len_max: usize) -> Result<String, DecodeError> {
        if len > len_max {
            return Err(DecodeError::Length);
        }
        let (text, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Value)
    }
}

#[cfg(test)]
mod tests;
