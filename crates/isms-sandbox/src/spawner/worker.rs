//! One sandbox of the spawner, from its start until nothing of it is left.

use std::{
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{codec::Event, environment::Backend, images::StagedImage, waiting::Asked};
use crate::{
    apptainer,
    linux::poll::Crowd,
    native::{Ends, Exit, Group, Ids, Limits, Progress, Sandbox},
};

/// From a sandbox's clone to its exec.
const NATIVE_START_TIMEOUT: Duration = Duration::from_secs(5);
/// From a container's clone to the first word of the executor in it; the runtime has much to do, and more on a busy
/// machine.
const CONTAINER_START_TIMEOUT: Duration = Duration::from_secs(20);

/// A sandbox and what belongs to it.
#[derive(Debug)]
pub(super) struct Worker {
    /// What the Doer asked for, and its number for it.
    asked: Asked,
    /// The Doer that asked for it.
    pub(super) generation: u64,
    pub(super) ids: Ids,
    started: Instant,
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
        asked: Asked,
        generation: u64,
        ids: Ids,
        sandbox: Sandbox,
        group: Option<Group>,
        image: Option<Rc<StagedImage>>,
    ) -> Self {
        Self {
            asked,
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

    /// When a start that is not done takes too long.
    pub(super) fn start_deadline(&self) -> Instant {
        self.started
            + match self.asked.environment.backend {
                Backend::Native => NATIVE_START_TIMEOUT,
                Backend::Apptainer => CONTAINER_START_TIMEOUT,
            }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// The number is taken until the Doer knows that the worker is gone.
    pub(super) fn is_known_as(&self, number: u64, generation: u64) -> bool {
        self.asked.number == number
            && self.generation == generation
            && matches!(self.state, State::Starting | State::Running)
    }

    pub(super) fn kill(&self) {
        // Fails only when it is gone already.
        let _ = self.sandbox.kill();
    }

    /// Sets new limits. A worker that cannot have them is killed.
    pub(super) fn limit(&self, limits: &Limits) {
        let of_group = self.asked.group_limits(limits);
        let limited = self.group.as_ref().map_or(Ok(()), |group| group.limit(&of_group));
        if limited.and_then(|()| self.sandbox.limit(limits)).is_err() {
            self.kill();
        }
    }

    /// Looks what has become of it. While it runs, its pidfd is in `running` under its pid, and a look is worth its
    /// price when that says so.
    pub(super) fn look(&mut self, running: &Crowd) -> Vec<News> {
        let was_running = self.is_running();
        let mut news = Vec::new();
        news.extend(self.progress());
        if self.is_starting() && Instant::now() >= self.start_deadline() {
            news.push(self.fail("the sandbox did not start in time".to_owned()));
        }
        // An error would mean that it is not our child; nothing could be done about that.
        news.extend(self.reap().ok().flatten());
        match (was_running, self.is_running()) {
            (false, true) => {
                let (pidfd, pid) = (self.sandbox.pidfd(), self.sandbox.pid());
                if let Err(error) = running.add(pidfd, pid.into()) {
                    // The Doer has not heard of it yet.
                    return vec![self.fail(format!("cannot watch over the worker: {error}"))];
                }
            }
            (true, false) => running.remove(self.sandbox.pidfd()),
            _ => {}
        }
        news
    }

    fn fail(&mut self, message: String) -> News {
        self.state = State::Failed;
        self.kill();
        News::Plain(Event::Failed {
            worker: self.asked.number,
            message,
        })
    }

    /// Looks how far its start has got.
    fn progress(&mut self) -> Option<News> {
        if self.state != State::Starting {
            return None;
        }
        match self.sandbox.progress() {
            Progress::Starting => None,
            Progress::Failed(error) => Some(self.fail(error.to_string())),
            Progress::Running => {
                if let Err(what) = self.verify() {
                    return Some(self.fail(format!("apptainer did not isolate the worker: {what}")));
                }
                self.state = State::Running;
                let ends = self.sandbox.take_ends()?;
                Some(News::Spawned(
                    Event::Spawned {
                        worker: self.asked.number,
                        pid: self.sandbox.pid(),
                    },
                    ends,
                ))
            }
        }
    }

    /// A container is looked at before anybody uses it; a native sandbox made its walls itself.
    fn verify(&self) -> Result<(), String> {
        match (self.asked.environment.backend, &self.group, self.ids) {
            (Backend::Native, ..) => Ok(()),
            (Backend::Apptainer, Some(group), Ids::Distinct(id)) => apptainer::verify(group, id),
            (Backend::Apptainer, ..) => Err("it has no uid or no cgroup of its own".to_owned()),
        }
    }

    /// Reaps it if it has exited.
    fn reap(&mut self) -> io::Result<Option<News>> {
        let Some(Exit { code, signal, .. }) = self.sandbox.try_reap()? else {
            return Ok(None);
        };
        let state = std::mem::replace(&mut self.state, State::Gone);
        let (worker, oom) = (
            self.asked.number,
            self.group.as_ref().is_some_and(Group::out_of_memory),
        );
        Ok(match state {
            State::Running => Some(News::Plain(Event::Exited {
                worker,
                code,
                signal,
                oom,
            })),
            State::Starting => {
                let words = self.sandbox.last_words(apptainer::LAST_WORDS_LEN_MAX);
                let message = apptainer::explain(&words, code, signal, oom);
                Some(News::Plain(Event::Failed { worker, message }))
            }
            State::Failed | State::Gone => None,
        })
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
