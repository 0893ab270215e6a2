//! The fixed header: frame 1 of every message.
//!
//! Layout, little-endian (offset, length): version_min 0,1 · version_max 1,1 · kind 2,1 · flags 3,1 ·
//! class 4,1 · sender 5,1 · target 6,1 · zero 7,1 · operation 8,2 · zero 10,2 · attempt 12,4 ·
//! sender generation 16,4 · target generation 20,4 · call id 24,8 · remaining 32,8 · process 40,16 ·
//! parent 56,16 · project 72,16 · calling Doee version 88,16 · target Doee version 104,16 ·
//! principal 120,16 · trace id 136,16 · span id 152,8. In all 160 bytes.

use crate::{
    Class, DecodeError, DoeeVersion, Generation, Incarnation, PrincipalId, ProcessId, ProjectId, Service,
    SpanId, TraceContext, TraceId,
};

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;

/// The length of an encoded header.
pub const HEADER_LEN: usize = 160;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First message of a connection, and the Kernel's answer to it.
    Register = 1,
    /// "I live"; header only.
    Heartbeat = 2,
    /// Asks a service for something; answered by exactly one `Reply` or `Error`.
    Request = 3,
    /// The answer.
    Reply = 4,
    /// The answer is that it failed; the body is a `WireError`.
    Error = 5,
    /// Tells, unanswered; may be dropped under load, and is then counted.
    Event = 6,
    /// The caller no longer wants an answer; header only.
    Cancel = 7,
    /// Allows the peer to send more bytes of a stream (`kernel::StreamCredit`).
    Credit = 8,
    /// A piece of a stream: the raw frame.
    StreamChunk = 9,
    /// The last piece of a stream has been sent.
    StreamEnd = 10,
    /// Doer → Kernel: how many calls of a Doee version it can take (`kernel::Slots`).
    Slots = 11,
    /// Kernel → Doer: how many calls of a Doee version wait (`kernel::Demand`).
    Demand = 12,
    /// Callee → caller: the call has begun; header only. Nobody sends it: workers tell by their status page.
    Begun = 13,
}

impl Kind {
    /// Reads a kind from its number on the wire.
    pub const fn from_u8(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Register,
            2 => Kind::Heartbeat,
            3 => Kind::Request,
            4 => Kind::Reply,
            5 => Kind::Error,
            6 => Kind::Event,
            7 => Kind::Cancel,
            8 => Kind::Credit,
            9 => Kind::StreamChunk,
            10 => Kind::StreamEnd,
            11 => Kind::Slots,
            12 => Kind::Demand,
            13 => Kind::Begun,
            _ => return None,
        })
    }
}

