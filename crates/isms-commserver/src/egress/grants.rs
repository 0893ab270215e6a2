//! Which servers Doee versions may reach, as Resadmin says; asked once per version, which never changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isms_ipc::Link;
use isms_protocol::{
    DoeeVersion, ErrorCode, Header, HostPort, Kind, Message, ProjectId, Service, WireError, dbriver,
    resadmin::Operation,
};

use super::error::FetchError;

/// Versions whose grants are remembered.
const CACHED_MAX: usize = 4096;
/// Time for Resadmin to tell the grants of a version.
const ASKED_TIME_MAX: Duration = Duration::from_secs(5);

/// A Doee version that asks, as the Kernel vouches for it.
pub(crate) type Caller = (ProjectId, DoeeVersion);

/// The servers that one version may reach.
#[derive(Clone, Debug)]
pub(crate) struct Grants(Arc<[HostPort]>);

impl Grants {
    /// Fails unless the server was granted.
    pub(crate) fn check(&self, server: &HostPort) -> Result<(), FetchError> {
        if self.0.contains(server) {
            return Ok(());
        }
        Err(FetchError::NotGranted {
            server: server.clone(),
        })
    }
}

/// Remembers the grants of the versions used last.
pub(crate) struct GrantsCache {
    link: Link,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    grants: HashMap<Caller, Entry>,
    clock: u64,
}

struct Entry {
    grants: Grants,
    used: u64,
}

impl GrantsCache {
    pub(crate) fn new(link: Link) -> GrantsCache {
        GrantsCache {
            link,
            known: Mutex::default(),
        }
    }

    /// What a version may reach; `Nobody` unless it belongs to the project.
    pub(crate) async fn of(&self, caller: Caller) -> Result<Grants, FetchError> {
        let (project, version) = caller;
        if project.is_none() || version.is_none() {
            return Err(FetchError::Nobody);
        }
        if let Some(grants) = self.known().get(caller) {
            return Ok(grants);
        }
        let request = Message::bare(Header {
            operation: Operation::Grants as u16,
            project,
            target_doee: version,
            remaining_us: ASKED_TIME_MAX.as_micros() as u64,
            ..Header::new(Kind::Request, Service::Commserver, Service::Resadmin)
        });
        let answer = self.link.call(request).await.map_err(|error| match error.code {
            ErrorCode::NotFound => FetchError::Nobody,
            _ => FetchError::Grants(error),
        })?;
        let granted: dbriver::Grants = answer.message.decode_body().map_err(|error| {
            tracing::error!(%error, "resadmin gave grants that cannot be decoded");
            FetchError::Grants(WireError::new(ErrorCode::Internal, "they cannot be decoded"))
        })?;
        // Resadmin checked their spelling; what it did not check grants nothing.
        let servers = granted.http.iter().filter_map(|server| server.parse().ok());
        let grants = Grants(servers.collect());
        self.known().insert(caller, grants.clone());
        Ok(grants)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn get(&mut self, caller: Caller) -> Option<Grants> {
        self.clock += 1;
        let entry = self.grants.get_mut(&caller)?;
        entry.used = self.clock;
        Some(entry.grants.clone())
    }

    fn insert(&mut self, caller: Caller, grants: Grants) {
        if self.grants.len() >= CACHED_MAX
            && let Some(oldest) = self.grants.iter().min_by_key(|(_, entry)| entry.used)
        {
            let oldest = *oldest.0;
            self.grants.remove(&oldest);
        }
        let used = self.clock;
        self.grants.insert(caller, Entry { grants, used });
    }
}
