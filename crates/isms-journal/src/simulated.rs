//! A disk in memory that does what a disk may do when power is lost, a sync fails or space runs out.
//! Deterministic: the same seed and the same calls give the same bytes.
//!
//! Each file has two contents: what is on the platter, and what readers see. A write changes what is seen
//! and waits; a sync carries what waits to the platter. A loss of power carries some of the sectors
//! that wait, in any order, and forgets the rest; the same goes for names of files and for lengths. Not
//! simulated: sectors that are written in part.

mod sectors;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isms_simulation::Random;

use crate::Storage;
use sectors::Content;

/// A simulated disk with one directory. Clones are the same disk; a [`fork`](SimulatedDisk::fork) is
/// another one.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// An open file of a simulated disk.
#[derive(Debug)]
pub struct SimulatedFile(usize);

#[derive(Clone, Debug)]
struct State {
    random: Random,
    files: Vec<Content>,
    /// Names as readers see them, and as they are on the platter.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    capacity: u64,
    writable: Option<u64>,
    fails_syncs: u32,
    /// Calls that are served before the power is lost.
    calls_left: Option<u64>,
}

impl SimulatedDisk {
    /// Makes an empty disk.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            capacity: u64::MAX,
            writable: None,
            fails_syncs: 0,
            calls_left: None,
        })))
    }

    /// A copy that lives on by itself.
    pub fn fork(&self) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Puts a file on the disk, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.files.len();
        state.files.push(Content::of(bytes));
        state.names.insert(name.into(), id);
        state.durable_names.insert(name.into(), id);
    }

    /// What readers see of a file.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.names.get(name)?;
        Some(state.files[*id].seen().to_vec())
    }

    /// Names and lengths of all files.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let len = |id: &usize| state.files[*id].seen().len() as u64;
        state
            .names
            .iter()
            .map(|(name, id)| (name.clone(), len(id)))
            .collect()
    }

    /// Loses power: of what was not synced any part may be lost. The disk serves again afterwards.
    pub fn crash(&self) {
        let state = &mut *self.state();
        state.calls_left = None;
        let (before, after) = (state.durable_names.clone(), std::mem::take(&mut state.names));
        // Each name that came or went by itself.
        let all = before.keys().chain(after.keys());
        let mut names = BTreeMap::new();
        for name in all {
            let (old, new) = (before.get(name), after.get(name));
            let is_kept = old == new || state.random.percent(50);
            if let Some(id) = if is_kept { new } else { old } {
                names.insert(name.clone(), *id);
            }
        }
        // One run loses everything, one keeps everything, most lose some.
        let chance = match state.random.below(4) {
            0 => 0,
            1 => 100,
            _ => 50,
        };
        let named: BTreeSet<usize> = names.values().copied().collect();
        for (id, file) in state.files.iter_mut().enumerate() {
            if named.contains(&id) {
                file.crash(&mut state.random, chance);
            } else {
                *file = Content::of(&[]);
            }
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Loses power at a later call: so many are served first, all others fail until [`crash`](Self::crash).
    pub fn power_off_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    /// Lets this many of the next syncs of files fail. As on Linux what they were to write counts as written:
    /// it is seen until [`forget_clean`](Self::forget_clean) or a crash, and a later sync does not write it.
    pub fn fail_syncs(&self, count: u32) {
        self.state().fails_syncs = count;
    }

    /// Drops from memory what counts as written: readers see what is on the platter.
    pub fn forget_clean(&self) {
        self.state().files.iter_mut().for_each(Content::forget_clean);
    }

    /// Bytes that all files together can have reserved. What is reserved already stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Lets writes find the disk full after so many bytes, in spite of what was reserved, as on a file system that
    /// copies on write; `None` ends that.
    pub fn refuse_writes_after(&self, bytes: Option<u64>) {
        self.state().writable = bytes;
    }

    /// Inverts a bit of a file, on the platter and in memory.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let id = state.names[name];
        state.files[id].flip(offset as usize, bit);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for one call, unless power is off.
    fn serve(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.calls_left {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
    }
}

impl Storage for SimulatedDisk {
    type File = SimulatedFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.serve()?.names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> io::Result<SimulatedFile> {
        let mut state = self.serve()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.files.len();
        state.files.push(Content::of(&[]));
        state.names.insert(name.into(), id);
        Ok(SimulatedFile(id))
    }

    fn open(&mut self, name: &str) -> io::Result<SimulatedFile> {
        let state = self.serve()?;
        let id = state.names.get(name).copied();
        id.map(SimulatedFile).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let removed = self.serve()?.names.remove(name);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut state = self.serve()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn len(&mut self, file: &SimulatedFile) -> io::Result<u64> {
        Ok(self.serve()?.files[file.0].seen().len() as u64)
    }

    fn preallocate(&mut self, file: &SimulatedFile, len: u64) -> io::Result<()> {
        let mut state = self.serve()?;
        let used: usize = state.names.values().map(|id| state.files[*id].seen().len()).sum();
        let more = len.saturating_sub(state.files[file.0].seen().len() as u64);
        if more > state.capacity.saturating_sub(used as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[file.0].extend(len as usize);
        Ok(())
    }

    fn read_at(&mut self, file: &SimulatedFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.serve()?;
        let seen = state.files[file.0].seen();
        let from = seen.get(offset as usize..).unwrap_or_default();
        let bytes = from.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, file: &SimulatedFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.serve()?;
        let len = match &mut state.writable {
            Some(left) => {
                let len = bytes.len().min(*left as usize);
                *left -= len as u64;
                len
            }
            None => bytes.len(),
        };
        state.files[file.0].write(offset as usize, &bytes[..len]);
        if len < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync_data(&mut self, file: &SimulatedFile) -> io::Result<()> {
        let state = &mut *self.serve()?;
        if state.fails_syncs > 0 {
            state.fails_syncs -= 1;
            state.files[file.0].fail_sync(&mut state.random);
            return Err(io::Error::other("input/output error"));
        }
        state.files[file.0].sync();
        Ok(())
    }
}
