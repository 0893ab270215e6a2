//! The Doer Admin: holds every request that arrives at the Doer as a task, in one of three queues.
//!
//! *Waiting*: accepted, its worker is starting. *Ready*: sent to a worker, not begun. *Running*: begun. Which of
//! the sent ones have begun, the workers' status pages know: it changes without a message. Invariants: a task
//! is in exactly one queue until it is taken out; there are never more tasks of a Doee version than slots
//! published for it, so nothing here needs a bound of its own.

use std::collections::{HashMap, VecDeque};

use isms_protocol::{Class, DoeeVersion};

use crate::worker::WorkerId;

/// Workers that die under a task that they had not begun, after which it is taken for the cause.
const LOSSES_MAX: u32 = 3;

/// Number of a task within this Doer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskId(pub(crate) u64);

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Waiting,
    /// Ready or running.
    Sent(WorkerId),
}

#[derive(Debug)]
struct Task {
    version: DoeeVersion,
    class: Class,
    place: Place,
    /// Its request goes on as a stream, which cannot be taken back.
    streams: bool,
    /// Its caller no longer wants the answer.
    cancelled: bool,
    /// Workers that have died under it before it began.
    losses: u32,
}

/// All tasks of this Doer.
#[derive(Debug, Default)]
pub(crate) struct DoerAdmin {
    tasks: HashMap<TaskId, Task>,
    waiting: HashMap<DoeeVersion, VecDeque<TaskId>>,
}

impl DoerAdmin {
    /// Accepts a task; it waits behind those of its class and of higher ones.
    pub(crate) fn accept(&mut self, task: TaskId, version: DoeeVersion, class: Class, streams: bool) {
        let record = Task {
            version,
            class,
            place: Place::Waiting,
            streams,
            cancelled: false,
            losses: 0,
        };
        let previous = self.tasks.insert(task, record);
        assert!(previous.is_none(), "task numbers are never used twice");
        let tasks = &self.tasks;
        let queue = self.waiting.entry(version).or_default();
        let after = queue.iter().rev().take_while(|other| tasks[other].class > class);
        queue.insert(queue.len() - after.count(), task);
    }

