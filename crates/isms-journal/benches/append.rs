//! What a durable append costs, and how many there are at depth, beside a bare sync of a preallocated file.
//!
//! `cargo bench -p isms-journal --bench append [-- DIRECTORY]`; the directory decides which disk is
//! measured, the target directory by default. Rounds take turns, and figures are medians of five. "depth"
//! is how many groups of 256 bytes wait at once; a latency goes from the append to the event.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::mpsc::channel,
    time::Instant,
};

use isms_journal::{Directory, Event, Group, Options, Purpose, open};

const ROUNDS: usize = 5;
const PAYLOAD: [u8; 256] = [7; 256];

/// Appends a second and percentiles of their time in µs.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn main() {
    let chosen = std::env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'));
    let parent = chosen.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(parent).expect("a disk that works");
    let depths = [(1, 4_000), (64, 60_000), (1024, 400_000)];
    let mut names = vec!["bare fdatasync".to_owned()];
    names.extend(depths.map(|(depth, _)| format!("append, depth {depth}")));
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); names.len()];
    for _ in 0..ROUNDS {
        rounds[0].push(bare(directory.path(), 4_000));
        for (index, (depth, count)) in depths.into_iter().enumerate() {
            rounds[index + 1].push(appends(directory.path(), depth, count));
        }
    }
    for (name, figures) in names.iter().zip(&rounds) {
        let median = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{name:20} {:>9.0} /s  p50 {:>7.0} µs  p99 {:>7.0} µs",
            median(|it| it.rate),
            median(|it| it.p50),
            median(|it| it.p99)
        );
    }
}

fn figures(begun: Instant, mut times: Vec<f64>) -> Figures {
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Figures {
        rate,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}

/// Overwrites one sector after the other of a file that is written already, with a sync each.
fn bare(directory: &Path, count: u64) -> Figures {
    let path = directory.join("bare");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a disk that works");
    file.write_all_at(&vec![0; count as usize * 512], 0)
        .expect("a disk that works");
    file.sync_all().expect("a disk that works");
    let begun = Instant::now();
    let time = |index| {
        let begun = Instant::now();
        file.write_all_at(&[7; 512], index * 512)
            .expect("a disk that works");
        file.sync_data().expect("a disk that works");
        begun.elapsed().as_secs_f64() * 1e6
    };
    let times = (0..count).map(time).collect();
    let figures = figures(begun, times);
    std::fs::remove_file(path).expect("a disk that works");
    figures
}

/// Keeps so many groups waiting until all are durable.
fn appends(directory: &Path, depth: usize, count: usize) -> Figures {
    let directory = Directory::open(directory).expect("a disk that works");
    let (mut journal, writer, _) = open(directory, &Options::new(9), |_| {}).expect("a disk that works");
    let (sender, events) = channel();
    let thread = writer
        .spawn(move |event| sender.send(event).expect("the receiver outlives the thread"))
        .expect("a disk that works");
    let begun = Instant::now();
    let mut waiting = VecDeque::new();
    let mut times = Vec::with_capacity(count);
    let mut appended = 0;
    while times.len() < count {
        while waiting.len() < depth && appended < count {
            let at = Instant::now();
            let Ok(lsn) = journal.append(Purpose::New, Group::of(1, &PAYLOAD)) else {
                break;
            };
            waiting.push_back((lsn, at));
            appended += 1;
        }
        match events.recv().expect("a disk that works") {
            Event::Durable { below } => {
                while let Some((_, at)) = waiting.pop_front_if(|(lsn, _)| *lsn < below) {
                    times.push(at.elapsed().as_secs_f64() * 1e6);
                }
            }
            Event::Compact { below } => journal.release(below),
            Event::Stopped(stop) => panic!("{stop}"),
        }
    }
    let figures = figures(begun, times);
    let next = journal.next_lsn();
    journal.release(next);
    drop(journal);
    thread.join().expect("a disk that works");
    figures
}
