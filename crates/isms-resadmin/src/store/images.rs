//! Images, which projects have uploaded them, and uploads that have not ended.

use std::collections::HashSet;

use isms_protocol::{ContentHash, ProjectId};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteRow};

use super::{Store, StoreError, bytes, unsigned};

impl Store {
    /// The images that are recorded.
    pub(crate) async fn images(&self) -> Result<HashSet<ContentHash>, StoreError> {
        self.hashes("SELECT hash FROM images").await
    }

    /// The uploads that have begun and not ended.
    pub(crate) async fn uploads(&self) -> Result<HashSet<(ProjectId, ContentHash)>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT project, hash FROM uploads")
            .fetch_all(&mut *connection)
            .await?;
        rows.iter().map(upload).collect()
    }

    /// The length of an image, if the project has uploaded it.
    pub(crate) async fn project_image(
        &self,
        project: ProjectId,
        image: ContentHash,
    ) -> Result<Option<u64>, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = "SELECT len FROM project_images JOIN images USING (hash) WHERE project = ? AND hash = ?";
        let row = sqlx::query(sql)
            .bind(project.to_bytes().to_vec())
            .bind(image.0.to_vec())
            .fetch_optional(&mut *connection)
            .await?;
        row.map(|row| unsigned(&row, 0, "length")).transpose()
    }

    /// Keeps an image of a project at least until a time; false when the project has none such.
    pub(crate) async fn keep_image(
        &self,
        project: ProjectId,
        image: ContentHash,
        until_s: u64,
    ) -> Result<bool, StoreError> {
        let mut connection = self.connection.lock().await;
        let kept = sqlx::query(
            "UPDATE project_images SET kept_until_s = max(kept_until_s, ?) WHERE project = ? AND hash = ?",
        )
        .bind(until_s as i64)
        .bind(project.to_bytes().to_vec())
        .bind(image.0.to_vec())
        .execute(&mut *connection)
        .await?;
        Ok(kept.rows_affected() > 0)
    }

    /// Records that an upload has begun or goes on, within a number for the project and one for all.
    pub(crate) async fn begin_image_upload(
        &self,
        (project, image): (ProjectId, ContentHash),
        now_s: u64,
        (of_project_max, count_max): (usize, usize),
    ) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin().await?;
        sqlx::query("INSERT OR REPLACE INTO uploads (project, hash, touched_at_s) VALUES (?, ?, ?)")
            .bind(project.to_bytes().to_vec())
            .bind(image.0.to_vec())
            .bind(now_s as i64)
            .execute(&mut *transaction)
            .await?;
        let row = sqlx::query("SELECT count(*) FILTER (WHERE project = ?), count(*) FROM uploads")
            .bind(project.to_bytes().to_vec())
            .fetch_one(&mut *transaction)
            .await?;
        for (column, count_max) in [(0, of_project_max), (1, count_max)] {
            if unsigned(&row, column, "count")? > count_max as u64 {
                let what = "there are too many uploads of images that have not ended; go on with those";
                return Err(StoreError::TooMany { what, count_max });
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Forgets an upload.
    pub(crate) async fn end_upload(&self, project: ProjectId, image: ContentHash) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        delete_upload(&mut connection, project, image).await
    }

    /// Records an image that is on disk as one of a project.
    pub(crate) async fn add_image(
        &self,
        project: ProjectId,
        image: ContentHash,
        len: u64,
        kept_until_s: u64,
    ) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin().await?;
        sqlx::query("INSERT OR IGNORE INTO images (hash, len) VALUES (?, ?)")
            .bind(image.0.to_vec())
            .bind(len as i64)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO project_images (project, hash, kept_until_s) VALUES (?, ?, ?)")
            .bind(project.to_bytes().to_vec())
            .bind(image.0.to_vec())
            .bind(kept_until_s as i64)
            .execute(&mut *transaction)
            .await?;
        delete_upload(&mut transaction, project, image).await?;
        Ok(transaction.commit().await?)
    }

    /// Forgets what projects have uploaded, do not use and need not keep any more; the images that no project has
    /// are returned, and forgotten too.
    pub(crate) async fn forget_images(&self, now_s: u64) -> Result<Vec<ContentHash>, StoreError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin().await?;
        sqlx::query(
            "DELETE FROM project_images WHERE kept_until_s < ? AND NOT EXISTS (
                SELECT 1 FROM deployed_doees JOIN projects ON id = deployed_doees.project AND current = revision
                WHERE deployed_doees.project = project_images.project AND image = project_images.hash
             )",
        )
        .bind(now_s as i64)
        .execute(&mut *transaction)
        .await?;
        let rows = sqlx::query(
            "DELETE FROM images WHERE hash NOT IN (SELECT hash FROM project_images) RETURNING hash",
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        rows.iter()
            .map(|row| Ok(ContentHash(bytes(row, 0, "hash")?)))
            .collect()
    }

    /// Uploads that nobody has gone on with since a time.
    pub(crate) async fn stale_uploads(
        &self,
        before_s: u64,
    ) -> Result<Vec<(ProjectId, ContentHash)>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT project, hash FROM uploads WHERE touched_at_s < ?")
            .bind(before_s as i64)
            .fetch_all(&mut *connection)
            .await?;
        rows.iter().map(upload).collect()
    }
}

fn upload(row: &SqliteRow) -> Result<(ProjectId, ContentHash), StoreError> {
    let project = ProjectId::from_bytes(bytes(row, 0, "project id")?);
    Ok((project, ContentHash(bytes(row, 1, "hash")?)))
}

async fn delete_upload(
    connection: &mut SqliteConnection,
    project: ProjectId,
    image: ContentHash,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM uploads WHERE project = ? AND hash = ?")
        .bind(project.to_bytes().to_vec())
        .bind(image.0.to_vec())
        .execute(connection)
        .await?;
    Ok(())
}
