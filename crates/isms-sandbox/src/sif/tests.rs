//! Images that are right, wrong, cut off and random.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const ROOT_OFFSET: usize = 32768;
const DESCRIPTOR_AT: usize = 4096;

/// A squashfs by its header alone, of `len` bytes.
fn squashfs(len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len];
    bytes[..4].copy_from_slice(b"hsqs");
    bytes[40..48].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

fn image(arch: Arch) -> Vec<u8> {
    let squashfs = squashfs(10_000);
    let mut image = Vec::new();
    wrap(&mut &squashfs[..], squashfs.len() as u64, arch, &mut image).unwrap();
    image
}

fn read_bytes(bytes: &[u8]) -> Result<Partition, SifError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    read(&file)
}

fn refused(bytes: &[u8]) -> String {
    read_bytes(bytes).unwrap_err().to_string()
}

/// The image with some bytes at `at` replaced.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image(Arch::HOST);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn what_was_wrapped_is_found_again() {
    let expected = Partition {
        offset: ROOT_OFFSET as u64,
        len: 10_000,
        arch: Arch::HOST,
    };
    assert_eq!(read_bytes(&image(Arch::HOST)).unwrap(), expected);
    assert_eq!(&image(Arch::HOST)[ROOT_OFFSET..], &squashfs(10_000));
}

#[test]
fn equal_input_gives_equal_bytes() {
    assert_eq!(image(Arch::X86_64), image(Arch::X86_64));
    assert_ne!(image(Arch::X86_64), image(Arch::Aarch64));
}

#[test]
fn only_a_squashfs_of_the_announced_length_is_wrapped() {
    let squashfs = squashfs(10_000);
    let wrap = |bytes: &[u8], len| super::wrap(&mut &*bytes, len, Arch::HOST, &mut Vec::new());
    assert!(matches!(wrap(&squashfs, 9_999), Err(WriteError::Length)));
    assert!(matches!(wrap(&squashfs, 10_001), Err(WriteError::Length)));
    assert!(matches!(wrap(&squashfs, 1), Err(WriteError::NotSquashfs)));
    assert!(matches!(wrap(&squashfs[..50], 50), Err(WriteError::NotSquashfs)));
    assert!(matches!(wrap(&[1; 200], 200), Err(WriteError::NotSquashfs)));
}

#[test]
fn what_is_no_sif_is_refused() {
    assert!(refused(b"").contains("not a SIF"));
    assert!(refused(&squashfs(10_000)).contains("not a SIF"));
    assert!(refused(&with(32, b"SIF-MAGIC")).contains("not a SIF"));
    assert!(refused(&with(42, b"02\0")).contains("another version"));
    assert!(refused(&with(42, b"xx\0")).contains("another version"));
}

#[test]
fn an_image_of_another_architecture_is_refused_by_name() {
    let other = match Arch::HOST {
        Arch::X86_64 => Arch::Aarch64,
        _ => Arch::X86_64,
    };
    let message = refused(&image(other));
    assert_eq!(
        message,
        format!("the image is made for {other}, this machine is {}", Arch::HOST)
    );
    assert!(refused(&with(DESCRIPTOR_AT + 209, b"07\0")).contains("another architecture"));
}

#[test]
fn an_image_that_is_cut_off_is_refused_wherever_that_is() {
    let whole = image(Arch::HOST);
    for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let message = refused(&whole[..len]);
        let expected = if len < GLOBAL_LEN {
            "not a SIF"
        } else {
            "truncated"
        };
        assert!(message.contains(expected), "{len}: {message}");
    }
}

#[test]
fn encrypted_and_other_file_systems_and_missing_roots_are_refused() {
    let file_system = |number: i32| refused(&with(DESCRIPTOR_AT + 201, &number.to_le_bytes()));
    assert!(file_system(5).contains("encrypted"));
    assert!(file_system(2).contains("ext3"));
    assert!(file_system(4).contains("raw data"));
    assert!(file_system(-1).contains("unknown"));
    let kind = |number: i32| refused(&with(DESCRIPTOR_AT + 205, &number.to_le_bytes()));
    assert!(kind(3).contains("no primary system partition"));
    assert!(refused(&with(DESCRIPTOR_AT + 4, &[0])).contains("no primary system partition"));
    let second = image(Arch::HOST)[DESCRIPTOR_AT..DESCRIPTOR_AT + DESCRIPTOR_LEN].to_vec();
    assert!(refused(&with(DESCRIPTOR_AT + DESCRIPTOR_LEN, &second)).contains("more than one"));
}

#[test]
fn numbers_that_cannot_be_are_corrupt() {
    let corrupt = |at: usize, number: u64| {
        let message = refused(&with(at, &number.to_le_bytes()));
        assert!(
            message.contains("corrupt") || message.contains("truncated"),
            "{message}"
        );
    };
    let numbers = [0, 1, 127, 4097, 1 << 62, u64::MAX, i64::MAX as u64];
    numbers
        .into_iter()
        .filter(|n| *n != 1)
        .for_each(|number| corrupt(88, number)); // how many descriptors
    numbers
        .into_iter()
        .filter(|n| *n < 128 || *n > 4097)
        .for_each(|number| corrupt(96, number)); // where
    numbers
        .into_iter()
        .for_each(|number| corrupt(DESCRIPTOR_AT + 17, number)); // where the root is
    let lens = numbers.into_iter().filter(|n| *n != 127 && *n != 4097);
    lens.for_each(|number| corrupt(DESCRIPTOR_AT + 25, number)); // how long it is
    corrupt(ROOT_OFFSET + 40, 10_001); // how long the squashfs says it is
    corrupt(ROOT_OFFSET, 0);
}

proptest! {
    #[test]
    fn any_header_and_descriptors_give_an_answer_within_the_file(
        header in prop::collection::vec(any::<u8>(), 0..256),
        descriptors in prop::collection::vec(any::<u8>(), 0..4 * DESCRIPTOR_LEN),
        len in any::<u64>(),
    ) {
        if let Ok(header) = Header::parse(&header, len) {
            prop_assert!(header.descriptors_len() <= DESCRIPTORS_MAX * DESCRIPTOR_LEN as u64);
            if let Ok(root) = header.root(&descriptors) {
                prop_assert!(root.offset + root.len <= len);
            }
        }
    }

    #[test]
    fn damage_is_noticed_or_leaves_a_root_within_the_file(
        damage in prop::collection::vec((0_usize..DESCRIPTOR_AT + 2 * DESCRIPTOR_LEN, any::<u8>()), 1..16),
    ) {
        let mut bytes = image(Arch::HOST);
        damage.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        if let Ok(root) = read_bytes(&bytes) {
            prop_assert!(root.offset + root.len <= bytes.len() as u64);
            prop_assert_eq!(root.arch, Arch::HOST);
        }
    }
}
