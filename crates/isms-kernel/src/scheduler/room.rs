//! Room of a queue: how many of its calls may run, in all and of the lower classes, and how many do.
//!
//! Where a class has no room, no lower one has any: what runs of the lower one counts for both.

use isms_protocol::{Class, kernel::Slots};

use crate::planted::{Bug, planted};

/// Calls that may run, and that do.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// By class: calls of it and of lower ones.
    capacity: [u32; 4],
    /// By class.
    running: [u32; 4],
}

impl Room {
    /// Sets what may run: so many in all, of the lower classes no more than a part of these.
    pub(super) fn set(&mut self, slots: Slots) {
        let Slots {
            capacity,
            lower: [high, normal, batch],
        } = slots;
        self.capacity = [capacity, high, normal, batch];
    }

    /// Forgets both.
    pub(super) fn forget(&mut self) {
        *self = Room::default();
    }

    /// True when a call of a class may begin.
    pub(super) fn admits(&self, class: Class) -> bool {
        let over = u32::from(planted(Bug::OverCapacity) && self.capacity[0] > 0);
        let mut running: u32 = self.running[class as usize + 1..].iter().sum();
        let classes = self.running.iter().zip(&self.capacity);
        classes
            .take(class as usize + 1)
            .rev()
            .all(|(of_class, capacity)| {
                running += of_class;
                running < capacity.saturating_add(over)
            })
    }

    pub(super) fn begin(&mut self, class: Class) {
        self.running[class as usize] += 1;
    }

    pub(super) fn end(&mut self, class: Class) {
        let running = &mut self.running[class as usize];
        assert!(*running > 0, "only what runs is released");
        *running -= 1;
    }

    /// Calls that run.
    pub(super) fn running(&self) -> u32 {
        self.running.iter().sum()
    }

    /// True when nothing runs and nothing may.
    pub(super) fn is_shut(&self) -> bool {
        self.capacity[0] == 0 && self.running() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(room: &Room) -> [bool; 4] {
        Class::ALL.map(|class| room.admits(class))
    }

    #[test]
    fn lower_classes_leave_the_room_that_is_kept_for_higher_ones() {
        let mut room = Room::default();
        assert_eq!(admitted(&room), [false; 4]);
        let lower = [4, 4, 3];
        room.set(Slots { capacity: 5, lower });
        for _ in 0..3 {
            assert!(room.admits(Class::Batch));
            room.begin(Class::Batch);
        }
        assert_eq!(admitted(&room), [true, true, true, false]);
        room.begin(Class::Normal);
        assert_eq!(admitted(&room), [true, false, false, false]);
        room.begin(Class::Realtime);
        assert_eq!(admitted(&room), [false; 4]);
        room.end(Class::Batch);
        assert_eq!(admitted(&room), [true; 4]);
        room.begin(Class::Realtime);
        assert_eq!(admitted(&room), [false; 4]);
        room.end(Class::Batch);
        assert_eq!(admitted(&room), [true; 4]);
        assert_eq!(room.running(), 4);
    }

    #[test]
    fn what_runs_beyond_the_room_is_counted_down() {
        let mut room = Room::default();
        room.set(Slots::all(1));
        room.begin(Class::High);
        room.begin(Class::High);
        room.end(Class::High);
        assert!(!room.admits(Class::Realtime));
        room.end(Class::High);
        assert!(!room.is_shut() && room.admits(Class::Batch));
        room.set(Slots::all(0));
        assert!(room.is_shut());
    }
}
