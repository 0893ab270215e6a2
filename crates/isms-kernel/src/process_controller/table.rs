//! The process table: every process that has not ended, by key and by id.
//!
//! Invariant: a key names one process for ever; when its place is used again the generation differs,
//! so what arrives late finds nothing. A key is also the call id towards the callee.

use std::collections::HashMap;

use isms_protocol::ProcessId;

use super::record::Process;

/// Names a process within this Kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessKey {
    index: u32,
    generation: u32,
}

impl ProcessKey {
    /// Names no process.
    pub(crate) const NONE: ProcessKey = ProcessKey {
        index: u32::MAX,
        generation: u32::MAX,
    };

    /// The call id under which the process is dispatched.
    pub(crate) fn call(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The process that a callee means by a call id; whether it exists is for the table to say.
    pub(crate) fn from_call(call: u64) -> ProcessKey {
        ProcessKey {
            index: call as u32,
            generation: (call >> 32) as u32,
        }
    }
}

struct Place {
    generation: u32,
    process: Option<Box<Process>>,
}

/// All processes that have not ended.
#[derive(Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_id: HashMap<ProcessId, ProcessKey>,
}

impl Table {
    pub(crate) fn insert(&mut self, process: Process) -> ProcessKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                process: None,
            });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        let key = ProcessKey {
            index,
            generation: place.generation,
        };
        self.by_id.insert(process.header.process, key);
        place.process = Some(Box::new(process));
        key
    }

    pub(crate) fn remove(&mut self, key: ProcessKey) -> Option<Box<Process>> {
        let place = self
            .places
            .get_mut(key.index as usize)
            .filter(|place| place.generation == key.generation)?;
        let process = place.process.take()?;
        self.free.push(key.index);
        self.by_id.remove(&process.header.process);
        Some(process)
    }

    pub(crate) fn get(&self, key: ProcessKey) -> Option<&Process> {
        let place = self
            .places
            .get(key.index as usize)
            .filter(|place| place.generation == key.generation)?;
        place.process.as_deref()
    }

    pub(crate) fn get_mut(&mut self, key: ProcessKey) -> Option<&mut Process> {
        let place = self
            .places
            .get_mut(key.index as usize)
            .filter(|place| place.generation == key.generation)?;
        place.process.as_deref_mut()
    }

    pub(crate) fn by_id(&self, id: ProcessId) -> Option<ProcessKey> {
        self.by_id.get(&id).copied()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All processes, in a fixed order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProcessKey, &Process)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = ProcessKey {
                index: index as u32,
                generation: place.generation,
            };
            place.process.as_deref().map(|process| (key, process))
        })
    }
}
