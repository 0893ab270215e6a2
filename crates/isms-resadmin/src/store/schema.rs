//! The schema, as migrations that are only ever appended.

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::StoreError;

const MIGRATIONS: [&str; 6] = [
    // `current` is the revision that serves, 0 for none; `deleting` hides a project whose data goes.
    "CREATE TABLE projects (
        id BLOB PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        current INTEGER NOT NULL DEFAULT 0,
        revisions INTEGER NOT NULL DEFAULT 0,
        deleting INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE deployments (
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        revision INTEGER NOT NULL,
        deployed_at_s INTEGER NOT NULL,
        manifest TEXT NOT NULL,
        routes BLOB NOT NULL,
        databases BLOB NOT NULL,
        PRIMARY KEY (project, revision)
    ) STRICT;
    CREATE TABLE binaries (
        hash BLOB PRIMARY KEY,
        len INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE builds (
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        key BLOB NOT NULL,
        source BLOB NOT NULL,
        binary BLOB NOT NULL REFERENCES binaries (hash),
        PRIMARY KEY (project, key)
    ) STRICT;
    CREATE TABLE doee_versions (
        version BLOB PRIMARY KEY,
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        spec BLOB NOT NULL,
        grants BLOB NOT NULL,
        binary BLOB NOT NULL REFERENCES binaries (hash)
    ) STRICT;
    CREATE TABLE deployed_doees (
        project BLOB NOT NULL,
        revision INTEGER NOT NULL,
        name TEXT NOT NULL,
        version BLOB NOT NULL REFERENCES doee_versions (version) ON DELETE CASCADE,
        settings BLOB NOT NULL,
        deadline_ms INTEGER NOT NULL,
        PRIMARY KEY (project, revision, name),
        FOREIGN KEY (project, revision) REFERENCES deployments (project, revision) ON DELETE CASCADE
    ) STRICT;
    CREATE TABLE tokens (
        id BLOB PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        project BLOB REFERENCES projects (id) ON DELETE CASCADE,
        rights INTEGER NOT NULL,
        created_at_s INTEGER NOT NULL,
        expires_at_s INTEGER,
        revoked INTEGER NOT NULL DEFAULT 0,
        administrator INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE UNIQUE INDEX one_administrator ON tokens (administrator) WHERE administrator = 1;
    CREATE INDEX versions_of_project ON doee_versions (project);",
    // A project has the images that it has uploaded; one that no deployment of it uses is kept until a time.
    "CREATE TABLE images (
        hash BLOB PRIMARY KEY,
        len INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE project_images (
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        hash BLOB NOT NULL REFERENCES images (hash),
        kept_until_s INTEGER NOT NULL,
        PRIMARY KEY (project, hash)
    ) STRICT;
    CREATE TABLE uploads (
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        hash BLOB NOT NULL,
        touched_at_s INTEGER NOT NULL,
        PRIMARY KEY (project, hash)
    ) STRICT;
    ALTER TABLE deployed_doees ADD COLUMN image BLOB;",
    // What a project gets; nothing stands for the defaults.
    "ALTER TABLE projects ADD COLUMN settings BLOB;",
    // How many calls of it are accepted; nothing stands for any number.
    "ALTER TABLE deployed_doees ADD COLUMN rate BLOB;",
    // What becomes of asynchronous calls of it, where that is not the usual.
    "ALTER TABLE deployed_doees ADD COLUMN durability BLOB;",
    // Its schedules, nothing for none; and of each the run that comes next, without a process until it is acknowledged.
    "ALTER TABLE deployments ADD COLUMN schedules BLOB;
    CREATE TABLE schedule_runs (
        project BLOB NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        schedule BLOB NOT NULL,
        revision INTEGER NOT NULL,
        planned_s INTEGER NOT NULL,
        call BLOB NOT NULL,
        process BLOB,
        PRIMARY KEY (project, schedule)
    ) STRICT;",
];

/// Applies what is missing; the file's format is the number of migrations applied.
pub(super) async fn upgrade(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    let found: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if found > known {
        return Err(StoreError::Format { found, known });
    }
    for (index, migration) in MIGRATIONS
        .iter()
        .enumerate()
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        let format = format!("PRAGMA user_version = {}", index + 1);
        sqlx::raw_sql(AssertSqlSafe(format))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    Ok(())
}
