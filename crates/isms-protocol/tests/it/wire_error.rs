//! The error that crosses process boundaries.

use isms_protocol::{ErrorCode, Kind, Message, WireError, decode, encode, limits::ERROR_MESSAGE_LEN_MAX};

use crate::samples;

#[test]
fn a_message_at_the_limit_is_kept_whole() {
    let message = "x".repeat(ERROR_MESSAGE_LEN_MAX);
    assert_eq!(
        WireError::new(ErrorCode::Invalid, message.clone()).message,
        message
    );
}

#[test]
fn an_overlong_message_is_cut_at_a_character_boundary() {
    let letter = 'ä';
    let message = format!("x{}", letter.to_string().repeat(ERROR_MESSAGE_LEN_MAX / 2));
    let cut = WireError::new(ErrorCode::Invalid, message.clone()).message;
    assert_eq!(
        cut.len(),
        ERROR_MESSAGE_LEN_MAX - 1,
        "the letter that crosses the limit is left out"
    );
    assert!(message.starts_with(&cut));
}

#[test]
fn it_shows_its_message_alone() {
    assert_eq!(
        WireError::new(ErrorCode::Busy, "the queue is full").to_string(),
        "the queue is full"
    );
}

#[test]
fn an_error_answer_carries_code_and_message_back_to_who_asked() {
    let request = samples::header(Kind::Request);
    let error = WireError::new(ErrorCode::NotFound, "no such project");
    let answer = Message::error_answer(&request, &error);
    assert_eq!(answer.header, request.answer(Kind::Error));
    assert_eq!(answer.decode_body::<WireError>().unwrap(), error);
}

#[test]
fn an_unknown_code_on_the_wire_is_internal_and_keeps_its_message() {
    let mut bytes = encode(&WireError::new(ErrorCode::Busy, "full"));
    assert_eq!(bytes[..2], [0x92, 8]);
    bytes[1] = 0x63;
    assert_eq!(
        decode::<WireError>(&bytes).unwrap(),
        WireError::new(ErrorCode::Internal, "full")
    );
}