    /// Moves the next waiting task of a version to a worker. `None` when there is none, or when it must wait
    /// for an idle worker and this one is not.
    pub(crate) fn send_next(&mut self, version: DoeeVersion, worker: WorkerId, idle: bool) -> Option<TaskId> {
        let queue = self.waiting.get_mut(&version)?;
        let task = *queue.front()?;
        let record = self.tasks.get_mut(&task).expect("a waiting task is in the table");
        if record.streams && !idle {
            return None;
        }
        queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&version);
        }
        record.place = Place::Sent(worker);
        Some(task)
    }

    /// Puts a task that its worker has not begun in front of those of its class that wait; false when it was not sent.
    pub(crate) fn requeue(&mut self, task: TaskId) -> bool {
        let Some(record) = self.tasks.get_mut(&task) else {
            return false;
        };
        if record.place == Place::Waiting {
            return false;
        }
        record.place = Place::Waiting;
        let (version, class) = (record.version, record.class);
        let tasks = &self.tasks;
        let queue = self.waiting.entry(version).or_default();
        let before = queue.iter().take_while(|other| tasks[other].class < class);
        queue.insert(before.count(), task);
        true
    }

    /// Notes that a task's caller no longer wants its answer.
    pub(crate) fn cancel(&mut self, task: TaskId) {
        if let Some(record) = self.tasks.get_mut(&task) {
            record.cancelled = true;
        }
    }

    pub(crate) fn is_cancelled(&self, task: TaskId) -> bool {
        self.tasks.get(&task).is_some_and(|record| record.cancelled)
    }

    /// A worker has died under a task that it had not begun. Fails when the task may not be sent again, with the words
    /// that follow on how the worker died.
    pub(crate) fn count_loss(&mut self, task: TaskId) -> Result<(), &'static str> {
        let Some(record) = self.tasks.get_mut(&task) else {
            return Err("after the call had ended");
        };
        record.losses += 1;
        if record.streams {
            return Err("before it began the call, whose stream cannot be sent again");
        }
        if record.losses >= LOSSES_MAX {
            return Err("before it began the call, as others did before it, so the call is not tried again");
        }
        Ok(())
    }

    /// Where a task is.
    pub(crate) fn place_of(&self, task: TaskId) -> Option<Place> {
        self.tasks.get(&task).map(|record| record.place)
    }

    /// Its class.
    pub(crate) fn class_of(&self, task: TaskId) -> Option<Class> {
        self.tasks.get(&task).map(|record| record.class)
    }

    /// The class of the task of a version that is the next to be sent.
    pub(crate) fn next_class(&self, version: DoeeVersion) -> Option<Class> {
        self.class_of(*self.waiting.get(&version)?.front()?)
    }

    /// Takes a task out, wherever it is.
    pub(crate) fn remove(&mut self, task: TaskId) -> Option<Place> {
        let record = self.tasks.remove(&task)?;
        if record.place == Place::Waiting
            && let Some(queue) = self.waiting.get_mut(&record.version)
        {
            queue.retain(|waiting| *waiting != task);
            if queue.is_empty() {
                self.waiting.remove(&record.version);
            }
        }
        Some(record.place)
    }

    /// Takes out all waiting tasks of a version, longest waiting first.
    pub(crate) fn remove_waiting(&mut self, version: DoeeVersion) -> Vec<TaskId> {
        let tasks: Vec<TaskId> = self.waiting.remove(&version).into_iter().flatten().collect();
        for task in &tasks {
            self.tasks.remove(task);
        }
        tasks
    }

    /// How many tasks of a version wait.
    pub(crate) fn waiting_len(&self, version: DoeeVersion) -> usize {
        self.waiting.get(&version).map_or(0, VecDeque::len)
    }

    /// True when no task is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How many tasks wait, and how many were sent to workers.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let waiting = self.waiting.values().map(VecDeque::len).sum();
        (waiting, self.tasks.len() - waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: DoeeVersion = DoeeVersion::from_bytes([1; 16]);
    const WORKER: WorkerId = WorkerId(7);

    fn waiting(tasks: &[u64]) -> DoerAdmin {
        let mut admin = DoerAdmin::default();
        for task in tasks {
            admin.accept(TaskId(*task), VERSION, Class::Normal, false);
        }
        admin
    }

    #[test]
    fn tasks_are_sent_in_order_of_arrival() {
        let mut admin = waiting(&[1, 2]);
        assert_eq!(admin.send_next(VERSION, WORKER, true), Some(TaskId(1)));
        assert_eq!(admin.lengths(), (1, 1));
        assert_eq!(admin.remove(TaskId(1)), Some(Place::Sent(WORKER)));
        assert_eq!(admin.remove_waiting(VERSION), [TaskId(2)]);
        assert!(admin.is_empty());
        assert_eq!(admin.send_next(VERSION, WORKER, true), None);
    }

    #[test]
    fn a_recalled_task_is_the_next_to_be_sent() {
        let mut admin = waiting(&[1, 2, 3]);
        admin.send_next(VERSION, WORKER, true);
        admin.send_next(VERSION, WORKER, false);
        assert!(admin.requeue(TaskId(2)) && admin.requeue(TaskId(1)));
        assert!(!admin.requeue(TaskId(1)) && !admin.requeue(TaskId(9)));
        let order: Vec<_> = std::iter::from_fn(|| admin.send_next(VERSION, WORKER, true)).collect();
        assert_eq!(order, [TaskId(1), TaskId(2), TaskId(3)]);
    }

    #[test]
    fn urgent_tasks_pass_others_and_a_recalled_one_is_the_first_of_its_class() {
        let mut admin = waiting(&[1, 2]);
        admin.accept(TaskId(3), VERSION, Class::High, false);
        admin.accept(TaskId(4), VERSION, Class::Batch, false);
        admin.accept(TaskId(5), VERSION, Class::High, false);
        assert_eq!(admin.next_class(VERSION), Some(Class::High));
        let sent = [(); 3].map(|()| admin.send_next(VERSION, WORKER, true));
        assert_eq!(sent, [3, 5, 1].map(|task| Some(TaskId(task))));
        assert!(admin.requeue(TaskId(1)) && admin.requeue(TaskId(5)));
        let order: Vec<_> = std::iter::from_fn(|| admin.send_next(VERSION, WORKER, true)).collect();
        assert_eq!(order, [5, 1, 2, 4].map(TaskId));
    }

    #[test]
    fn a_task_with_a_stream_goes_to_idle_workers_only_and_nothing_passes_it() {
        let mut admin = DoerAdmin::default();
        admin.accept(TaskId(1), VERSION, Class::Normal, true);
        admin.accept(TaskId(2), VERSION, Class::Normal, false);
        assert_eq!(admin.send_next(VERSION, WORKER, false), None);
        assert_eq!(admin.send_next(VERSION, WORKER, true), Some(TaskId(1)));
        assert_eq!(admin.send_next(VERSION, WORKER, false), Some(TaskId(2)));
    }

    #[test]
    fn a_removed_task_leaves_the_waiting_queue() {
        let mut admin = waiting(&[1]);
        assert_eq!(admin.remove(TaskId(1)), Some(Place::Waiting));
        assert_eq!(admin.waiting_len(VERSION), 0);
        assert_eq!(admin.remove(TaskId(1)), None);
    }
}
