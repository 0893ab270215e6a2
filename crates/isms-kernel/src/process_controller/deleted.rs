//! What becomes of the calls of a project that is deleted.
//!
//! Nobody can ask about them any more: the routes are gone, and so are the tokens. So none may go on, and nothing is
//! kept of them. What else concerns the project goes on, its deletion above all.

use isms_protocol::{ErrorCode, Header, Kind, Message};

use super::{
    ProcessKey, is_invoke,
    record::{Process, State},
};
use crate::{
    core::Core,
    durability::{Awaited, Entry, Statement},
    planted::{Bug, planted},
    scheduler::Outcome,
};

impl Core {
    /// Stops all calls of a project's Doees, and forgets its results. Says so when that is durable.
    pub(crate) fn forget_project(&mut self, request: &Header) {
        let project = request.project;
        let of_project = |(key, process): (ProcessKey, &Process)| {
            (is_invoke(&process.header) && process.header.project == project).then_some(key)
        };
        let keys: Vec<ProcessKey> = self.table.iter().filter_map(of_project).collect();
        let mut unheard = Vec::new();
        for key in keys {
            if planted(Bug::SparesDeleted) {
                break;
            }
            let commits = |process: &&Process| matches!(process.state, State::Committing);
            if let Some(process) = self.table.get(key).filter(commits) {
                // Its record goes with it, and what is written of it already must not bring it back.
                unheard.push(process.header.process);
                self.leave(key, ErrorCode::NotFound);
            }
            self.stop(key, ErrorCode::NotFound);
            // What runs until its worker has stopped is not waited for: its record ends, and then nobody wants
            // its answer.
            if self.table.get(key).is_some_and(|process| process.kept) {
                self.end_record(key, ErrorCode::Cancelled, Outcome::Cancelled);
                self.detach(key);
            }
        }
        let gone = self.results.forget_project(project);
        if let Some(log) = &mut self.log {
            for process in gone.into_iter().chain(unheard) {
                if log.states(process) {
                    log.follow(&Entry::Gone(process), Statement::Last, Awaited::Nothing);
                }
            }
        }
        self.when_durable(request);
    }

    /// Answers a request, with nothing but that it was done, once everything is durable that was written.
    fn when_durable(&mut self, request: &Header) {
        let awaited = Awaited::Answer(Box::new(*request));
        let log = self.log.as_mut();
        if log.as_ref().is_some_and(|log| log.stopped().is_some()) {
            return self.not_durable(awaited);
        }
        if !log.is_some_and(|log| log.await_all(awaited)) {
            self.send_to(request.sender, Message::bare(request.answer(Kind::Reply)));
        }
    }
}
