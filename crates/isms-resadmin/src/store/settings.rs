//! What projects get where they share the platform.

use isms_protocol::{ProjectId, encode, kernel::ProjectSettings};
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, bytes, decoded};

impl Store {
    /// What a project gets; the defaults for one that is not there, or is being deleted.
    pub(crate) async fn settings(&self, project: ProjectId) -> Result<ProjectSettings, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = "SELECT settings FROM projects WHERE id = ? AND deleting = 0 AND settings IS NOT NULL";
        let row = sqlx::query(sql)
            .bind(project.to_bytes().to_vec())
            .fetch_optional(&mut *connection)
            .await?;
        row.map_or(Ok(ProjectSettings::default()), |row| {
            decoded(&row, 0, "settings of a project")
        })
    }

    /// Sets what a project gets; false when it is not there.
    pub(crate) async fn set_settings(
        &self,
        project: ProjectId,
        settings: &ProjectSettings,
    ) -> Result<bool, StoreError> {
        let mut connection = self.connection.lock().await;
        let done = sqlx::query("UPDATE projects SET settings = ? WHERE id = ? AND deleting = 0")
            .bind(encode(settings))
            .bind(project.to_bytes().to_vec())
            .execute(&mut *connection)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Projects of which the Kernel has to be told something about a Doee that serves: its rate, or its durability.
    pub(crate) async fn projects_with_doee_settings(&self) -> Result<Vec<ProjectId>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(
            "SELECT DISTINCT id FROM projects JOIN deployed_doees ON id = project AND current = revision
             WHERE (rate IS NOT NULL OR durability IS NOT NULL) AND deleting = 0",
        )
        .fetch_all(&mut *connection)
        .await?;
        let id = |row: &SqliteRow| bytes(row, 0, "project id").map(ProjectId::from_bytes);
        rows.iter().map(id).collect()
    }

    /// Projects that somebody has set something of, back to the defaults included.
    pub(crate) async fn projects_with_settings(&self) -> Result<Vec<ProjectId>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT id FROM projects WHERE settings IS NOT NULL")
            .fetch_all(&mut *connection)
            .await?;
        let id = |row: &SqliteRow| bytes(row, 0, "project id").map(ProjectId::from_bytes);
        rows.iter().map(id).collect()
    }
}
