//! Tokens: made, listed, revoked, recognized.

use std::{fs::File, io::Read};

use isms_protocol::{
    ErrorCode, Header, PrincipalId, TokenHash, WireError,
    limits::NAME_LEN_MAX,
    resadmin::{Authenticate, CreateToken, CreatedToken, Principal, RevokeToken, Right, Tokens},
};
use sha2::{Digest, Sha256};

use super::Core;
use crate::store::NewToken;

/// Life of a token: 100 years.
const LIFE_S_MAX: u64 = 100 * 365 * 24 * 3600;

impl Core {
    /// Tells whose token has a hash. The lookup compares hashes, so its time tells nothing of a token.
    pub(super) async fn authenticate(&self, request: Authenticate) -> Result<Principal, WireError> {
        let found = self.store.authenticate(request.token, (self.clock)()).await?;
        found.ok_or_else(|| {
            WireError::new(
                ErrorCode::Unauthenticated,
                "the token is unknown, revoked or expired",
            )
        })
    }

    /// Makes a token within the asking principal's scope.
    pub(super) async fn create_token(
        &self,
        header: &Header,
        request: CreateToken,
    ) -> Result<CreatedToken, WireError> {
        let CreateToken {
            name,
            project,
            rights,
            expires_in_s,
        } = request;
        let project = match project {
            Some(name) => Some(
                self.store
                    .project(&name)
                    .await?
                    .ok_or_else(|| super::projects::unknown(&name))?,
            ),
            None => None,
        };
        self.authorize(header.principal, Right::Admin, project).await?;
        check_name(&name)?;
        if rights.is_empty() {
            return Err(WireError::new(
                ErrorCode::Invalid,
                "a token needs at least one right",
            ));
        }
        if expires_in_s.is_some_and(|life| life == 0 || life > LIFE_S_MAX) {
            return Err(WireError::new(
                ErrorCode::Invalid,
                format!("a token lives 1 to {LIFE_S_MAX} s, or for ever"),
            ));
        }
        let now_s = (self.clock)();
        let token = random_token().map_err(|error| {
            tracing::error!(%error, "random bytes could not be read");
            WireError::new(ErrorCode::Internal, "no random bytes for a token")
        })?;
        let id = PrincipalId::generate();
        let expires_at_s = expires_in_s.map(|life| now_s.saturating_add(life));
        let principal = Principal {
            id,
            name,
            project,
            rights,
            expires_at_s,
        };
        let hash = TokenHash(Sha256::digest(token.as_bytes()).into());
        self.store
            .create_token(&NewToken {
                principal,
                hash,
                created_at_s: now_s,
            })
            .await?;
        tracing::info!(principal = %header.principal, token = %id, "token was made");
        Ok(CreatedToken { id, token })
    }

    /// Lists the tokens that the asking principal may see.
    pub(super) async fn tokens(&self, header: &Header) -> Result<Tokens, WireError> {
        let asking = self.principal(header.principal, Right::Admin).await?;
        let mut tokens = self.store.principals((self.clock)()).await?;
        tokens.retain(|token| asking.project.is_none() || token.project == asking.project);
        Ok(Tokens { tokens })
    }

    /// Makes a token void.
    pub(super) async fn revoke_token(&self, header: &Header, request: RevokeToken) -> Result<(), WireError> {
        let unknown = || {
            WireError::new(
                ErrorCode::NotFound,
                "there is no such token, or it is the administrator's",
            )
        };
        let token = self.store.principal(request.id, (self.clock)()).await?;
        self.authorize(header.principal, Right::Admin, token.ok_or_else(unknown)?.project)
            .await?;
        if !self.store.revoke(request.id).await? {
            return Err(unknown());
        }
        tracing::info!(principal = %header.principal, token = %request.id, "token was revoked");
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), WireError> {
    let plain = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if plain {
        return Ok(());
    }
    let message = format!("a token's name has 1 to {NAME_LEN_MAX} bytes and no control characters");
    Err(WireError::new(ErrorCode::Invalid, message))
}

/// A token of 256 random bits. The prefix lets people and scanners see what it is.
fn random_token() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes
        .iter()
        .fold("isms_".to_owned(), |token, byte| format!("{token}{byte:02x}")))
}
