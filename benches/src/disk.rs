//! Yardstick: sync of one page overwritten in a preallocated file.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path, time::Instant};

use anyhow::{Context, Result};

use crate::report_us;

const PAGE: usize = 4096;
const PAGES: u64 = 256;

pub(crate) fn measure(folder: &Path, count: usize) -> Result<()> {
    let path = folder.join("isms-bench-fdatasync");
    let outcome = sync_pages(&path, count);
    let _ = std::fs::remove_file(&path);
    report_us("fdatasync_p50", &mut outcome?);
    Ok(())
}

fn sync_pages(path: &Path, count: usize) -> Result<Vec<std::time::Duration>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    // Written once, so that an overwrite changes no metadata.
    file.write_all_at(&vec![1; PAGE * PAGES as usize], 0)?;
    file.sync_all()?;
    (0..count as u64)
        .map(|index| {
            let started = Instant::now();
            file.write_all_at(&[index as u8; PAGE], index % PAGES * PAGE as u64)?;
            file.sync_data()?;
            Ok(started.elapsed())
        })
        .collect()
}
