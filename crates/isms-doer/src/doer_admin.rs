//! The Doer Admin: holds every request that arrives at the Doer as a task, in one of three queues.
//!
//! *Waiting*: accepted, its worker is starting. *Ready*: assigned to a worker, not begun. *Running*:
//! begun. Invariants: a task is in exactly one queue until it is taken out; there are never more
//! tasks of a Doee version than slots published for it, so nothing here needs a bound of its own.

use std::collections::{HashMap, VecDeque};

use isms_protocol::DoeeVersion;

use crate::worker::WorkerId;

/// Number of a task within this Doer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskId(pub(crate) u64);

/// The queue that a task is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Waiting,
    Ready(WorkerId),
    Running(WorkerId),
}

#[derive(Debug)]
struct Task {
    version: DoeeVersion,
    queue: Queue,
}

/// How many tasks each queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueLengths {
    pub(crate) waiting: u32,
    pub(crate) ready: u32,
    pub(crate) running: u32,
}

/// All tasks of this Doer.
#[derive(Debug, Default)]
pub(crate) struct DoerAdmin {
    tasks: HashMap<TaskId, Task>,
    waiting: HashMap<DoeeVersion, VecDeque<TaskId>>,
}

impl DoerAdmin {
    /// Accepts a task; it waits.
    pub(crate) fn accept(&mut self, task: TaskId, version: DoeeVersion) {
        let previous = self.tasks.insert(
            task,
            Task {
                version,
                queue: Queue::Waiting,
            },
        );
        assert!(previous.is_none(), "task numbers are never used twice");
        self.waiting.entry(version).or_default().push_back(task);
    }

    /// Moves the longest waiting task of a version to a worker: it is ready.
    pub(crate) fn assign_next(&mut self, version: DoeeVersion, worker: WorkerId) -> Option<TaskId> {
        let queue = self.waiting.get_mut(&version)?;
        let task = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&version);
        }
        let record = self.tasks.get_mut(&task).expect("a waiting task is in the table");
        record.queue = Queue::Ready(worker);
        Some(task)
    }

    /// Notes that a ready task has begun; false when it was not ready.
    pub(crate) fn begin(&mut self, task: TaskId) -> bool {
        match self.tasks.get_mut(&task) {
            Some(record) => match record.queue {
                Queue::Ready(worker) => {
                    record.queue = Queue::Running(worker);
                    true
                }
                Queue::Waiting | Queue::Running(_) => false,
            },
            None => false,
        }
    }

    /// The queue that a task is in.
    pub(crate) fn queue_of(&self, task: TaskId) -> Option<Queue> {
        self.tasks.get(&task).map(|record| record.queue)
    }

    /// Takes a task out, wherever it is.
    pub(crate) fn remove(&mut self, task: TaskId) -> Option<Queue> {
        let record = self.tasks.remove(&task)?;
        if record.queue == Queue::Waiting
            && let Some(queue) = self.waiting.get_mut(&record.version)
        {
            queue.retain(|waiting| *waiting != task);
            if queue.is_empty() {
                self.waiting.remove(&record.version);
            }
        }
        Some(record.queue)
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

    /// How many tasks each queue holds.
    pub(crate) fn lengths(&self) -> QueueLengths {
        let mut lengths = QueueLengths::default();
        for task in self.tasks.values() {
            match task.queue {
                Queue::Waiting => lengths.waiting += 1,
                Queue::Ready(_) => lengths.ready += 1,
                Queue::Running(_) => lengths.running += 1,
            }
        }
        lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_move_through_the_three_queues_in_order_of_arrival() {
        let version = DoeeVersion::from_bytes([1; 16]);
        let mut admin = DoerAdmin::default();
        admin.accept(TaskId(1), version);
        admin.accept(TaskId(2), version);
        assert_eq!(admin.assign_next(version, WorkerId(7)), Some(TaskId(1)));
        assert_eq!(
            admin.lengths(),
            QueueLengths {
                waiting: 1,
                ready: 1,
                running: 0
            }
        );
        assert!(admin.begin(TaskId(1)));
        assert!(!admin.begin(TaskId(1)), "a task begins once");
        assert_eq!(admin.remove(TaskId(1)), Some(Queue::Running(WorkerId(7))));
        assert_eq!(admin.remove_waiting(version), [TaskId(2)]);
        assert!(admin.is_empty());
        assert_eq!(admin.assign_next(version, WorkerId(7)), None);
    }

    #[test]
    fn a_cancelled_task_leaves_the_waiting_queue() {
        let version = DoeeVersion::from_bytes([1; 16]);
        let mut admin = DoerAdmin::default();
        admin.accept(TaskId(1), version);
        assert!(!admin.begin(TaskId(1)), "a waiting task cannot begin");
        assert_eq!(admin.remove(TaskId(1)), Some(Queue::Waiting));
        assert_eq!(admin.waiting_len(version), 0);
        assert_eq!(admin.remove(TaskId(1)), None);
    }
}
