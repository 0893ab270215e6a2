//! Projects, the versions of their Doees, and what is deployed of them.

use isms_protocol::{
    Class, ContentHash, DoeeVersion, ProjectId,
    commserver::ProjectRoutes,
    dbriver::Grants,
    doer::DoeeSpec,
    encode,
    kernel::{CallRate, Durability},
    limits::PROJECTS_MAX,
    resadmin::ProjectSummary,
};
use sqlx::{Connection, Row, Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::{Schedule, Store, StoreError, bytes, decoded, unsigned};
use crate::images::IMAGE_RELEASED_S;

/// A version of a Doee, which never changes.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) spec: DoeeSpec,
    pub(crate) grants: Grants,
}

/// A Doee as a deployment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeployedDoee {
    pub(crate) name: String,
    pub(crate) version: DoeeVersion,
    pub(crate) binary: ContentHash,
    /// Hash of all that makes the version what it is; equal settings keep the version.
    pub(crate) settings: ContentHash,
    pub(crate) deadline_ms: u32,
    /// As its version has it.
    pub(crate) class: Class,
    /// The image that its workers run in.
    pub(crate) image: Option<ContentHash>,
    /// How many calls of it are accepted, if that has a limit. It is not among what makes the version.
    pub(crate) rate: Option<CallRate>,
    /// What becomes of asynchronous calls of it, if not the usual. It is not among what makes the version either.
    pub(crate) durability: Option<Durability>,
}

/// The deployment that serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deployment {
    pub(crate) routes: ProjectRoutes,
    pub(crate) databases: Vec<String>,
    pub(crate) doees: Vec<DeployedDoee>,
    pub(crate) schedules: Vec<Schedule>,
}

impl Deployment {
    /// True when a Doee has a limit of calls per second.
    pub(crate) fn has_rates(&self) -> bool {
        self.doees.iter().any(|doee| doee.rate.is_some())
    }

    /// True when calls of a Doee are not of the usual durability.
    pub(crate) fn has_durabilities(&self) -> bool {
        self.doees.iter().any(|doee| doee.durability.is_some())
    }
}

/// A deployment that is to be recorded; the store fills in the revision.
#[derive(Clone, Debug)]
pub(crate) struct NewDeployment {
    pub(crate) deployment: Deployment,
    pub(crate) versions: Vec<Version>,
    pub(crate) manifest: String,
    pub(crate) deployed_at_s: u64,
}