/// Bits that qualify a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No bit set.
    pub const NONE: Flags = Flags(0);
    /// On a request or reply: a stream of chunks follows, sent only against credit (none at first).
    pub const STREAM: Flags = Flags(1);
    /// On a chunk, end or credit: it travels from the callee towards the caller. A chunk or end so
    /// marked belongs to the reply's stream; a credit so marked allows more of the request's stream.
    pub const TO_CALLER: Flags = Flags(2);
    /// On a stream end: the stream broke off and what was received is incomplete.
    pub const ABORTED: Flags = Flags(4);

    /// On a request to run a Doee, of an edge or on behalf of a call: it is answered at once with the process's id, goes on without
    /// its caller, and the Kernel keeps its result. It is not passed on to the callee.
    pub const ASYNC: Flags = Flags(8);
    /// On an asynchronous request: it shall survive the Kernel, and be tried again when an attempt fails.
    /// On what the Kernel sends: it belongs to such a call, whose attempts share one process id: the dispatch of an
    /// attempt, and its children but for calls of Doees. A claim by anybody else is cleared.
    pub const DURABLE: Flags = Flags(16);
    /// On a durable request: the raw frame begins with the 32 bytes that stand for an idempotency key. The Kernel
    /// takes them off, and answers a repeated one with the process that the first has made.
    pub const KEYED: Flags = Flags(32);
    /// On a durable request: the raw frame begins, behind the key if it has one, with the time at which it runs, as
    /// 8 bytes: µs since 1970, little-endian. The Kernel takes them off, and keeps the call until then.
    pub const LATER: Flags = Flags(64);
    /// On an edge's request for a root process: whoever called wants it to be traced. On what the Kernel sends: the
    /// process is traced. A claim by anybody else is cleared.
    pub const TRACED: Flags = Flags(128);

    /// All by which a caller says how its request is meant.
    pub const MEANT: Flags =
        Flags(Flags::ASYNC.0 | Flags::DURABLE.0 | Flags::KEYED.0 | Flags::LATER.0 | Flags::TRACED.0);

    /// True when all bits of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Frame 1 of a message. Ids that do not apply are `NONE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// Bits that qualify it.
    pub flags: Flags,
    /// Scheduling class of the process.
    pub class: Class,
    /// Who sends. The Kernel overwrites it with the connection's registered service.
    pub sender: Service,
    /// For whom it is.
    pub target: Service,
    /// What a request or event asks for: a number of the target's module; 0 on other kinds.
    pub operation: u16,
    /// Attempt of the process, from 1.
    pub attempt: u32,
    /// The sender's generation. The Kernel overwrites it.
    pub sender_generation: Generation,
    /// The generation of the target that is meant; 0 for whichever is registered.
    pub target_generation: Generation,
    /// Pairs an answer with its request on one connection, in one direction; chosen by the requester.
    pub call: u64,
    /// Time left for the call in µs, turned into a monotonic deadline at receipt; 0 for no deadline.
    pub remaining_us: u64,
    /// The process; made by the Kernel.
    pub process: ProcessId,
    /// On a request of a service: the process on whose behalf it asks. `NONE` asks for a root process.
    pub parent: ProcessId,
    /// The project that pays for the call.
    pub project: ProjectId,
    /// On a child's request: the Doee version that asks; filled by the Kernel.
    pub calling_doee: DoeeVersion,
    /// On a call of a Doee: the version to run.
    pub target_doee: DoeeVersion,
    /// On whose authority.
    pub principal: PrincipalId,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Header {
    /// Makes a header of a kind between two services, with everything else at its zero.
    pub fn new(kind: Kind, sender: Service, target: Service) -> Header {
        Header {
            kind,
            flags: Flags::NONE,
            class: Class::Normal,
            sender,
            target,
            operation: 0,
            attempt: 0,
            sender_generation: Incarnation(0),
            target_generation: Incarnation(0),
            call: 0,
            remaining_us: 0,
            process: ProcessId::NONE,
            parent: ProcessId::NONE,
            project: ProjectId::NONE,
            calling_doee: DoeeVersion::NONE,
            target_doee: DoeeVersion::NONE,
            principal: PrincipalId::NONE,
            trace: TraceContext::default(),
        }
    }

    /// The header of an answer to this request: same call and process, other direction.
    pub fn answer(&self, kind: Kind) -> Header {
        Header {
            kind,
            flags: Flags::NONE,
            sender: self.target,
            target: self.sender,
            sender_generation: self.target_generation,
            target_generation: self.sender_generation,
            ..*self
        }
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..7].copy_from_slice(&[
            VERSION,
            VERSION,
            self.kind as u8,
            self.flags.0,
            self.class as u8,
            self.sender as u8,
            self.target as u8,
        ]);
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(8, &self.operation.to_le_bytes());
        put(12, &self.attempt.to_le_bytes());
        put(16, &self.sender_generation.0.to_le_bytes());
        put(20, &self.target_generation.0.to_le_bytes());
        put(24, &self.call.to_le_bytes());
        put(32, &self.remaining_us.to_le_bytes());
        put(40, &self.process.to_bytes());
        put(56, &self.parent.to_bytes());
        put(72, &self.project.to_bytes());
        put(88, &self.calling_doee.to_bytes());
        put(104, &self.target_doee.to_bytes());
        put(120, &self.principal.to_bytes());
        put(136, &self.trace.trace.0);
        put(152, &self.trace.span.0);
        bytes
    }

    /// Decodes a header; the bytes may be hostile.
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let bytes: &[u8; HEADER_LEN] = bytes.try_into().map_err(|_| DecodeError::HeaderLen {
            len: bytes.len(),
            expected: HEADER_LEN,
        })?;
        let (min, max) = (bytes[0], bytes[1]);
        if !(min..=max).contains(&VERSION) {
            return Err(DecodeError::Version {
                min,
                max,
                ours: VERSION,
            });
        }
        let undefined = |field, value: u8| DecodeError::Field {
            field,
            value: value.into(),
        };
        Ok(Header {
            kind: Kind::from_u8(bytes[2]).ok_or_else(|| undefined("kind", bytes[2]))?,
            // Every bit is defined.
            flags: Flags(bytes[3]),
            class: Class::from_u8(bytes[4]).ok_or_else(|| undefined("class", bytes[4]))?,
            sender: Service::from_u8(bytes[5]).ok_or_else(|| undefined("sender", bytes[5]))?,
            target: Service::from_u8(bytes[6]).ok_or_else(|| undefined("target", bytes[6]))?,
            operation: u16::from_le_bytes(field(bytes, 8)),
            attempt: u32::from_le_bytes(field(bytes, 12)),
            sender_generation: Incarnation(u32::from_le_bytes(field(bytes, 16))),
            target_generation: Incarnation(u32::from_le_bytes(field(bytes, 20))),
            call: u64::from_le_bytes(field(bytes, 24)),
            remaining_us: u64::from_le_bytes(field(bytes, 32)),
            process: ProcessId::from_bytes(field(bytes, 40)),
            parent: ProcessId::from_bytes(field(bytes, 56)),
            project: ProjectId::from_bytes(field(bytes, 72)),
            calling_doee: DoeeVersion::from_bytes(field(bytes, 88)),
            target_doee: DoeeVersion::from_bytes(field(bytes, 104)),
            principal: PrincipalId::from_bytes(field(bytes, 120)),
            trace: TraceContext {
                trace: TraceId(field(bytes, 136)),
                span: SpanId(field(bytes, 152)),
            },
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
    bytes[offset..offset + N]
        .try_into()
        .expect("every field lies inside the header")
}
