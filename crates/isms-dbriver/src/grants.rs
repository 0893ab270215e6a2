//! What Doee versions may use, as Resadmin says; asked once per version, which never changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LruCache;
use isms_protocol::{DoeeVersion, ErrorCode, ProjectId, WireError, dbriver::Grants};
use tokio::sync::{mpsc, oneshot};

use crate::config::GRANTS_CACHED_MAX;

/// Asks Resadmin for the grants of a version, which must belong to the project.
#[derive(Debug)]
pub struct GrantsRequest {
    /// The project that the version must belong to.
    pub project: ProjectId,
    /// The version.
    pub version: DoeeVersion,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Grants, WireError>>,
}

/// Remembers the grants of the versions used last.
pub(crate) struct GrantsCache {
    requests: mpsc::Sender<GrantsRequest>,
    known: Mutex<Known>,
}

type Known = LruCache<(ProjectId, DoeeVersion), Arc<Grants>>;

impl GrantsCache {
    pub(crate) fn new(requests: mpsc::Sender<GrantsRequest>) -> GrantsCache {
        GrantsCache {
            requests,
            known: Mutex::new(LruCache::new(GRANTS_CACHED_MAX)),
        }
    }

    /// Fails with `Forbidden` unless the version belongs to the project and was granted the database.
    pub(crate) async fn check(
        &self,
        project: ProjectId,
        version: DoeeVersion,
        database: &str,
    ) -> Result<(), WireError> {
        if version.is_none() || project.is_none() {
            return Err(WireError::new(
                ErrorCode::Forbidden,
                "only a Doee of a project may use a database",
            ));
        }
        let grants = self.grants(project, version).await?;
        if grants.databases.iter().any(|granted| granted == database) {
            return Ok(());
        }
        let message = format!("the function was not granted the database {database}; add it to allow.sql");
        Err(WireError::new(ErrorCode::Forbidden, message))
    }

    /// Forgets what is known of a project's versions.
    pub(crate) fn forget(&self, project: ProjectId) {
        self.known().retain(|key, _| key.0 != project);
    }

    async fn grants(&self, project: ProjectId, version: DoeeVersion) -> Result<Arc<Grants>, WireError> {
        if let Some(grants) = self.known().get(&(project, version)) {
            return Ok(Arc::clone(grants));
        }
        let unavailable = || {
            WireError::new(
                ErrorCode::Unavailable,
                "the function's grants cannot be asked for now",
            )
        };
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(GrantsRequest {
                project,
                version,
                answer,
            })
            .await
            .map_err(|_| unavailable())?;
        let grants = match answered.await.map_err(|_| unavailable())? {
            Ok(grants) => Arc::new(grants),
            Err(error) if error.code == ErrorCode::NotFound => {
                return Err(WireError::new(
                    ErrorCode::Forbidden,
                    "the function is not part of the project",
                ));
            }
            Err(error) => return Err(error),
        };
        self.known().insert((project, version), grants.clone());
        Ok(grants)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
