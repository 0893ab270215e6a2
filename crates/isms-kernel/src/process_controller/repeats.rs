//! Idempotency keys: a request that repeats one is answered with the call that the first has made.
//!
//! Invariants: as long as anything is known of a call, no other one is made with its key; whoever repeats a request hears of
//! the call no sooner than it is durable.

use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError, limits::KEY_LEN,
};

use super::{durable::Durable, results::Record};
use crate::{clock::Moment, core::Core, durability::Key};

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

impl Record {
    fn repeats(&self, header: &Header, message: &Message) -> Repeats {
        let durable = self.durable.as_ref().expect("only durable calls have keys");
        let first = &durable.request.header;
        let same_target = first.target_doee == header.target_doee;
        // The body of a stream is not here yet: that its length class and target are the same has to do.
        let streams = header.flags.contains(Flags::STREAM);
        let same_body = streams
            || durable
                .key
                .is_some_and(|key| key.fingerprint == fingerprint(&message.raw, &[]));
        match (
            same_target && (same_body || !durable.committed),
            durable.committed,
        ) {
            (true, true) => Repeats::Known,
            (true, false) => Repeats::NotYet,
            (false, _) => Repeats::Other,
        }
    }
}

/// The request was answered already.
pub(super) struct Answered;

impl Core {
    /// What a call that shall be durable is made with. One that repeats another's idempotency key is answered as that
    /// one was, or will be.
    pub(super) fn durable_of(
        &mut self,
        header: &Header,
        due: Option<Moment>,
        message: &mut Message,
    ) -> Result<Box<Durable>, Answered> {
        let retry = self.retries.of(header.target_doee);
        let until = self.now.after_us(u64::from(retry.within_s) * 1_000_000);
        let mut durable = Durable::new(*header, retry, due, until);
        if !message.header.flags.contains(Flags::KEYED) {
            return Ok(Box::new(durable));
        }
        let hash = message.raw.get(..KEY_LEN).and_then(|hash| hash.try_into().ok());
        let Some(hash) = hash else {
            let error = WireError::new(ErrorCode::Invalid, "the idempotency key is missing");
            self.refuse(header.sender, header, &error);
            return Err(Answered);
        };
        message.raw = message.raw.slice(KEY_LEN..);
        let Some((first, record)) = self.results.of_key(&hash) else {
            durable.key = Some(Key { hash, fingerprint: 0 });
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