impl Store {
    /// Projects that serve, in order of name.
    pub(crate) async fn projects(&self) -> Result<Vec<ProjectSummary>, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = "SELECT id, name, current FROM projects WHERE current > 0 AND deleting = 0 ORDER BY name";
        let rows = sqlx::query(sql).fetch_all(&mut *connection).await?;
        let summary = |row: &SqliteRow| {
            Ok(ProjectSummary {
                id: ProjectId::from_bytes(bytes(row, 0, "project id")?),
                name: row.try_get(1)?,
                revision: unsigned(row, 2, "revision")?,
            })
        };
        rows.iter().map(summary).collect()
    }

    /// The id of a project, deployed or not yet.
    pub(crate) async fn project(&self, name: &str) -> Result<Option<ProjectId>, StoreError> {
        let mut connection = self.connection.lock().await;
        find_project(&mut connection, name).await
    }

    /// The name of a project that is not being deleted.
    pub(crate) async fn project_name(&self, project: ProjectId) -> Result<Option<String>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query("SELECT name FROM projects WHERE id = ? AND deleting = 0")
            .bind(id(project))
            .fetch_optional(&mut *connection)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// The id of a project; made when there is none, so that its databases have their place before the
    /// first deployment has succeeded.
    pub(crate) async fn reserve_project(&self, name: &str) -> Result<ProjectId, StoreError> {
        let mut connection = self.connection.lock().await;
        if let Some(project) = find_project(&mut connection, name).await? {
            return Ok(project);
        }
        let row = sqlx::query("SELECT count(*) FROM projects")
            .fetch_one(&mut *connection)
            .await?;
        if unsigned(&row, 0, "count")? >= PROJECTS_MAX as u64 {
            return Err(StoreError::TooMany {
                what: "there are too many projects",
                count_max: PROJECTS_MAX,
            });
        }
        let project = ProjectId::generate();
        sqlx::query("INSERT INTO projects (id, name) VALUES (?, ?)")
            .bind(id(project))
            .bind(name)
            .execute(&mut *connection)
            .await?;
        Ok(project)
    }

    /// The deployment of a project that serves.
    pub(crate) async fn current(&self, project: ProjectId) -> Result<Option<Deployment>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(
            "SELECT routes, databases, current, schedules FROM deployments JOIN projects
             ON id = project AND current = revision WHERE id = ? AND deleting = 0",
        )
        .bind(id(project))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let rows = sqlx::query(
            "SELECT name, version, binary, settings, deadline_ms, image, rate, durability, spec FROM deployed_doees
             JOIN doee_versions USING (version) WHERE deployed_doees.project = ? AND revision = ? ORDER BY name",
        )
        .bind(id(project))
        .bind(row.try_get::<i64, _>(2)?)
        .fetch_all(&mut *connection)
        .await?;
        let doee = |row: &SqliteRow| {
            Ok(DeployedDoee {
                name: row.try_get(0)?,
                version: DoeeVersion::from_bytes(bytes(row, 1, "version")?),
                binary: ContentHash(bytes(row, 2, "binary")?),
                settings: ContentHash(bytes(row, 3, "settings")?),
                deadline_ms: row.try_get(4)?,
                class: decoded::<DoeeSpec>(row, 8, "spec")?.class,
                image: match row.try_get::<Option<Vec<u8>>, _>(5)? {
                    Some(_) => Some(ContentHash(bytes(row, 5, "image")?)),
                    None => None,
                },
                rate: match row.try_get::<Option<Vec<u8>>, _>(6)? {
                    Some(_) => Some(decoded(row, 6, "rate")?),
                    None => None,
                },
                durability: match row.try_get::<Option<Vec<u8>>, _>(7)? {
                    Some(_) => Some(decoded(row, 7, "durability")?),
                    None => None,
                },
            })
        };
        Ok(Some(Deployment {
            routes: decoded(&row, 0, "routes")?,
            databases: decoded(&row, 1, "list of databases")?,
            doees: rows.iter().map(doee).collect::<Result<_, StoreError>>()?,
            schedules: match row.try_get::<Option<Vec<u8>>, _>(3)? {
                Some(_) => decoded(&row, 3, "list of schedules")?,
                None => Vec::new(),
            },
        }))
    }

    /// A Doee as the deployment that serves has it: its version, its deadline, and what becomes of asynchronous calls of it.
    pub(crate) async fn deployed(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<Option<(DoeeSpec, u32, Option<Durability>)>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(
            "SELECT spec, deadline_ms, durability FROM deployed_doees JOIN doee_versions USING (version)
             JOIN projects ON id = deployed_doees.project AND current = revision
             WHERE id = ? AND deleting = 0 AND deployed_doees.name = ?",
        )
        .bind(id(project))
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let durability = match row.try_get::<Option<Vec<u8>>, _>(2)? {
            Some(_) => Some(decoded(&row, 2, "durability")?),
            None => None,
        };
        Ok(Some((decoded(&row, 0, "spec")?, row.try_get(1)?, durability)))
    }

    /// Records a deployment and makes it the one that serves; returns it with its revision.
    pub(crate) async fn record(&self, new: NewDeployment) -> Result<Deployment, StoreError> {
        let NewDeployment {
            mut deployment,
            versions,
            manifest,
            deployed_at_s,
        } = new;
        let project = deployment.routes.project;
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin().await?;
        let row =
            sqlx::query("UPDATE projects SET revisions = revisions + 1 WHERE id = ? RETURNING revisions")
                .bind(id(project))
                .fetch_one(&mut *transaction)
                .await?;
        let revision: i64 = row.try_get(0)?;
        deployment.routes.revision = unsigned(&row, 0, "revision")?;
        for version in &versions {
            insert_version(&mut transaction, project, version).await?;
        }
        sqlx::query(
            "INSERT INTO deployments (project, revision, deployed_at_s, manifest, routes, databases, schedules)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id(project))
        .bind(revision)
        .bind(deployed_at_s as i64)
        .bind(manifest)
        .bind(encode(&deployment.routes))
        .bind(encode(&deployment.databases))
        .bind((!deployment.schedules.is_empty()).then(|| encode(&deployment.schedules)))
        .execute(&mut *transaction)
        .await?;
        for doee in &deployment.doees {
            insert_deployed(&mut transaction, project, revision, doee).await?;
        }
        set_current(&mut transaction, project, revision).await?;
        // Those that serve no longer may still be needed by calls that are under way.
        sqlx::query("UPDATE project_images SET kept_until_s = max(kept_until_s, ?) WHERE project = ?")
            .bind(deployed_at_s.saturating_add(IMAGE_RELEASED_S) as i64)
            .bind(id(project))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(deployment)
    }

    /// Makes an earlier revision, or none (0), the one that serves.
    pub(crate) async fn revert(&self, project: ProjectId, revision: u64) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        set_current(&mut connection, project, revision as i64).await
    }

    /// A version of a Doee of a project that is not being deleted.
    pub(crate) async fn version(&self, version: DoeeVersion) -> Result<Option<Version>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(
            "SELECT spec, grants FROM doee_versions JOIN projects ON id = project WHERE version = ? AND deleting = 0",
        )
        .bind(version.to_bytes().to_vec())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Version {
            spec: decoded(&row, 0, "spec")?,
            grants: decoded(&row, 1, "grants")?,
        }))
    }

    /// The binary that a project built from the same source before, and its length.
    pub(crate) async fn build(
        &self,
        project: ProjectId,
        key: ContentHash,
    ) -> Result<Option<(ContentHash, u64)>, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = "SELECT hash, len FROM builds JOIN binaries ON hash = binary WHERE project = ? AND key = ?";
        let row = sqlx::query(sql)
            .bind(id(project))
            .bind(key.0.to_vec())
            .fetch_optional(&mut *connection)
            .await?;
        row.map(|row| {
            Ok((
                ContentHash(bytes(&row, 0, "binary")?),
                unsigned(&row, 1, "length")?,
            ))
        })
        .transpose()
    }

    /// Records a binary that is on disk.
    pub(crate) async fn add_binary(&self, hash: ContentHash, len: u64) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        insert_binary(&mut connection, hash, len).await
    }

    /// Records which source a recorded binary was built from.
    pub(crate) async fn add_build(
        &self,
        project: ProjectId,
        key: ContentHash,
        source: ContentHash,
        binary: ContentHash,
    ) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        sqlx::query("INSERT OR REPLACE INTO builds (project, key, source, binary) VALUES (?, ?, ?, ?)")
            .bind(id(project))
            .bind(key.0.to_vec())
            .bind(source.0.to_vec())
            .bind(binary.0.to_vec())
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// Hides a project and frees its name; returns the revision after its last one.
    pub(crate) async fn begin_deletion(&self, project: ProjectId) -> Result<Option<u64>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(
            "UPDATE projects SET deleting = 1, name = '#' || hex(id), revisions = revisions + 1
             WHERE id = ? RETURNING revisions",
        )
        .bind(id(project))
        .fetch_optional(&mut *connection)
        .await?;
        row.map(|row| unsigned(&row, 0, "revision")).transpose()
    }

    /// Projects whose deletion has begun and not ended.
    pub(crate) async fn deletions(&self) -> Result<Vec<ProjectId>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT id FROM projects WHERE deleting = 1")
            .fetch_all(&mut *connection)
            .await?;
        rows.iter()
            .map(|row| bytes(row, 0, "project id").map(ProjectId::from_bytes))
            .collect()
    }

    /// The versions of a project, those that no longer serve included.
    pub(crate) async fn versions(&self, project: ProjectId) -> Result<Vec<DoeeVersion>, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = "SELECT version FROM doee_versions WHERE project = ?";
        let rows = sqlx::query(sql)
            .bind(id(project))
            .fetch_all(&mut *connection)
            .await?;
        rows.iter()
            .map(|row| bytes(row, 0, "version").map(DoeeVersion::from_bytes))
            .collect()
    }

    /// Forgets a project and all that belongs to it; binaries that nobody refers to any more go with it.
    pub(crate) async fn end_deletion(&self, project: ProjectId) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin().await?;
        sqlx::query("DELETE FROM projects WHERE id = ?")
            .bind(id(project))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "DELETE FROM binaries WHERE hash NOT IN (SELECT binary FROM builds)
             AND hash NOT IN (SELECT binary FROM doee_versions)",
        )
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }
}

