//! Requests whose payload is still coming as a stream: bounded for each project, since each takes one of the places
//! that all projects share, and memory, for as long as its sender likes to take.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isms_protocol::{ErrorCode, ProjectId, WireError};

/// Of one project: a quarter of the places that there are by default.
const UPLOADS_MAX: usize = 16;
/// Time for a whole payload, which an honest sender has at hand.
pub(crate) const UPLOAD_TIME_MAX: Duration = Duration::from_secs(5);

/// The uploads under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uploads {
    counts: Arc<Mutex<HashMap<ProjectId, usize>>>,
}

/// One of them; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    uploads: Uploads,
    project: ProjectId,
}

impl Uploads {
    /// Begins one more; `Busy` when the project has as many as it may.
    pub(crate) fn begin(&self, project: ProjectId) -> Result<Upload, WireError> {
        let mut counts = self.lock();
        let count = counts.entry(project).or_default();
        if *count >= UPLOADS_MAX {
            let message = format!(
                "{UPLOADS_MAX} large transactions of this project are being sent already; try again when one has arrived"
            );
            return Err(WireError::new(ErrorCode::Busy, message));
        }
        *count += 1;
        Ok(Upload {
            uploads: self.clone(),
            project,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut counts = self.uploads.lock();
        if let Some(count) = counts.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_so_many_uploads_and_the_others_theirs() {
        let uploads = Uploads::default();
        let [greedy, other] = [1, 2].map(|byte| ProjectId::from_bytes([byte; 16]));
        let mut held: Vec<_> = (0..UPLOADS_MAX).map(|_| uploads.begin(greedy).unwrap()).collect();
        assert_eq!(uploads.begin(greedy).unwrap_err().code, ErrorCode::Busy);
        assert!(uploads.begin(other).is_ok());
        held.pop();
        held.push(uploads.begin(greedy).unwrap());
        assert!(uploads.begin(greedy).is_err());
        drop(held);
        assert!(
            uploads.lock().is_empty(),
            "nothing is left of uploads that have ended"
        );
    }
}
