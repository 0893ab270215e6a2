//! Bearer tokens: extraction, hashing, who they belong to, and what they allow.
//!
//! Cookies are never looked at. A token exists here only as its SHA-256; Resadmin decides, its
//! answers are kept for a few seconds, so a revoked token works at most that long. Only accepted
//! tokens are kept: guesses cannot fill the cache, and few of them are asked about at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header};
use isms_ipc::Link;
use isms_protocol::{
    ErrorCode, Header, Kind, Message, PrincipalId, ProjectId, Service, TokenHash,
    resadmin::{Authenticate, Operation, Principal, Right},
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::Problem;

/// Longest token that is looked at.
const TOKEN_LEN_MAX: usize = 512;
/// How long an accepted token is believed.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Accepted tokens that are remembered.
const CACHE_LEN_MAX: usize = 1024;
/// Tokens that are asked about at the same time.
const LOOKUPS_MAX: usize = 16;
/// How long Resadmin may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How to authenticate (RFC 6750 §3).
const REALM: HeaderValue = HeaderValue::from_static("Bearer realm=\"isms\"");

/// The hash of the request's bearer token; `None` when it has no `Authorization` field. Anything
/// else than one well-formed bearer token is 401.
pub fn bearer(headers: &HeaderMap) -> Result<Option<TokenHash>, Problem> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(unauthenticated("a request has at most one authorization field"));
    }
    let token = token68(field.as_bytes());
    let token = token.ok_or_else(|| unauthenticated("expected `authorization: Bearer TOKEN`"))?;
    Ok(Some(hash_token(token)))
}

/// The hash under which a token is known.
pub fn hash_token(token: &[u8]) -> TokenHash {
    TokenHash(Sha256::digest(token).into())
}

/// The token of `Bearer TOKEN` (RFC 6750 §2.1).
fn token68(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(7)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    let valid = scheme.eq_ignore_ascii_case(b"bearer ")
        && (1..=TOKEN_LEN_MAX).contains(&token.len())
        && token.iter().all(allowed);
    valid.then_some(token)
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(ErrorCode::Unauthenticated, detail).with_header(header::WWW_AUTHENTICATE, REALM)
}

/// Checks that a principal has a right, and that it may touch the project, if one is meant.
pub fn check_right(principal: &Principal, right: Right, project: Option<ProjectId>) -> Result<(), Problem> {
    if !principal
        .rights
        .iter()
        .any(|&held| held == right || held == Right::Admin)
    {
        let name = format!("{right:?}").to_lowercase();
        return Err(Problem::new(
            ErrorCode::Forbidden,
            format!("the token lacks the right `{name}`"),
        ));
    }
    match (principal.project, project) {
        (Some(own), Some(wanted)) if own != wanted => Err(Problem::new(
            ErrorCode::Forbidden,
            "the token belongs to another project",
        )),
        _ => Ok(()),
    }
}

/// Asks Resadmin who a token is, and remembers the answer for a few seconds.
pub struct Authenticator {
    link: Link,
    sender: Service,
    cache: Mutex<HashMap<TokenHash, (Arc<Principal>, Instant)>>,
    lookups: Semaphore,
}

impl Authenticator {
    /// Makes an authenticator that asks in the name of `sender`.
    pub fn new(link: Link, sender: Service) -> Authenticator {
        Authenticator {
            link,
            sender,
            cache: Mutex::new(HashMap::new()),
            lookups: Semaphore::const_new(LOOKUPS_MAX),
        }
    }