fn id(project: ProjectId) -> Vec<u8> {
    project.to_bytes().to_vec()
}

async fn find_project(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<ProjectId>, StoreError> {
    let sql = "SELECT id FROM projects WHERE name = ? AND deleting = 0";
    let row = sqlx::query(sql).bind(name).fetch_optional(connection).await?;
    row.map(|row| bytes(&row, 0, "project id").map(ProjectId::from_bytes))
        .transpose()
}

async fn set_current(
    connection: &mut SqliteConnection,
    project: ProjectId,
    revision: i64,
) -> Result<(), StoreError> {
    let sql = "UPDATE projects SET current = ? WHERE id = ?";
    sqlx::query(sql)
        .bind(revision)
        .bind(id(project))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_binary(
    connection: &mut SqliteConnection,
    hash: ContentHash,
    len: u64,
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR IGNORE INTO binaries (hash, len) VALUES (?, ?)")
        .bind(hash.0.to_vec())
        .bind(len as i64)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_version(
    transaction: &mut Transaction<'_, Sqlite>,
    project: ProjectId,
    version: &Version,
) -> Result<(), StoreError> {
    // Again, in case that the deletion of another project has just found nobody referring to it.
    insert_binary(&mut *transaction, version.spec.binary, version.spec.binary_len).await?;
    sqlx::query("INSERT INTO doee_versions (version, project, spec, grants, binary) VALUES (?, ?, ?, ?, ?)")
        .bind(version.spec.version.to_bytes().to_vec())
        .bind(id(project))
        .bind(encode(&version.spec))
        .bind(encode(&version.grants))
        .bind(version.spec.binary.0.to_vec())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn insert_deployed(
    transaction: &mut Transaction<'_, Sqlite>,
    project: ProjectId,
    revision: i64,
    doee: &DeployedDoee,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployed_doees (project, revision, name, version, settings, deadline_ms, image, rate, durability)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id(project))
    .bind(revision)
    .bind(&doee.name)
    .bind(doee.version.to_bytes().to_vec())
    .bind(doee.settings.0.to_vec())
    .bind(doee.deadline_ms)
    .bind(doee.image.map(|image| image.0.to_vec()))
    .bind(doee.rate.map(|rate| encode(&rate)))
    .bind(doee.durability.map(|durability| encode(&durability)))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
