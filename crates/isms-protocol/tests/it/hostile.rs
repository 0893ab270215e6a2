//! Bytes of a hostile, broken or newer peer: an error each, never a panic, never a huge allocation.

use bytes::Bytes;
use isms_protocol::{
    DecodeError, HEADER_LEN, Header, Kind, Message, dbriver, decode, doer, kernel, resadmin, supervisor,
    worker,
};
use proptest::{collection::vec, prelude::*};

use crate::samples;

/// The decoder's message for a header in which one byte was replaced.
fn refusal(offset: usize, value: u8) -> String {
    let mut bytes = samples::header(Kind::Request).encode();
    bytes[offset] = value;
    Header::decode(&bytes).unwrap_err().to_string()
}

#[test]
fn a_header_of_any_other_length_is_refused() {
    let bytes = [1; HEADER_LEN + 1];
    for len in (0..HEADER_LEN).chain([HEADER_LEN + 1]) {
        let error = Header::decode(&bytes[..len]).unwrap_err();
        assert!(matches!(error, DecodeError::HeaderLen { len: found, expected: HEADER_LEN } if found == len));
    }
}

#[test]
fn a_header_of_undefined_numbers_is_refused_by_the_field_name() {
    assert_eq!(refusal(2, 0), "kind is 0, which is not defined");
    assert_eq!(refusal(2, 14), "kind is 14, which is not defined");
    assert_eq!(refusal(4, 4), "class is 4, which is not defined");
    assert_eq!(refusal(5, 7), "sender is 7, which is not defined");
    assert_eq!(refusal(6, 255), "target is 255, which is not defined");
}

#[test]
fn versions_must_overlap() {
    assert_eq!(
        refusal(0, 2),
        "peer speaks protocol versions 2 to 1, this process speaks 1"
    );
    assert_eq!(
        refusal(1, 0),
        "peer speaks protocol versions 1 to 0, this process speaks 1"
    );
    let mut newer = samples::header(Kind::Request).encode();
    newer[1] = 9;
    assert_eq!(Header::decode(&newer).unwrap(), samples::header(Kind::Request));
}

#[test]
fn reserved_bytes_of_the_header_are_ignored_so_that_they_can_be_used_later() {
    let mut bytes = samples::header(Kind::Request).encode();
    (bytes[7], bytes[10], bytes[11]) = (1, 2, 3);
    assert_eq!(Header::decode(&bytes).unwrap(), samples::header(Kind::Request));
}

#[test]
fn a_message_of_no_or_of_four_frames_is_refused() {
    let header = Bytes::copy_from_slice(&samples::header(Kind::Reply).encode());
    let error = Message::from_frames(Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "a message has 1 to 3 frames, received 0");
    let error = Message::from_frames(vec![header; 4]).unwrap_err();
    assert_eq!(error.to_string(), "a message has 1 to 3 frames, received 4");
}

#[test]
fn every_truncated_body_is_refused() {
    for sample in samples::all() {
        for len in 0..sample.bytes.len() {
            assert!(
                (sample.recode)(&sample.bytes[..len]).is_err(),
                "{} cut to {len} bytes",
                sample.name
            );
        }
    }
}

#[test]
fn a_body_with_any_byte_replaced_never_panics() {
    for sample in samples::all() {
        for offset in 0..sample.bytes.len() {
            for value in 0..=u8::MAX {
                let mut bytes = sample.bytes.clone();
                bytes[offset] = value;
                let _ = (sample.recode)(&bytes);
            }
        }
    }
}

#[test]
fn an_announced_length_beyond_the_bytes_is_refused_without_reserving_it() {
    let array_of_4_gi = [0xdd, 0xff, 0xff, 0xff, 0xff];
    let text_of_4_gi = [0x91, 0xdb, 0xff, 0xff, 0xff, 0xff];
    let bytes_of_4_gi = [0x91, 0xc6, 0xff, 0xff, 0xff, 0xff];
    let list_of_4_gi = [0x91, 0xdd, 0xff, 0xff, 0xff, 0xff];
    assert!(decode::<dbriver::Results>(&array_of_4_gi).is_err());
    assert!(decode::<resadmin::DescribeProject>(&text_of_4_gi).is_err());
    assert!(decode::<resadmin::Authenticate>(&bytes_of_4_gi).is_err());
    assert!(decode::<dbriver::Results>(&list_of_4_gi).is_err());
    assert!(decode::<dbriver::Grants>(&list_of_4_gi).is_err());
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let nested = vec![0x91; 60 * 1024];
    for sample in samples::all() {
        assert!((sample.recode)(&nested).is_err(), "{}", sample.name);
    }
    assert!(decode::<dbriver::Value>(&nested).is_err());
}

