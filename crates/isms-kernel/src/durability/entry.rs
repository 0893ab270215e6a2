//! Entries of the journal, and their encoding.
//!
//! An entry is a description in MessagePack, in array form, so that fields can be appended with a default; behind it
//! stand the messages and bodies as they are, each with its length. The journal vouches for the bytes; what cannot be
//! decoded nevertheless was written by a newer version.

use bytes::Bytes;
use isms_protocol::{
    DoeeVersion, HEADER_LEN, Header, Message, PrincipalId, ProcessId, ProjectId, decode, encode,
    kernel::{Progress, Retry},
    limits::KEY_LEN,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::clock::Unix;

const OPEN: u8 = 1;
const FAILED: u8 = 2;
const DEAD: u8 = 3;
const ENDED: u8 = 4;
const GONE: u8 = 5;

/// What happened to a durable call, or what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has not ended, or is a dead letter. States it wholly.
    Open(Box<Open>),
    /// An attempt has failed, and there will be another.
    Failed(Failed),
    /// It was given up.
    Dead(Box<Dead>),
    /// It has ended. States it wholly.
    Ended(Box<Ended>),
    /// A dead letter was discarded.
    Gone(ProcessId),
}

/// An idempotency key, as an edge has hashed it with whose it is, and what was asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) hash: [u8; KEY_LEN],
    /// Tells requests apart that were made with one key, once the whole body is here; not proof against who wants to be
    /// mistaken.
    pub(crate) fingerprint: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) accepted_at: Unix,
    /// By when it should begin: orders it among others, and never ends it.
    pub(crate) due: Option<Unix>,
    /// After this no attempt begins any more.
    pub(crate) until: Unix,
    pub(crate) retry: Retry,
    pub(crate) failures: u32,
    /// Not before this.
    pub(crate) retry_at: Unix,
    pub(crate) key: Option<Key>,
    /// The request as it is dispatched, and the stream of its body.
    pub(crate) request: Message,
    pub(crate) stream: Bytes,
    /// Since when it is a dead letter, and why.
    pub(crate) dead: Option<(Unix, Message)>,
    /// Calls above it in the chain of calls that led to it.
    pub(crate) depth: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) process: ProcessId,
    pub(crate) failures: u32,
    pub(crate) retry_at: Unix,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) process: ProcessId,
    pub(crate) failures: u32,
    pub(crate) at: Unix,
    pub(crate) answer: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) process: ProcessId,
    pub(crate) project: ProjectId,
    pub(crate) principal: PrincipalId,
    pub(crate) doee: DoeeVersion,
    pub(crate) accepted_at: Unix,
    pub(crate) queued_us: u64,
    pub(crate) ran_us: u64,
    pub(crate) at: Unix,
    pub(crate) progress: Progress,
    pub(crate) failures: u32,
    pub(crate) key: Option<Key>,
    pub(crate) answer: Message,
    pub(crate) stream: Bytes,
}

#[derive(Serialize, Deserialize)]
struct OpenMeta {
    accepted_at: Unix,
    due: Option<Unix>,
    until: Unix,
    retry: Retry,
    failures: u32,
    retry_at: Unix,
    key: Option<Key>,
    dead: Option<Unix>,
    // Left out where it is 0, so that an older version reads what it could have written.
    #[serde(default, skip_serializing_if = "is_zero")]
    depth: u32,
}

fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

#[derive(Serialize, Deserialize)]
struct FailedMeta {
    process: ProcessId,
    failures: u32,
    at: Unix,
}

#[derive(Serialize, Deserialize)]
struct EndedMeta {
    process: ProcessId,
    project: ProjectId,
    principal: PrincipalId,
    doee: DoeeVersion,
    accepted_at: Unix,
    queued_us: u64,
    ran_us: u64,
    at: Unix,
    progress: Progress,
    failures: u32,
    key: Option<Key>,
}

impl Entry {
    pub(crate) fn process(&self) -> ProcessId {
        match self {
            Entry::Open(open) => open.request.header.process,
            Entry::Failed(failed) => failed.process,
            Entry::Dead(dead) => dead.process,
            Entry::Ended(ended) => ended.process,
            Entry::Gone(process) => *process,
        }
    }

