//! Feeds the ZMTP engine with any bytes in any pieces: it must not panic, must make the same of them
//! however they are cut, and must keep within its limits.
//!
//! Byte 0 chooses the side, whether a valid handshake comes first, and the size of the pieces.

#![no_main]

use isms_ipc::zmtp::{Engine, Event, INPUT_LEN_MAX, Side};
use isms_protocol::limits::{MESSAGE_FRAMES_MAX, MESSAGE_LEN_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let (side, peer) = match choice & 1 {
        0 => (Side::Bind, Side::Connect),
        _ => (Side::Connect, Side::Bind),
    };
    let mut bytes = if choice & 2 == 0 {
        Vec::new()
    } else {
        Engine::new(peer).output().clone()
    };
    bytes.extend_from_slice(data);
    let whole = receive(side, &bytes, usize::MAX);
    let cut = receive(side, &bytes, usize::from(choice >> 2) + 1);
    assert_eq!(whole, cut, "the same bytes mean the same, however they are cut");
});

/// The lengths of all frames received, in order, and whether the connection ended in an error.
fn receive(side: Side, mut bytes: &[u8], piece: usize) -> (Vec<usize>, bool) {
    let mut engine = Engine::new(side);
    let mut lengths = Vec::new();
    loop {
        loop {
            match engine.next_event() {
                Ok(Some(Event::Message(frames))) => {
                    let all = (0..frames.count()).map(|index| frames.get(index).len());
                    assert!((1..=MESSAGE_FRAMES_MAX).contains(&frames.count()));
                    assert!(all.clone().sum::<usize>() <= MESSAGE_LEN_MAX);
                    lengths.extend(all);
                }
                Ok(Some(Event::Ready)) => {}
                Ok(None) => break,
                Err(_) => return (lengths, true),
            }
        }
        if bytes.is_empty() {
            return (lengths, false);
        }
        let space = engine.space();
        assert!(!space.is_empty() && space.len() <= INPUT_LEN_MAX);
        let len = bytes.len().min(piece).min(space.len());
        space[..len].copy_from_slice(&bytes[..len]);
        engine.received(len);
        bytes = &bytes[len..];
    }
}