    /// Who sends a request; 401 when it has no valid token.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let token =
            bearer(headers)?.ok_or_else(|| unauthenticated("this needs `authorization: Bearer TOKEN`"))?;
        if let Some(principal) = self.cached(&token) {
            return Ok(principal);
        }
        let Ok(_permit) = self.lookups.acquire().await else {
            return Err(Problem::new(ErrorCode::Internal, "the token check was shut down"));
        };
        // Whoever waited may find the answer of the one it waited for.
        if let Some(principal) = self.cached(&token) {
            return Ok(principal);
        }
        let principal = Arc::new(self.ask(token).await?);
        self.remember(token, principal.clone());
        Ok(principal)
    }

    /// Forgets a principal at once, because its token was revoked here.
    pub fn forget(&self, id: PrincipalId) {
        self.entries().retain(|_, (principal, _)| principal.id != id);
    }

    async fn ask(&self, token: TokenHash) -> Result<Principal, Problem> {
        let header = Header {
            operation: Operation::Authenticate as u16,
            remaining_us: LOOKUP_TIMEOUT.as_micros() as u64,
            ..Header::new(Kind::Request, self.sender, Service::Resadmin)
        };
        let request = Message::with_body(header, &Authenticate { token });
        let answer = self.link.call(request).await.map_err(|error| match error.code {
            ErrorCode::Unauthenticated => unauthenticated("the token is unknown, expired or revoked"),
            _ => Problem::from(error),
        })?;
        let principal: Principal = answer.message.decode_body().map_err(|error| {
            tracing::error!(%error, "resadmin answered authenticate with something else");
            Problem::new(ErrorCode::Internal, "the token check failed")
        })?;
        if is_expired(&principal) {
            return Err(unauthenticated("the token is unknown, expired or revoked"));
        }
        Ok(principal)
    }

    fn cached(&self, token: &TokenHash) -> Option<Arc<Principal>> {
        let mut entries = self.entries();
        let (principal, until) = entries.get(token)?;
        if *until > Instant::now() && !is_expired(principal) {
            return Some(principal.clone());
        }
        entries.remove(token);
        None
    }

    fn remember(&self, token: TokenHash, principal: Arc<Principal>) {
        let now = Instant::now();
        let mut entries = self.entries();
        if entries.len() >= CACHE_LEN_MAX {
            entries.retain(|_, (_, until)| *until > now);
        }
        if entries.len() < CACHE_LEN_MAX {
            entries.insert(token, (principal, now + CACHE_TTL));
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<TokenHash, (Arc<Principal>, Instant)>> {
        // The map is valid after every statement, so a panic elsewhere cannot have broken it.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_expired(principal: &Principal) -> bool {
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    principal
        .expires_at_s
        .is_some_and(|expires_at_s| expires_at_s <= now_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_bearer_token_is_hashed_whatever_the_case_of_the_scheme() {
        for value in ["Bearer abc-._~+/=", "bearer abc-._~+/=", "BEARER abc-._~+/="] {
            let hash = bearer(&headers(&[value])).expect("valid");
            assert_eq!(hash, Some(hash_token(b"abc-._~+/=")));
        }
    }

    #[test]
    fn no_authorization_is_no_token() {
        assert_eq!(bearer(&headers(&[])).expect("valid"), None);
    }

    #[test]
    fn other_credentials_are_401_and_name_the_scheme() {
        let long = format!("Bearer {}", "a".repeat(TOKEN_LEN_MAX + 1));
        let cases: [&[&str]; 7] = [
            &["Basic YTpi"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &[&long],
            &["Bearer a", "Bearer b"],
        ];
        for case in cases {
            let problem = bearer(&headers(case)).expect_err("refused");
            let response = problem.into_response();
            assert_eq!(response.status(), 401);
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], REALM);
        }
    }

    #[test]
    fn rights_and_project_both_have_to_fit() {
        let (own, other) = (ProjectId::generate(), ProjectId::generate());
        let mut principal = Principal {
            id: PrincipalId::generate(),
            name: "a".into(),
            project: Some(own),
            rights: vec![Right::Invoke],
            expires_at_s: None,
        };
        let status = |principal: &Principal, right, project| {
            check_right(principal, right, project).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(status(&principal, Right::Invoke, Some(own)), Ok(()));
        assert_eq!(status(&principal, Right::Invoke, Some(other)), Err(403));
        assert_eq!(status(&principal, Right::Read, Some(own)), Err(403));
        principal.rights = vec![Right::Admin];
        assert_eq!(status(&principal, Right::Read, Some(own)), Ok(()));
        assert_eq!(status(&principal, Right::Read, Some(other)), Err(403));
        principal.project = None;
        assert_eq!(status(&principal, Right::Deploy, Some(other)), Ok(()));
    }
}
