//! One sandbox of the spawner, from its start until nothing of it is left.

use std::{io, rc::Rc, time::Instant};

use super::{codec::Event, images::StagedImage};
use crate::native::{Ends, Exit, Group, Ids, Limits, Progress, Sandbox};

/// A sandbox and what belongs to it.
#[derive(Debug)]
pub(super) struct Worker {
    /// The Doer's number for it.
    pub(super) number: u64,
    /// The Doer that asked for it.
    pub(super) generation: u64,
    pub(super) ids: Ids,
    pub(super) started: Instant,
    pub(super) sandbox: Sandbox,
    group: Option<Group>,
    /// What it runs in; not removed as long as it does.
    _image: Option<Rc<StagedImage>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    /// Its start failed and the Doer knows; it is being reaped.
    Failed,
    /// Reaped; its group may still have to be removed.
    Gone,
}

/// What a worker has to tell its Doer.
#[derive(Debug)]
pub(super) enum News {
    Spawned(Event, Ends),
    Plain(Event),
}

impl Worker {
    pub(super) fn new(
        number: u64,
        generation: u64,
        ids: Ids,
        sandbox: Sandbox,
        group: Option<Group>,
        image: Option<Rc<StagedImage>>,
    ) -> Self {
        Self {
            number,
            generation,
            ids,
            started: Instant::now(),
            sandbox,
            group,
            _image: image,
            state: State::Starting,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        self.state == State::Starting
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// The number is taken until the Doer knows that the worker is gone.
    pub(super) fn is_known_as(&self, number: u64, generation: u64) -> bool {
        self.number == number
            && self.generation == generation
            && matches!(self.state, State::Starting | State::Running)
    }

    pub(super) fn kill(&self) {
        // Fails only when it is gone already.
        let _ = self.sandbox.kill();
    }

    /// Sets new limits. A worker that cannot have them is killed.
    pub(super) fn limit(&self, limits: &Limits) {
        let limited = self.group.as_ref().map_or(Ok(()), |group| group.limit(limits));
        if limited.and_then(|()| self.sandbox.limit(limits)).is_err() {
            self.kill();
        }
    }

    /// Gives up a start that takes too long.
    pub(super) fn time_out(&mut self) -> News {
        self.fail("the sandbox did not start in time".to_owned())
    }

    fn fail(&mut self, message: String) -> News {
        self.state = State::Failed;
        self.kill();
        News::Plain(Event::Failed {
            worker: self.number,
            message,
        })
    }

    /// Looks how far its start has got.
    pub(super) fn progress(&mut self) -> Option<News> {
        if self.state != State::Starting {
            return None;
        }
        match self.sandbox.progress() {
            Progress::Starting => None,
            Progress::Failed(error) => Some(self.fail(error.to_string())),
            Progress::Running => {
                self.state = State::Running;
                let ends = self.sandbox.take_ends()?;
                Some(News::Spawned(
                    Event::Spawned {
                        worker: self.number,
                        pid: self.sandbox.pid(),
                    },
                    ends,
                ))
            }
        }
    }

    /// Reaps it if it has exited.
    pub(super) fn reap(&mut self) -> io::Result<Option<News>> {
        let Some(Exit { code, signal }) = self.sandbox.try_reap()? else {
            return Ok(None);
        };
        let known = self.state == State::Running;
        self.state = State::Gone;
        let oom = self.group.as_ref().is_some_and(Group::out_of_memory);
        Ok(known.then_some(News::Plain(Event::Exited {
            worker: self.number,
            code,
            signal,
            oom,
        })))
    }

    /// Waits until it, killed before, is reaped.
    pub(super) fn reap_now(&mut self) -> io::Result<()> {
        if self.state == State::Gone {
            Ok(())
        } else {
            self.sandbox.reap()
        }
    }

    /// Removes its group; true once nothing is left.
    pub(super) fn clean(&mut self) -> bool {
        self.group.as_mut().is_none_or(Group::remove)
    }
}
