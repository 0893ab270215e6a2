//! Golden bytes: `golden.txt` holds, a line each, the name and the encoding in hex of the header of
//! every kind and of every body.
//!
//! After a change that is meant, run the test once with `ISMS_BLESS=1` and review the difference.

use std::{env, fs, path::Path};

use isms_protocol::{HEADER_LEN, Header, Kind, Service};

use crate::samples;

#[test]
fn every_header_and_body_encodes_to_its_golden_bytes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden.txt");
    let actual = render();
    if env::var_os("ISMS_BLESS").is_some() {
        fs::write(&path, &actual).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    for (golden, actual) in golden.lines().zip(actual.lines()) {
        assert_eq!(golden, actual, "the wire format has changed");
    }
    assert_eq!(
        golden.lines().count(),
        actual.lines().count(),
        "samples and golden lines differ in number"
    );
}

#[test]
fn a_header_of_zeros_is_version_kind_class_and_parties_alone() {
    let mut expected = [0; HEADER_LEN];
    expected[..7].copy_from_slice(&[1, 1, 3, 0, 2, 4, 1]);
    assert_eq!(
        Header::new(Kind::Request, Service::Resadmin, Service::Doer).encode(),
        expected
    );
}

#[test]
fn every_field_of_the_header_lies_at_its_documented_offset() {
    let bytes = samples::header(Kind::Begun).encode();
    let at = |offset: usize, len: usize| &bytes[offset..offset + len];
    assert_eq!(
        at(0, 8),
        [1, 1, 13, 7, 3, 5, 1, 0],
        "versions, kind, flags, class, sender, target, zero"
    );
    assert_eq!(at(8, 4), [0x0b, 0x0a, 0, 0], "operation, zero");
    assert_eq!(at(12, 4), [0x0f, 0x0e, 0x0d, 0x0c], "attempt");
    assert_eq!(at(16, 4), [0x13, 0x12, 0x11, 0x10], "sender generation");
    assert_eq!(at(20, 4), [0x17, 0x16, 0x15, 0x14], "target generation");
    assert_eq!(
        at(24, 8),
        [0x1f, 0x1e, 0x1d, 0x1c, 0x1b, 0x1a, 0x19, 0x18],
        "call id"
    );
    assert_eq!(
        at(32, 8),
        [0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 0x20],
        "remaining"
    );
    assert_eq!(at(40, 16), [0x31; 16], "process");
    assert_eq!(at(56, 16), [0x32; 16], "parent");
    assert_eq!(at(72, 16), [0x33; 16], "project");
    assert_eq!(at(88, 16), [0x34; 16], "calling doee");
    assert_eq!(at(104, 16), [0x35; 16], "target doee");
    assert_eq!(at(120, 16), [0x36; 16], "principal");
    assert_eq!(at(136, 16), [0x37; 16], "trace");
    assert_eq!(at(152, 8), [0x38; 8], "span");
}

fn render() -> String {
    let headers = (1..=13).map(|number| {
        let kind = Kind::from_u8(number).unwrap();
        format!("header/{kind:?} {}\n", hex(&samples::header(kind).encode()))
    });
    let bodies = samples::all()
        .into_iter()
        .map(|sample| format!("{} {}\n", sample.name, hex(&sample.bytes)));
    headers.chain(bodies).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
