//! The engine against honest, cut and hostile bytes.

use proptest::prelude::*;

use super::*;

fn greeted(side: Side) -> (Engine, Vec<u8>) {
    let mut peer = Engine::new(side.peer());
    (Engine::new(side), std::mem::take(peer.output()))
}

/// Feeds bytes in the given pieces; the messages they amount to, or the error that ends it.
fn receive(engine: &mut Engine, bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<ZmtpError>) {
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().cycle();
    loop {
        loop {
            match engine.next_event() {
                Ok(Some(Event::Message(frames))) => {
                    messages.push(
                        (0..frames.count())
                            .map(|index| frames.get(index).to_vec())
                            .collect(),
                    );
                }
                Ok(Some(Event::Ready)) => {}
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        if rest.is_empty() {
            return (messages, None);
        }
        let space = engine.space();
        let len = rest
            .len()
            .min(space.len())
            .min(*pieces.next().expect("pieces are not empty"));
        assert!(len > 0, "there is always room after all events were taken");
        space[..len].copy_from_slice(&rest[..len]);
        engine.received(len);
        rest = &rest[len..];
    }
}

/// What an engine that is past the handshake makes of bytes.
fn check(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<ZmtpError>) {
    let (mut engine, hello) = greeted(Side::Bind);
    receive(&mut engine, &[&hello, bytes].concat(), &[usize::MAX])
}

fn check_error(bytes: &[u8], expected: ZmtpError) {
    let (messages, error) = check(bytes);
    assert_eq!((messages.len(), error), (0, Some(expected)));
}

fn message_bytes(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_message(&mut bytes, frames);
    bytes
}

fn ping(context: &[u8]) -> Vec<u8> {
    [
        &[COMMAND, 7 + context.len() as u8][..],
        b"\x04PING\0\x0a",
        context,
    ]
    .concat()
}

#[test]
fn the_greeting_and_ready_are_those_of_zmtp_3_1() {
    let mut engine = Engine::new(Side::Connect);
    let mut expected = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 1];
    expected.extend_from_slice(b"NULL");
    expected.resize(64, 0);
    expected.extend_from_slice(b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0");
    assert_eq!(*engine.output(), expected);
}

#[test]
fn frames_of_255_bytes_are_short_and_of_256_long() {
    assert_eq!(message_bytes(&[&[7; 255]])[..2], [0, 255]);
    assert_eq!(message_bytes(&[&[7; 256]])[..9], [2, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(message_bytes(&[b"a", b""]), [1, 1, b'a', 0, 0]);
}

#[test]
fn a_stranger_is_turned_away_at_its_first_byte() {
    let mut engine = Engine::new(Side::Bind);
    assert_eq!(receive(&mut engine, b"G", &[1]).1, Some(ZmtpError::NotZmtp));
    assert_eq!(receive(&mut engine, b"", &[1]).1, Some(ZmtpError::Failed));
}

#[test]
fn older_versions_and_other_mechanisms_are_refused() {
    let (_, hello) = greeted(Side::Bind);
    let mut old = hello.clone();
    old[10] = 2;
    assert_eq!(
        receive(&mut Engine::new(Side::Bind), &old, &[7]).1,
        Some(ZmtpError::Version { major: 2 })
    );
    let mut curve = hello;
    curve[12..17].copy_from_slice(b"CURVE");
    assert_eq!(
        receive(&mut Engine::new(Side::Bind), &curve, &[7]).1,
        Some(ZmtpError::Mechanism)
    );
}

#[test]
fn a_router_does_not_talk_to_a_router_and_says_so() {
    let (_, hello) = greeted(Side::Connect);
    let mut engine = Engine::new(Side::Bind);
    engine.output().clear();
    let expected = ZmtpError::SocketType {
        peer: "ROUTER".into(),
        expected: "DEALER",
    };
    assert_eq!(receive(&mut engine, &hello, &[64]).1, Some(expected));
    assert_eq!(engine.output()[..8], *b"\x04\x21\x05ERROR");
}

#[test]
fn the_reason_of_a_peer_that_refuses_is_kept() {
    check_error(
        b"\x04\x0a\x05ERROR\x03no!",
        ZmtpError::Peer { reason: "no!".into() },
    );
}

#[test]
fn a_message_before_ready_is_refused() {
    let (mut engine, mut hello) = greeted(Side::Bind);
    hello.truncate(GREETING_LEN);
    hello.extend_from_slice(&message_bytes(&[b"early"]));
    assert_eq!(
        receive(&mut engine, &hello, &[64]).1,
        Some(ZmtpError::MessageBeforeReady)
    );
}

#[test]
fn a_second_ready_is_refused() {
    let (_, hello) = greeted(Side::Bind);
    check_error(&hello[GREETING_LEN..], ZmtpError::SecondReady);
}

#[test]
fn a_frame_that_announces_2_to_the_62_bytes_is_refused_by_its_head() {
    let announced = 1_u64 << 62;
    let head = [&[LONG_FRAME][..], &announced.to_be_bytes()].concat();
    let (mut engine, hello) = greeted(Side::Bind);
    let (_, error) = receive(&mut engine, &[hello, head].concat(), &[usize::MAX]);
    assert_eq!(error, Some(ZmtpError::MessageTooLong { len: announced }));
    assert!(
        engine.input.capacity() <= 8 * 1024,
        "nothing was allocated for it"
    );
}

#[test]
fn a_length_that_overflows_together_with_the_frames_before_is_refused() {
    let head = [
        &message_bytes(&[b"abc", b""])[..5],
        &[LONG_FRAME],
        &u64::MAX.to_be_bytes(),
    ]
    .concat();
    check_error(&head, ZmtpError::MessageTooLong { len: u64::MAX });
}

#[test]
fn a_message_of_the_largest_size_passes_and_one_byte_more_does_not() {
    let body = vec![1; MESSAGE_LEN_MAX - 2];
    let (messages, error) = check(&message_bytes(&[b"a", b"b", &body]));
    assert_eq!((messages[0][2].len(), error), (body.len(), None));
    let error = ZmtpError::MessageTooLong {
        len: MESSAGE_LEN_MAX as u64 + 1,
    };
    check_error(&message_bytes(&[b"ab", b"b", &body]), error);
}

#[test]
fn a_fourth_frame_is_refused_before_its_body() {
    check_error(&[1, 0, 1, 0, 1, 0, 1, 0], ZmtpError::TooManyFrames);
}

#[test]
fn undefined_flags_and_commands_with_more_are_refused() {
    check_error(&[8, 0], ZmtpError::FrameFlags { flags: 8 });
    check_error(&[COMMAND | MORE, 0], ZmtpError::FrameFlags { flags: 5 });
}

#[test]
fn malformed_and_overlong_commands_are_refused() {
    check_error(&[COMMAND, 0], ZmtpError::MalformedCommand);
    check_error(&[COMMAND, 3, 9, b'P', b'I'], ZmtpError::MalformedCommand);
    check_error(
        &[COMMAND, 6, 4, b'P', b'I', b'N', b'G', 0],
        ZmtpError::MalformedCommand,
    );
    check_error(&ping(&[0; 17]), ZmtpError::MalformedCommand);
    check_error(
        &[COMMAND | 2, 0, 0, 0, 0, 0, 0, 2, 1],
        ZmtpError::CommandTooLong { len: 513 },
    );
}

#[test]
fn a_ping_between_two_frames_of_a_message_is_answered_with_its_context() {
    let (mut engine, hello) = greeted(Side::Bind);
    engine.output().clear();
    let bytes = [&hello[..], &[1, 1, b'a'], &ping(b"ctx"), &[0, 1, b'b']].concat();
    let (messages, error) = receive(&mut engine, &bytes, &[1]);
    assert_eq!(
        (messages, error),
        (vec![vec![b"a".to_vec(), b"b".to_vec()]], None)
    );
    assert_eq!(*engine.output(), b"\x04\x08\x04PONGctx");
}

#[test]
fn endless_pings_neither_fill_the_output_nor_the_input() {
    let (mut engine, hello) = greeted(Side::Bind);
    let (messages, error) = receive(
        &mut engine,
        &[hello, ping(b"0123456789abcdef").repeat(100_000)].concat(),
        &[4096],
    );
    assert_eq!((messages.len(), error), (0, None));
    assert!(engine.output().len() < 8 * 1024);
    assert!(engine.input.capacity() <= INPUT_LEN_MAX);
}

#[test]
fn endless_commands_inside_a_message_are_refused_when_the_input_is_full() {
    let (mut engine, hello) = greeted(Side::Bind);
    let bytes = [&hello[..], &[1, 0], &ping(b"").repeat(100_000)].concat();
    assert_eq!(
        receive(&mut engine, &bytes, &[4096]).1,
        Some(ZmtpError::TooManyCommands)
    );
    assert_eq!(engine.input.capacity(), INPUT_LEN_MAX);
}

#[test]
fn an_identity_is_ignored_and_malformed_metadata_refused() {
    let ready = |metadata: &[u8]| {
        let body = [b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER", metadata].concat();
        let (mut engine, hello) = greeted(Side::Bind);
        let bytes = [&hello[..GREETING_LEN], &[COMMAND, body.len() as u8], &body].concat();
        receive(&mut engine, &bytes, &[usize::MAX]).1
    };
    assert_eq!(ready(b"\x08Identity\0\0\0\x06kernel"), None);
    assert_eq!(
        ready(b"\x08Identity\xff\xff\xff\xffkernel"),
        Some(ZmtpError::MalformedCommand)
    );
    assert_eq!(ready(b"\x09Identity"), Some(ZmtpError::MalformedCommand));
}

const LONG_FRAME: u8 = 2;

fn messages() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let len = prop_oneof![0..4_usize, 250..260_usize, 0..21_000_usize];
    let frame = (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
    prop::collection::vec(prop::collection::vec(frame, 1..=MESSAGE_FRAMES_MAX), 0..12)
}

proptest! {
    #[test]
    fn any_messages_arrive_whole_however_they_are_cut(
        messages in messages(),
        pieces in prop::collection::vec(1..5_000_usize, 1..20),
        pings in any::<bool>(),
    ) {
        let (mut engine, mut bytes) = greeted(Side::Connect);
        for message in &messages {
            if pings {
                bytes.extend_from_slice(&ping(b"x"));
            }
            bytes.extend_from_slice(&message_bytes(&message.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        let (received, error) = receive(&mut engine, &bytes, &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(received, messages);
        prop_assert!(!engine.buffered());
    }

    #[test]
    fn random_bytes_never_panic_and_never_allocate_beyond_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000),
        pieces in prop::collection::vec(1..300_usize, 1..5),
        past_handshake in any::<bool>(),
    ) {
        let (mut engine, hello) = greeted(Side::Bind);
        let bytes = if past_handshake { [hello, bytes].concat() } else { bytes };
        receive(&mut engine, &bytes, &pieces);
        prop_assert!(engine.input.capacity() <= INPUT_LEN_MAX);
    }

    #[test]
    fn a_truncated_message_is_never_handed_out(len in 0..300_usize, cut in any::<prop::sample::Index>()) {
        let bytes = message_bytes(&[&vec![5; len], b"tail"]);
        let (messages, error) = check(&bytes[..cut.index(bytes.len())]);
        prop_assert_eq!((messages.len(), error), (0, None));
    }
}