    /// The kind of a record and its payload.
    pub(crate) fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Entry::Open(open) => {
                let mut writer = Writer::new(&OpenMeta {
                    accepted_at: open.accepted_at,
                    due: open.due,
                    until: open.until,
                    retry: open.retry,
                    failures: open.failures,
                    retry_at: open.retry_at,
                    key: open.key,
                    dead: open.dead.as_ref().map(|(at, _)| *at),
                    depth: open.depth,
                });
                writer.message(&open.request).part(&open.stream);
                if let Some((_, answer)) = &open.dead {
                    writer.message(answer);
                }
                (OPEN, writer.0)
            }
            Entry::Failed(failed) => {
                let meta = FailedMeta {
                    process: failed.process,
                    failures: failed.failures,
                    at: failed.retry_at,
                };
                (FAILED, Writer::new(&meta).0)
            }
            Entry::Dead(dead) => {
                let mut writer = Writer::new(&FailedMeta {
                    process: dead.process,
                    failures: dead.failures,
                    at: dead.at,
                });
                writer.message(&dead.answer);
                (DEAD, writer.0)
            }
            Entry::Ended(ended) => {
                let mut writer = Writer::new(&EndedMeta {
                    process: ended.process,
                    project: ended.project,
                    principal: ended.principal,
                    doee: ended.doee,
                    accepted_at: ended.accepted_at,
                    queued_us: ended.queued_us,
                    ran_us: ended.ran_us,
                    at: ended.at,
                    progress: ended.progress,
                    failures: ended.failures,
                    key: ended.key,
                });
                writer.message(&ended.answer).part(&ended.stream);
                (ENDED, writer.0)
            }
            Entry::Gone(process) => (GONE, Writer::new(process).0),
        }
    }

    /// Reads a record.
    pub(crate) fn decode(kind: u8, payload: &[u8]) -> Option<Entry> {
        let mut reader = Reader(payload);
        let entry = match kind {
            OPEN => {
                let meta: OpenMeta = reader.meta()?;
                let (request, stream) = (reader.message()?, reader.bytes()?);
                let dead = match meta.dead {
                    Some(at) => Some((at, reader.message()?)),
                    None => None,
                };
                Entry::Open(Box::new(Open {
                    accepted_at: meta.accepted_at,
                    due: meta.due,
                    until: meta.until,
                    retry: meta.retry,
                    failures: meta.failures,
                    retry_at: meta.retry_at,
                    key: meta.key,
                    request,
                    stream,
                    dead,
                    depth: meta.depth,
                }))
            }
            FAILED => {
                let meta: FailedMeta = reader.meta()?;
                Entry::Failed(Failed {
                    process: meta.process,
                    failures: meta.failures,
                    retry_at: meta.at,
                })
            }
            DEAD => {
                let meta: FailedMeta = reader.meta()?;
                Entry::Dead(Box::new(Dead {
                    process: meta.process,
                    failures: meta.failures,
                    at: meta.at,
                    answer: reader.message()?,
                }))
            }
            ENDED => {
                let meta: EndedMeta = reader.meta()?;
                Entry::Ended(Box::new(Ended {
                    process: meta.process,
                    project: meta.project,
                    principal: meta.principal,
                    doee: meta.doee,
                    accepted_at: meta.accepted_at,
                    queued_us: meta.queued_us,
                    ran_us: meta.ran_us,
                    at: meta.at,
                    progress: meta.progress,
                    failures: meta.failures,
                    key: meta.key,
                    answer: reader.message()?,
                    stream: reader.bytes()?,
                }))
            }
            GONE => Entry::Gone(reader.meta()?),
            _ => return None,
        };
        reader.0.is_empty().then_some(entry)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(meta: &impl Serialize) -> Writer {
        let mut writer = Writer(Vec::new());
        writer.part(&encode(meta));
        writer
    }

    fn part(&mut self, bytes: &[u8]) -> &mut Writer {
        let len = u32::try_from(bytes.len()).expect("a message and a body of a call are far below 4 GiB");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(&mut self, message: &Message) -> &mut Writer {
        self.0.extend_from_slice(&message.header.encode());
        self.part(&message.body).part(&message.raw)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(len as usize)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        self.part().map(Bytes::copy_from_slice)
    }

    fn meta<T: DeserializeOwned>(&mut self) -> Option<T> {
        decode(self.part()?).ok()
    }

    fn message(&mut self) -> Option<Message> {
        Some(Message {
            header: Header::decode(self.take(HEADER_LEN)?).ok()?,
            body: self.bytes()?,
            raw: self.bytes()?,
        })
    }
}
