//! Tokens: who may do what. Only their hashes are stored.

use isms_protocol::{
    PrincipalId, ProjectId, TokenHash,
    resadmin::{Principal, Right},
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, bytes, unsigned};
use crate::config::TOKENS_MAX;

/// A token that is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewToken {
    pub(crate) principal: Principal,
    pub(crate) hash: TokenHash,
    pub(crate) created_at_s: u64,
}

/// The bit that stands for a right in the store; never changed.
const RIGHTS: [(Right, i64); 4] = [
    (Right::Invoke, 1),
    (Right::Read, 2),
    (Right::Deploy, 4),
    (Right::Admin, 8),
];

/// A query for principals whose tokens are valid at `?1`, with an ending.
macro_rules! valid_principals {
    ($ending:literal) => {
        concat!(
            "SELECT id, name, project, rights, expires_at_s FROM tokens ",
            "WHERE revoked = 0 AND (expires_at_s IS NULL OR expires_at_s > ?1) ",
            $ending
        )
    };
}

impl Store {
    /// Makes the hash that of the administrator's token; a former one is void.
    pub(crate) async fn set_administrator(&self, hash: TokenHash, now_s: u64) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        sqlx::query(
            "INSERT INTO tokens (id, hash, name, rights, created_at_s, administrator) VALUES (?, ?, 'admin', ?, ?, 1)
             ON CONFLICT (administrator) WHERE administrator = 1 DO UPDATE SET hash = excluded.hash",
        )
        .bind(PrincipalId::generate().to_bytes().to_vec())
        .bind(hash.0.to_vec())
        .bind(to_bits(&[Right::Admin]))
        .bind(now_s as i64)
        .execute(&mut *connection)
        .await?;
        Ok(())
    }

    /// Records a token.
    pub(crate) async fn create_token(&self, token: &NewToken) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        let live =
            "SELECT count(*) FROM tokens WHERE revoked = 0 AND (expires_at_s IS NULL OR expires_at_s > ?)";
        let row = sqlx::query(live)
            .bind(token.created_at_s as i64)
            .fetch_one(&mut *connection)
            .await?;
        if unsigned(&row, 0, "count")? >= TOKENS_MAX as u64 {
            return Err(StoreError::TooMany {
                what: "there are too many tokens; revoke some",
                count_max: TOKENS_MAX,
            });
        }
        sqlx::query(
            "INSERT INTO tokens (id, hash, name, project, rights, created_at_s, expires_at_s)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(token.principal.id.to_bytes().to_vec())
        .bind(token.hash.0.to_vec())
        .bind(&token.principal.name)
        .bind(token.principal.project.map(|project| project.to_bytes().to_vec()))
        .bind(to_bits(&token.principal.rights))
        .bind(token.created_at_s as i64)
        .bind(
            token
                .principal
                .expires_at_s
                .map(|at| i64::try_from(at).unwrap_or(i64::MAX)),
        )
        .execute(&mut *connection)
        .await?;
        Ok(())
    }

    /// Whose token has this hash, if it is valid now.
    pub(crate) async fn authenticate(
        &self,
        hash: TokenHash,
        now_s: u64,
    ) -> Result<Option<Principal>, StoreError> {
        self.principal_where(valid_principals!("AND hash = ?2"), hash.0.to_vec(), now_s)
            .await
    }

    /// A principal, if its token is valid now.
    pub(crate) async fn principal(
        &self,
        id: PrincipalId,
        now_s: u64,
    ) -> Result<Option<Principal>, StoreError> {
        self.principal_where(valid_principals!("AND id = ?2"), id.to_bytes().to_vec(), now_s)
            .await
    }

    /// All principals whose tokens are valid now, oldest first.
    pub(crate) async fn principals(&self, now_s: u64) -> Result<Vec<Principal>, StoreError> {
        let mut connection = self.connection.lock().await;
        let sql = valid_principals!("ORDER BY created_at_s, id");
        sqlx::query(sql)
            .bind(now_s as i64)
            .fetch_all(&mut *connection)
            .await?
            .iter()
            .map(read_principal)
            .collect()
    }

    /// Makes a token void; false when there is no such token. The administrator's stays.
    pub(crate) async fn revoke(&self, id: PrincipalId) -> Result<bool, StoreError> {
        let mut connection = self.connection.lock().await;
        let done =
            sqlx::query("UPDATE tokens SET revoked = 1 WHERE id = ? AND revoked = 0 AND administrator = 0")
                .bind(id.to_bytes().to_vec())
                .execute(&mut *connection)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn principal_where(
        &self,
        sql: &'static str,
        wanted: Vec<u8>,
        now_s: u64,
    ) -> Result<Option<Principal>, StoreError> {
        let mut connection = self.connection.lock().await;
        let row = sqlx::query(sql)
            .bind(now_s as i64)
            .bind(wanted)
            .fetch_optional(&mut *connection)
            .await?;
        row.as_ref().map(read_principal).transpose()
    }
}

fn read_principal(row: &SqliteRow) -> Result<Principal, StoreError> {
    let has_project = row.try_get::<Option<Vec<u8>>, _>(2)?.is_some();
    let has_expiry = row.try_get::<Option<i64>, _>(4)?.is_some();
    let bits: i64 = row.try_get(3)?;
    Ok(Principal {
        id: PrincipalId::from_bytes(bytes(row, 0, "token id")?),
        name: row.try_get(1)?,
        project: has_project
            .then(|| bytes(row, 2, "project id").map(ProjectId::from_bytes))
            .transpose()?,
        rights: RIGHTS
            .iter()
            .filter(|(_, bit)| bits & bit != 0)
            .map(|(right, _)| *right)
            .collect(),
        expires_at_s: has_expiry.then(|| unsigned(row, 4, "expiry")).transpose()?,
    })
}

fn to_bits(rights: &[Right]) -> i64 {
    RIGHTS
        .iter()
        .filter(|(right, _)| rights.contains(right))
        .map(|(_, bit)| bit)
        .sum()
}
