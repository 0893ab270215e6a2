//! What becomes of the calls of a project that is deleted.
//!
//! Nobody can ask about them any more: the routes are gone, and so are the tokens. So none may go on, and nothing is
//! kept of them. What else concerns the project goes on, its deletion above all.

use isms_protocol::{ErrorCode, ProjectId};

use super::{ProcessKey, is_invoke, record::Process};
use crate::{
    core::Core,
    planted::{Bug, planted},
    scheduler::Outcome,
};

impl Core {
    /// Stops all calls of a project's Doees, and forgets its results.
    pub(crate) fn forget_project(&mut self, project: ProjectId) {
        let of_project = |(key, process): (ProcessKey, &Process)| {
            (is_invoke(&process.header) && process.header.project == project).then_some(key)
        };
        let keys: Vec<ProcessKey> = self.table.iter().filter_map(of_project).collect();
        for key in keys {
            if planted(Bug::SparesDeleted) {
                break;
            }
            self.stop(key, ErrorCode::NotFound);
            // What runs until its worker has stopped is not waited for: its record ends, and then nobody wants
            // its answer.
            if self.table.get(key).is_some_and(|process| process.kept) {
                self.end_record(key, ErrorCode::Cancelled, Outcome::Cancelled);
                self.detach(key);
            }
        }
        self.results.forget_project(project);
    }
}
