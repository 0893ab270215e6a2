//! Tokens: list, create, revoke. A project's administrator sees and makes tokens of its project only.

use http::StatusCode;
use isms_http::{Incoming, Problem, Upload};
use isms_protocol::{
    ErrorCode, PrincipalId, ProjectId, Service,
    resadmin::{CreateToken, CreatedToken, Operation, RevokeToken, Right, Tokens},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{ASK_TIMEOUT, Answer, Call, json, no_content, object};

/// Bytes of the description of a token.
const BODY_LEN_MAX: u64 = 16 * 1024;
/// Characters of a token's name.
const NAME_LEN_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    #[serde(default)]
    project: Option<String>,
    rights: Vec<Right>,
    #[serde(default)]
    expires_in_s: Option<u64>,
}

impl Call<'_> {
    pub(super) async fn list_tokens(&self) -> Answer {
        json(StatusCode::OK, &self.visible_tokens().await?)
    }

    pub(super) async fn create_token(&self, body: Incoming) -> Answer {
        let upload = Upload {
            body,
            len_max: BODY_LEN_MAX,
            deadline: Instant::now() + ASK_TIMEOUT,
        };
        let new = parse(&upload.whole().await?)?;
        match (&self.caller.project, &new.project) {
            (Some(_), None) => {
                return Err(Problem::new(
                    ErrorCode::Forbidden,
                    "a project's token makes tokens of its project only",
                ));
            }
            // Also finds out that the project exists.
            (_, Some(name)) => drop(self.project(name).await?),
            (None, None) => {}
        }
        let create = CreateToken {
            name: new.name,
            project: new.project,
            rights: new.rights,
            expires_in_s: new.expires_in_s,
        };
        let created: CreatedToken = self
            .ask(self.admin_header(Operation::CreateToken), &create)
            .await?;
        tracing::info!(id = %created.id, by = self.caller.name, "created a token");
        json(StatusCode::CREATED, &created)
    }

    pub(super) async fn revoke_token(&self) -> Answer {
        let unknown = || Problem::new(ErrorCode::NotFound, "there is no such token");
        let id: PrincipalId = self.parameter(0).parse().map_err(|_| unknown())?;
        if self.caller.project.is_some()
            && !self
                .visible_tokens()
                .await?
                .tokens
                .iter()
                .any(|token| token.id == id)
        {
            return Err(unknown());
        }
        self.tell(self.admin_header(Operation::RevokeToken), &RevokeToken { id })
            .await?;
        self.gate.authenticator.forget(id);
        tracing::info!(%id, by = self.caller.name, "revoked a token");
        no_content()
    }

    async fn visible_tokens(&self) -> Result<Tokens, Problem> {
        let mut tokens: Tokens = self.ask_bare(self.admin_header(Operation::ListTokens)).await?;
        if self.caller.project.is_some() {
            tokens.tokens.retain(|token| token.project == self.caller.project);
        }
        Ok(tokens)
    }

    fn admin_header(&self, operation: Operation) -> isms_protocol::Header {
        self.header(Service::Resadmin, operation as u16, ProjectId::NONE, ASK_TIMEOUT)
    }
}

fn parse(body: &[u8]) -> Result<NewToken, Problem> {
    let invalid = |detail: String| Problem::new(ErrorCode::Invalid, detail);
    let new: NewToken = object(body, "a token's description")?;
    if new.name.trim().is_empty()
        || new.name.chars().count() > NAME_LEN_MAX
        || new.name.chars().any(char::is_control)
    {
        return Err(invalid(format!(
            "`name` is 1 to {NAME_LEN_MAX} printable characters"
        )));
    }
    if new.rights.is_empty() {
        return Err(invalid(
            "`rights` names at least one of invoke, read, deploy, admin".into(),
        ));
    }
    if new.expires_in_s == Some(0) {
        return Err(invalid("`expires_in_s` is at least 1".into()));
    }
    Ok(new)
}
