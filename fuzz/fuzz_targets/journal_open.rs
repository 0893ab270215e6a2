//! Any bytes as the segment files of a log. Opening may refuse them, and must not panic; what it replays is no
//! longer than the files, and a log that was opened takes a record and gives it back.
//!
//! Byte 0 chooses how many files there are, and whether the checksums of their headers are made right, or
//! nothing would get past the first. The rest is the beginning of each file, and of its first batch.

#![no_main]

use isms_journal::{Group, Options, Purpose, SimulatedDisk, fuzzing, open};
use libfuzzer_sys::fuzz_target;

const SEGMENT_LEN: usize = 40 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let options = Options {
        segment_len: SEGMENT_LEN as u32,
        segments_max: 8,
        group_len_max: 8000,
        queue_len_max: 24 << 10,
        ..Options::new(1)
    };
    let disk = SimulatedDisk::new(1);
    let count = usize::from(choice & 3) + 1;
    for (index, bytes) in data.chunks(data.len().div_ceil(count).max(1)).enumerate() {
        let mut file = vec![0; SEGMENT_LEN];
        let (header, batches) = bytes.split_at(bytes.len().min(64));
        file[..header.len()].copy_from_slice(header);
        let len = batches.len().min(SEGMENT_LEN - 4096);
        file[4096..4096 + len].copy_from_slice(&batches[..len]);
        if choice & 4 != 0 {
            fuzzing::seal(&mut file);
        }
        if choice & 8 != 0 {
            file.truncate(bytes.len());
        }
        disk.put(&format!("segment-{:08}", index + 1), &file);
    }
    let mut replayed = 0;
    let opened = open(disk.clone(), &options, |record| replayed += record.payload.len());
    assert!(replayed <= count * SEGMENT_LEN);
    let Ok((mut journal, mut writer, _)) = opened else {
        return;
    };
    let lsn = journal.append(Purpose::Completion, Group::of(9, b"after"));
    (0..4).for_each(|_| drop(writer.step(&mut |_| {})));
    drop((journal, writer));
    let mut last = None;
    open(disk, &options, |record| last = Some((record.lsn, record.payload.to_vec()))).unwrap();
    if let Ok(lsn) = lsn {
        assert_eq!(last, Some((lsn, b"after".to_vec())));
    }
});
