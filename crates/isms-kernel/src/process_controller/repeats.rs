//! Idempotency keys: a request that repeats one is answered with the call that the first has made.
//!
//! Invariants: as long as anything is known of a call, no other one is made with its key; whoever repeats a request hears of
//! the call no sooner than it is durable.

use std::array::TryFromSliceError;

use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError,
    kernel::{Durability, Retry},
    limits::{KEY_LEN, LATER_S_MAX},
};

use super::{durable::Durable, results::Record};
use crate::{
    clock::{Moment, Unix},
    core::Core,
    durability::Key,
};

/// Repeated requests that wait for the first one's acknowledgement.
const REPEATS_WAITING_MAX: usize = 64;

/// What a request with a known idempotency key is.
enum Repeats {
    /// The same, and the first was acknowledged.
    Known,
    /// The same, and the first was not acknowledged yet.
    NotYet,
    /// Another request.
    Other,
}

/// What stands in front of a durable call's raw bytes.
struct Asked {
    key: Option<[u8; KEY_LEN]>,
    later: Option<Unix>,
}

impl Asked {
    fn take(message: &mut Message) -> Result<Asked, TryFromSliceError> {
        let flags = message.header.flags;
        let mut front = |len: usize, is_there: bool| {
            let len = if is_there { len.min(message.raw.len()) } else { 0 };
            message.raw.split_to(len)
        };
        let (has_key, is_later) = (flags.contains(Flags::KEYED), flags.contains(Flags::LATER));
        let key = front(KEY_LEN, has_key);
        let later = front(size_of::<u64>(), is_later);
        Ok(Asked {
            key: has_key.then(|| key.as_ref().try_into()).transpose()?,
            later: is_later
                .then(|| {
                    later
                        .as_ref()
                        .try_into()
                        .map(|bytes| Unix(u64::from_le_bytes(bytes)))
                })
                .transpose()?,
        })
    }
}

impl Record {
    /// Whose request it is and what it is for is in the key's hash; here only what came with it is compared.
    fn repeats(&self, header: &Header, message: &Message) -> Repeats {
        let durable = self.durable.as_ref().expect("only durable calls have keys");
        // The body of a stream is not here yet; neither is, before it is collected, the first one's.
        let streams = header.flags.contains(Flags::STREAM);
        let first = durable.key.and_then(|key| key.fingerprint);
        let is_same = streams || first.is_none_or(|first| first == fingerprint(&message.raw, &[]));
        match (is_same, durable.committed) {
            (true, true) => Repeats::Known,
            (true, false) => Repeats::NotYet,
            (false, _) => Repeats::Other,
        }
    }
}

/// The request was answered already.
pub(super) struct Answered;

impl Core {
    /// Makes a call an ordinary asynchronous one if those of its Doee are not durable.
    pub(super) fn check_durable(&mut self, header: &mut Header, flags: Flags) -> Result<bool, Answered> {
        let is_volatile = self.retries.of(header.target_doee) == Durability::Volatile;
        if !is_volatile || flags.contains(Flags::LATER) {
            return Ok(true);
        }
        if flags.contains(Flags::KEYED) {
            let text = "calls of this function are not durable (`durable = false` in its manifest), and only durable \
                 calls have an idempotency key";
            self.refuse(header.sender, header, &WireError::new(ErrorCode::Invalid, text));
            return Err(Answered);
        }
        header.flags = Flags(header.flags.0 & !Flags::DURABLE.0);
        Ok(false)
    }

    /// What a call that shall be durable is made with. One that repeats another's idempotency key is answered as that
    /// one was, or will be.
    pub(super) fn durable_of(
        &mut self,
        header: &Header,
        depth: u32,
        due: Option<Moment>,
        message: &mut Message,
    ) -> Result<Box<Durable>, Answered> {
        let Ok(asked) = Asked::take(message) else {
            let text = "the idempotency key or the time to run at is missing";
            self.refuse(header.sender, header, &WireError::new(ErrorCode::Invalid, text));
            return Err(Answered);
        };
        let later = asked.later.map_or(Moment(0), |later| self.calendar.moment(later));
        let begin = later.max(self.now);
        if begin.us_since(self.now) > u64::from(LATER_S_MAX) * 1_000_000 {
            let text = format!("a call runs at most {LATER_S_MAX} s later");
            self.refuse(header.sender, header, &WireError::new(ErrorCode::Invalid, text));
            return Err(Answered);
        }
        let retry = match self.retries.of(header.target_doee) {
            Durability::Durable(retry) => retry,
            // Whoever asks for a time to run at means it.
            Durability::Volatile => Retry::default(),
        };
        let until = begin.after_us(retry.within_us());
        let mut durable = Durable::new(*header, retry, due, until);
        (durable.depth, durable.retry_at) = (depth, later);
        let Some(hash) = asked.key else {
            return Ok(Box::new(durable));
        };
        let Some((first, record)) = self.results.of_key(&hash) else {
            durable.key = Some(Key {
                hash,
                fingerprint: None,
            });
            return Ok(Box::new(durable));
        };
        let repeats = record.repeats(header, message);
        self.repeat(header, first, repeats);
        Err(Answered)
    }

    /// A request repeats the key of a call that is there.
    fn repeat(&mut self, header: &Header, first: ProcessId, repeats: Repeats) {
        match repeats {
            Repeats::Known => self.answer_asker(header, first),
            Repeats::NotYet => {
                let record = self.results.get_mut(first);
                let durable = record.and_then(|record| record.durable.as_mut());
                let askers = &mut durable.expect("it was found by its key").askers;
                match askers.len() < REPEATS_WAITING_MAX {
                    true => askers.push(*header),
                    false => self.refuse(
                        header.sender,
                        header,
                        &WireError::new(ErrorCode::Busy, "too many repeat this idempotency key at once"),
                    ),
                }
            }
            Repeats::Other => {
                let text =
                    "another request was made with this idempotency key; use a key for one request only";
                self.refuse(header.sender, header, &WireError::new(ErrorCode::Conflict, text));
            }
        }
    }

    /// Tells the caller of a repeated request which process the first has made.
    pub(super) fn answer_asker(&mut self, asker: &Header, process: ProcessId) {
        let header = Header {
            process,
            ..asker.answer(Kind::Reply)
        };
        let header = Header {
            sender: Service::Kernel,
            ..header
        };
        self.send_to_asker(asker, Message::bare(header));
    }

    /// Answers a request that has waited for the journal, unless whoever made it is gone.
    pub(super) fn send_to_asker(&mut self, asker: &Header, answer: Message) {
        if self.generation(asker.sender) == asker.sender_generation {
            self.send_to(asker.sender, answer);
        }
    }
}

/// Tells bodies apart that were sent with the same key.
pub(super) fn fingerprint(raw: &[u8], stream: &[u8]) -> u64 {
    // FNV-1a: the same in every version of this program, unlike the standard library's.
    let bytes = raw.iter().chain(stream);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
