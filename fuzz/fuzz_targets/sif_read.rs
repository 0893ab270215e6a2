//! Reads any bytes as an image: nothing may panic, and a root that is found lies within the file and is read again
//! when it is wrapped anew.

#![no_main]

use isms_sandbox::sif::{Arch, GLOBAL_LEN, Header, wrap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let len = data.len() as u64;
    let Ok(header) = Header::parse(data, len) else {
        return;
    };
    let descriptors = header.descriptors_offset() as usize;
    let descriptors = &data[descriptors..descriptors + header.descriptors_len() as usize];
    let Ok(root) = header.root(descriptors) else {
        return;
    };
    let squashfs = &data[root.offset as usize..(root.offset + root.len) as usize];
    if root.check_squashfs(squashfs).is_err() {
        return;
    }
    let mut again = Vec::new();
    wrap(&mut &squashfs[..], root.len, Arch::HOST, &mut again).expect("a squashfs");
    let header = Header::parse(&again[..GLOBAL_LEN], again.len() as u64).expect("an image");
    let descriptors = header.descriptors_offset() as usize;
    let descriptors = &again[descriptors..descriptors + header.descriptors_len() as usize];
    assert_eq!(header.root(descriptors).expect("a root").len, root.len);
});