#[test]
fn a_database_value_is_a_scalar_of_at_most_63_bits() {
    assert_eq!(
        decode::<dbriver::Value>(&[0xca, 0x3f, 0, 0, 0]).unwrap(),
        dbriver::Value::Real(0.5)
    );
    assert!(
        decode::<dbriver::Value>(&[0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0]).is_err(),
        "2^63"
    );
    assert!(decode::<dbriver::Value>(&[0xc3]).is_err(), "a boolean");
    assert!(decode::<dbriver::Value>(&[0x90]).is_err(), "an array");
    assert!(decode::<dbriver::Value>(&[0x80]).is_err(), "a map");
}

#[test]
fn text_that_is_not_utf_8_reads_as_the_bytes_that_it_is() {
    let read = decode::<dbriver::Value>(&[0xa1, 0xff]).unwrap();
    assert_eq!(read, dbriver::Value::Blob(vec![0xff]));
}

#[test]
fn unknown_variants_are_refused() {
    assert!(decode::<doer::Language>(b"\xa3ada").is_err());
    assert!(decode::<worker::Control>(b"\xa5Eject").is_err());
    assert!(decode::<supervisor::ToRole>(b"\xa7Restart").is_err());
}

/// Evolution: a peer that is older sends fewer elements. Without a serde default the field is missing.
#[test]
fn a_body_with_fewer_elements_than_fields_is_refused() {
    assert!(decode::<kernel::Demand>(&[0x91, 9]).is_err());
    assert!(decode::<kernel::Slots>(&[0x90]).is_err());
}

/// Evolution: a peer that is newer sends more elements. They are refused, not ignored: a field may be
/// sent only to a peer whose version has it, which is what the header's version range is for.
#[test]
fn a_body_with_more_elements_than_fields_is_refused() {
    assert_eq!(
        decode::<kernel::Demand>(&[0x92, 9, 7]).unwrap(),
        kernel::Demand {
            queued: 9,
            oldest_us: 7
        }
    );
    assert!(decode::<kernel::Demand>(&[0x93, 9, 7, 1]).is_err());
    assert!(decode::<kernel::Slots>(&[0x92, 1, 2]).is_err());
}

/// Evolution: a field appended with a serde default reads an older peer's body.
#[test]
fn an_appended_field_with_a_default_reads_an_older_body() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct DemandOfTomorrow {
        queued: u32,
        oldest_us: u64,
        #[serde(default)]
        appended: u32,
    }
    let read = decode::<DemandOfTomorrow>(&[0x92, 9, 7]).unwrap();
    assert_eq!(
        read,
        DemandOfTomorrow {
            queued: 9,
            oldest_us: 7,
            appended: 0
        }
    );
}

#[test]
fn a_build_of_an_older_sender_has_no_folder() {
    let read = decode::<doer::Build>(b"\x92\xa4echo\xa3cpp").unwrap();
    assert_eq!((read.doee.as_str(), read.folder.as_str()), ("echo", ""));
}

#[test]
fn a_body_may_also_be_a_map_by_field_name() {
    let map = b"\x81\xa8capacity\x05";
    assert_eq!(decode::<kernel::Slots>(map).unwrap(), kernel::Slots::all(5));
}

#[test]
fn bytes_after_a_body_are_ignored() {
    assert_eq!(
        decode::<kernel::Slots>(&[0x91, 5, 0xc1, 0xff]).unwrap(),
        kernel::Slots::all(5)
    );
}

#[test]
fn a_secret_never_shows() {
    let debug = format!("{:?}", isms_protocol::Secret([0x5e; 32]));
    assert_eq!(debug, "Secret(..)");
}

proptest! {
    #[test]
    fn any_bytes_as_header_decode_or_are_refused(bytes in vec(any::<u8>(), HEADER_LEN)) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn any_bytes_as_body_decode_or_are_refused(bytes in vec(any::<u8>(), 0..256)) {
        for sample in samples::all() {
            if let Ok(recoded) = (sample.recode)(&bytes) {
                prop_assert_eq!((sample.recode)(&recoded).unwrap(), recoded);
            }
        }
    }
}
