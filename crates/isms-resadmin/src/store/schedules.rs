//! The schedules of what is deployed, and of each the run that comes next.

use isms_protocol::{Class, ContentHash, DoeeVersion, ProcessId, ProjectId, encode};
use serde::{Deserialize, Serialize};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, bytes, decoded, unsigned};
use crate::schedule::Times;

/// A schedule of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) times: Times,
    pub(crate) doee: String,
    pub(crate) call: ScheduledCall,
}

/// What its runs call, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScheduledCall {
    pub(crate) version: DoeeVersion,
    pub(crate) class: Class,
}

/// The next run of a schedule, as it was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) schedule: ContentHash,
    /// The deployment under which it was planned.
    pub(crate) revision: u64,
    pub(crate) planned_s: u64,
    pub(crate) call: ScheduledCall,
    /// The Kernel's process; `None` until it has acknowledged the run.
    pub(crate) process: Option<ProcessId>,
}

impl Store {
    /// Projects that serve and have schedules, or have runs that wait.
    pub(crate) async fn projects_with_schedules(&self) -> Result<Vec<ProjectId>, StoreError> {
        let sql = "SELECT id FROM projects JOIN deployments ON id = project AND current = revision
                   WHERE schedules IS NOT NULL AND deleting = 0
                   UNION SELECT project FROM schedule_runs";
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(sql).fetch_all(&mut *connection).await?;
        let id = |row: &SqliteRow| bytes(row, 0, "project id").map(ProjectId::from_bytes);
        rows.iter().map(id).collect()
    }

    /// The runs of a project that come next, of schedules that are gone too.
    pub(crate) async fn runs(&self, project: ProjectId) -> Result<Vec<Run>, StoreError> {
        let sql = "SELECT schedule, revision, planned_s, call, process FROM schedule_runs WHERE project = ?";
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(sql)
            .bind(project.to_bytes().to_vec())
            .fetch_all(&mut *connection)
            .await?;
        let run = |row: &SqliteRow| {
            Ok(Run {
                schedule: ContentHash(bytes(row, 0, "schedule")?),
                revision: unsigned(row, 1, "revision")?,
                planned_s: unsigned(row, 2, "planned time")?,
                call: decoded(row, 3, "scheduled call")?,
                process: match row.try_get::<Option<Vec<u8>>, _>(4)? {
                    Some(_) => Some(ProcessId::from_bytes(bytes(row, 4, "process")?)),
                    None => None,
                },
            })
        };
        rows.iter().map(run).collect()
    }

    /// Records the next run of a schedule in the place of the one before.
    pub(crate) async fn set_run(&self, project: ProjectId, run: &Run) -> Result<(), StoreError> {
        let sql =
            "INSERT OR REPLACE INTO schedule_runs (project, schedule, revision, planned_s, call, process)
                   SELECT id, ?, ?, ?, ?, ? FROM projects WHERE id = ? AND deleting = 0";
        let mut connection = self.connection.lock().await;
        sqlx::query(sql)
            .bind(run.schedule.0.to_vec())
            .bind(run.revision as i64)
            .bind(run.planned_s as i64)
            .bind(encode(&run.call))
            .bind(run.process.map(|process| process.to_bytes().to_vec()))
            .bind(project.to_bytes().to_vec())
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// Forgets the run of a schedule that is gone.
    pub(crate) async fn forget_run(
        &self,
        project: ProjectId,
        schedule: ContentHash,
    ) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        sqlx::query("DELETE FROM schedule_runs WHERE project = ? AND schedule = ?")
            .bind(project.to_bytes().to_vec())
            .bind(schedule.0.to_vec())
            .execute(&mut *connection)
            .await?;
        Ok(())
    }
}
