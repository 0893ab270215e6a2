//! What waits for the writer, and how much space is left for more.
//!
//! One lock over both, held for a few instructions on either side: whether a group is admitted and that its
//! space is set aside is one decision. `free` is what the writer has found on its segments when it last
//! looked, rounded down; `reserved` is what was admitted since and is not durable yet, rounded up.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    AppendError, Group, Lsn, Options, Purpose, Stop, Usage,
    format::{SECTOR_LEN, batch_len},
    limits::{RESERVE_COMPACTION, RESERVE_NEW},
    planted::{Bug, planted},
};

/// What the writer is told, in the order of the owner's calls.
#[derive(Debug)]
enum Command {
    Append(Purpose, Group),
    Release(Lsn),
}

/// What the writer has found when it last looked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    /// Bytes that can be promised.
    pub(crate) free: u64,
    pub(crate) live_segments: u32,
    pub(crate) spare_segments: u32,
    /// Why there are no more segments than there are.
    pub(crate) growth: Growth,
    /// The last write found the disk full and waits to be tried again.
    pub(crate) is_blocked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Growth {
    /// The writer adds segments by itself.
    #[default]
    Possible,
    /// There are as many as there may be.
    AtMaximum,
    /// The disk had no room for another one.
    DiskFull,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    space: Space,
    reserved: u64,
    /// A refusal asks the writer to look for space again.
    poked: bool,
    /// A completion was refused.
    starved: bool,
    closed: bool,
    /// The writer waits: only then does a change cost a system call.
    waits: bool,
    stop: Option<Stop>,
}

/// Commands on their way from the owner to the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    options: Options,
    state: Mutex<State>,
    changed: Condvar,
}

/// How much of what the writer takes is rewritten.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rewritten {
    pub(crate) bytes: i64,
    pub(crate) records: i64,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) groups: Vec<Group>,
    pub(crate) rewritten: Rewritten,
    pub(crate) released: Option<Lsn>,
    /// The next group did not fit the room given, although nothing was taken before it.
    pub(crate) needs_segment: bool,
    /// Nothing is left.
    pub(crate) is_last: bool,
    /// And nothing will come.
    pub(crate) is_closed: bool,
}

/// What the writer is asked for by refusals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Look for space again.
    pub(crate) space: bool,
    /// Make room, since completions are refused.
    pub(crate) compaction: bool,
}

impl Queue {
    pub(crate) fn new(options: Options, space: Space) -> Queue {
        let state = State {
            space,
            ..State::default()
        };
        Queue {
            options,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// No code that holds the lock can panic between two changes that belong together.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self, purpose: Purpose, group: Group) -> Result<(), (Group, AppendError)> {
        let mut state = self.lock();
        if let Some(why) = self.refusal(&state, purpose, &group) {
            let wants_space = matches!(why, AppendError::DiskFull | AppendError::Full);
            if wants_space {
                state.poked = true;
                state.starved |= purpose == Purpose::Completion;
                self.wake(&state);
            }
            return Err((group, why));
        }
        state.reserved += group.cost();
        state.commands.push_back(Command::Append(purpose, group));
        self.wake(&state);
        Ok(())
    }

    fn wake(&self, state: &State) {
        if state.waits {
            self.changed.notify_one();
        }
    }

    fn refusal(&self, state: &State, purpose: Purpose, group: &Group) -> Option<AppendError> {
        if let Some(stop) = &state.stop {
            return Some(AppendError::Stopped(stop.clone()));
        }
        let (len, max) = (group.len(), self.options.group_len_max as usize);
        if group.is_empty() || len > max {
            return Some(AppendError::Len { len, max });
        }
        if state.space.is_blocked {
            return Some(AppendError::DiskFull);
        }
        let cost = group.cost();
        if state.reserved + cost > u64::from(self.options.queue_len_max) {
            return Some(AppendError::Busy);
        }
        let segment = self.options.usable_segment();
        let keep = match purpose {
            Purpose::New if planted(Bug::IgnoresReserve) => 0,
            Purpose::New => RESERVE_NEW * segment,
            Purpose::Completion => RESERVE_COMPACTION * segment,
            // A release that comes alone takes a sector.
            Purpose::Rewrite => u64::from(SECTOR_LEN),
        };
        if state.space.free >= keep + cost + state.reserved {
            return None;
        }
        Some(match state.space.growth {
            // What is reserved is more than what will be used.
            _ if state.space.free >= keep + cost => AppendError::Busy,
            Growth::Possible => AppendError::Busy,
            Growth::AtMaximum => AppendError::Full,
            Growth::DiskFull => AppendError::DiskFull,
        })
    }

    pub(crate) fn release(&self, below: Lsn) {
        let mut state = self.lock();
        // Two in a row are one: the queue stays bounded by its groups.
        match state.commands.back_mut() {
            Some(Command::Release(last)) => *last = below,
            _ => state.commands.push_back(Command::Release(below)),
        }
        self.wake(&state);
    }

    /// Takes as many groups as fit, at most `target` bytes unless the first alone is longer.
    pub(crate) fn take(&self, room: u64, target: usize) -> Taken {
        let mut state = self.lock();
        let mut taken = Taken::default();
        let mut len = 0;
        while let Some(command) = state.commands.pop_front() {
            match command {
                Command::Release(below) => taken.released = Some(below),
                Command::Append(purpose, group) => {
                    let longer = len + group.len();
                    let is_alone = taken.groups.is_empty();
                    let fits = batch_len(longer) <= room;
                    if !fits || (!is_alone && longer > target) {
                        taken.needs_segment = is_alone;
                        state.commands.push_front(Command::Append(purpose, group));
                        break;
                    }
                    len = longer;
                    if purpose == Purpose::Rewrite {
                        taken.rewritten.bytes += group.len() as i64;
                        taken.rewritten.records += i64::from(group.count());
                    }
                    taken.groups.push(group);
                }
            }
        }
        taken.is_last = state.commands.is_empty();
        taken.is_closed = state.closed && taken.is_last;
        taken
    }

    /// Tells what the writer has found, and how much of what was admitted is durable now.
    pub(crate) fn found(&self, space: Space, committed: u64) {
        let mut state = self.lock();
        state.space = space;
        state.reserved -= committed;
    }

    /// What refusals since the last call have asked for.
    pub(crate) fn wanted(&self) -> Wanted {
        let mut state = self.lock();
        Wanted {
            space: std::mem::take(&mut state.poked),
            compaction: std::mem::take(&mut state.starved),
        }
    }

    /// Waits until there is something to do; while blocked, until somebody wants space.
    pub(crate) fn wait(&self, is_blocked: bool) {
        let mut state = self.lock();
        state.waits = true;
        while !state.closed && !state.poked && (is_blocked || state.commands.is_empty()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waits = false;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the log; the first reason counts. What waits is dropped: it will never be acknowledged.
    pub(crate) fn stop(&self, stop: Stop) {
        let mut state = self.lock();
        state.stop.get_or_insert(stop);
        state.commands.clear();
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(&state);
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            live_segments: state.space.live_segments,
            spare_segments: state.space.spare_segments,
            free_len: state.space.free,
            queued_len: state.reserved,
        }
    }
}
