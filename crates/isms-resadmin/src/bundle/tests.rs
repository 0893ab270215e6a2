//! Uploaded folders, honest and hostile.

use super::*;

/// A tar entry with a correct checksum.
fn entry(path: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; BLOCK_LEN];
    header[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut header);
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
    bytes
}

fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn archive(entries: &[Vec<u8>]) -> Bytes {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 2 * BLOCK_LEN, 0);
    bytes.into()
}

fn paths(entries: &[Vec<u8>]) -> Vec<String> {
    Bundle::read(&archive(entries))
        .expect("is an archive")
        .files
        .into_keys()
        .collect()
}

fn refused(entries: &[Vec<u8>]) -> BundleError {
    Bundle::read(&archive(entries)).expect_err("is refused")
}

#[test]
fn files_are_read_and_what_no_build_needs_is_left_out() {
    let entries = [
        entry(b"./", b'5', b""),
        entry(b"./project.toml", b'0', b"[project]"),
        entry(b"doees/", b'5', b""),
        entry(b"doees/a/main.cpp", 0, b"int x;"),
        entry(b"doees/a/sub/b.hpp", b'0', b""),
        entry(b"doees/ab/main.cpp", b'0', b"no"),
        entry(b".git/config", b'0', b"x"),
        entry(b"doees/a/.cache", b'0', b"x"),
        entry(b"data/big.csv", b'0', b"x"),
        entry(b"README.md", b'0', b"x"),
    ];
    let bundle = Bundle::read(&archive(&entries)).expect("is an archive");
    assert_eq!(
        bundle.file("project.toml").map(|content| &content[..]),
        Some(&b"[project]"[..])
    );
    let folder = bundle.folder("doees/a");
    let names: Vec<&str> = folder.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["main.cpp", "sub/b.hpp"]);
    assert_eq!(bundle.files.len(), 4);
}

#[test]
fn long_paths_come_by_pax_by_gnu_and_by_prefix() {
    let long = format!("{}/x.c", "d".repeat(150));
    let record = format!("164 path={long}\n");
    assert_eq!(record.len(), 164);
    let pax = [
        entry(b"PaxHeader", b'x', record.as_bytes()),
        entry(b"short", b'0', b""),
    ];
    assert_eq!(paths(&pax), std::slice::from_ref(&long));
    let gnu = [
        entry(b"././@LongLink", b'L', format!("{long}\0").as_bytes()),
        entry(b"short", b'0', b""),
    ];
    assert_eq!(paths(&gnu), [long]);
    let mut prefixed = entry(b"x.c", b'0', b"");
    prefixed[345..348].copy_from_slice(b"dir");
    seal(&mut prefixed[..BLOCK_LEN]);
    assert_eq!(paths(&[prefixed]), ["dir/x.c"]);
    assert_eq!(
        paths(&[
            entry(b"pax_global_header", b'g', b"11 comment=\n"),
            entry(b"a", b'0', b"")
        ]),
        ["a"]
    );
}

#[test]
fn paths_that_leave_the_folder_are_refused() {
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "..",
        "a//b",
        "a\\b",
        "a\nb",
    ] {
        let error = BundleError::Path { path: path.into() };
        assert_eq!(refused(&[entry(path.as_bytes(), b'0', b"")]), error, "{path}");
    }
    let pax = [entry(b"P", b'x', b"13 path=../x\n"), entry(b"fine", b'0', b"")];
    assert_eq!(refused(&pax), BundleError::Path { path: "../x".into() });
    assert!(matches!(
        refused(&[entry(b"\xff\xfe", b'0', b"")]),
        BundleError::Path { .. }
    ));
    let too_long = format!("{0}/{0}", "d".repeat(150));
    let gnu = [entry(b"L", b'L', too_long.as_bytes()), entry(b"short", b'0', b"")];
    assert!(matches!(refused(&gnu), BundleError::Path { .. }));
    assert!(matches!(
        refused(&[entry(b"./", b'0', b"x"), entry(b".", b'0', b"x")]),
        BundleError::Path { .. }
    ));
}

#[test]
fn links_devices_and_sparse_files_are_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'7', b'S', b'K', b'V', b'z'] {
        assert_eq!(
            refused(&[entry(b"a", kind, b"")]),
            BundleError::Kind { path: "a".into() },
            "{}",
            kind as char
        );
    }
}

#[test]
fn a_path_twice_or_below_a_file_is_refused() {
    let twice = [entry(b"a", b'0', b"1"), entry(b"./a", b'0', b"2")];
    assert_eq!(refused(&twice), BundleError::Twice { path: "a".into() });
    let below = [entry(b"a/b", b'0', b"1"), entry(b"a", b'0', b"2")];
    assert_eq!(refused(&below), BundleError::Twice { path: "a".into() });
}

#[test]
fn damaged_and_cut_archives_are_refused() {
    let mut wrong_sum = entry(b"a", b'0', b"");
    wrong_sum[0] = b'b';
    assert_eq!(refused(&[wrong_sum]), BundleError::Header { offset: 0 });
    let mut no_magic = entry(b"a", b'0', b"");
    no_magic[257] = 0;
    seal(&mut no_magic[..BLOCK_LEN]);
    assert_eq!(refused(&[no_magic]), BundleError::Header { offset: 0 });
    let mut huge = entry(b"a", b'0', b"");
    huge[124..136].copy_from_slice(b"777777777777");
    seal(&mut huge[..BLOCK_LEN]);
    assert_eq!(refused(&[huge]), BundleError::Truncated);
    let mut binary_len = entry(b"a", b'0', b"");
    binary_len[124] = 0x80;
    seal(&mut binary_len[..BLOCK_LEN]);
    assert_eq!(refused(&[binary_len]), BundleError::Header { offset: 0 });
    let whole = entry(b"a", b'0', b"content");
    for len in [1, 511, 513, 1023] {
        let cut = Bytes::copy_from_slice(&whole[..len]);
        assert_eq!(
            Bundle::read(&cut).expect_err("is cut"),
            BundleError::Truncated,
            "{len}"
        );
    }
    for records in [
        "path=x\n",
        "99 path=x\n",
        "3 x\n",
        "9 path=x",
        "2 \n",
        "9 size=1\n",
    ] {
        let error = refused(&[entry(b"P", b'x', records.as_bytes()), entry(b"a", b'0', b"")]);
        assert_eq!(error, BundleError::Header { offset: 0 }, "{records}");
    }
}

#[test]
fn too_many_entries_and_too_many_bytes_are_refused() {
    let many: Vec<_> = (0..=ARCHIVE_ENTRIES_MAX)
        .map(|index| entry(index.to_string().as_bytes(), b'5', b""))
        .collect();
    assert_eq!(refused(&many), BundleError::Entries);
    let long = Bytes::from(vec![0; ARCHIVE_LEN_MAX + 1]);
    assert_eq!(
        Bundle::read(&long).expect_err("is long"),
        BundleError::Len {
            len: ARCHIVE_LEN_MAX + 1
        }
    );
    let extensions: Vec<_> = (0..5).map(|_| entry(b"P", b'g', b"11 comment=\n")).collect();
    assert!(matches!(refused(&extensions), BundleError::Header { .. }));
}
