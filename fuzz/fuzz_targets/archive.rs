//! Any bytes as an uploaded archive. The checksum of each header is made right, or nothing would get past the first. No
//! file that is found may lie outside of the project's folder, and all of them together are no longer than the archive.

#![no_main]

use bytes::Bytes;
use isms_resadmin::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = fuzzing::binary(data);
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..].starts_with(b"us") {
            block[257..262].copy_from_slice(b"ustar");
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    let Some(files) = fuzzing::archive(&Bytes::from(archive)) else {
        return;
    };
    assert!(files.iter().map(|(_, len)| len).sum::<usize>() <= data.len());
    for (path, _) in files {
        assert!(!path.is_empty() && !path.starts_with('/') && !path.contains(['\0', '\n']));
        assert!(
            path.split('/').all(|name| !matches!(name, "" | "." | "..")),
            "{path:?}"
        );
    }
});
