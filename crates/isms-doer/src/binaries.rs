//! What a Doee version is: its specification from Resadmin, its binary as a sealed memfd.
//!
//! A binary is named by its SHA-256, checked when it arrives, and sealed: neither the Doer nor a
//! worker can change what others will load.

use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc, time::Duration};

use bytes::Bytes;
use isms_protocol::{
    ContentHash, DoeeVersion, ErrorCode, Header, Kind, Message, Service, WireError,
    doer::DoeeSpec,
    limits::{ARTIFACT_LEN_MAX, WORKERS_MAX},
    resadmin::{Kept, Operation},
};
use isms_sandbox::linux::memfd;
use sha2::{Digest, Sha256};

use crate::{
    environment,
    service::Doer,
    worker_handler::{DoeeLimits, Event, Reserved},
};

/// Bytes of binaries that no loaded version uses and that are kept all the same.
const CACHE_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Between attempts to learn which versions keep workers.
const KEPT_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of an encoded [`Kept`]: an id takes 18.
const KEPT_LEN_MAX: usize = WORKERS_MAX * 32;

/// A version that can be assigned.
pub(crate) struct LoadedDoee {
    pub(crate) spec: DoeeSpec,
    pub(crate) binary: Rc<OwnedFd>,
}

/// Sealed binaries by content.
#[derive(Default)]
pub(crate) struct Binaries {
    cached: HashMap<ContentHash, (Rc<OwnedFd>, u64)>,
}

impl Binaries {
    fn get(&self, hash: ContentHash) -> Option<Rc<OwnedFd>> {
        self.cached.get(&hash).map(|(binary, _)| Rc::clone(binary))
    }

    fn insert(&mut self, hash: ContentHash, binary: Rc<OwnedFd>, len: u64) {
        self.cached.insert(hash, (binary, len));
        let unused = |binary: &Rc<OwnedFd>| Rc::strong_count(binary) == 1;
        let mut unused_len: u64 = self
            .cached
            .values()
            .filter(|(binary, _)| unused(binary))
            .map(|(_, len)| len)
            .sum();
        self.cached.retain(|_, (binary, len)| {
            let drop_it = unused_len > CACHE_LEN_MAX && unused(binary);
            if drop_it {
                unused_len -= *len;
            }
            !drop_it
        });
    }
}

/// Learns a version and fetches its binary; the outcome becomes an event.
pub(crate) async fn load(doer: Rc<Doer>, version: DoeeVersion) {
    let outcome = fetch(&doer, version).await.and_then(|doee| {
        let limits = DoeeLimits {
            environment: environment::resolve(&doee.spec.environment, &doer.config)?,
            timeout: Duration::from_millis(doee.spec.timeout_ms.into()),
            workers_min: doee.spec.workers_min,
            workers_max: doee.spec.workers_max,
            concurrency: doee.spec.concurrency,
            reserved: Reserved(doee.spec.reserved),
        };
        doer.state.borrow_mut().doees.insert(version, Rc::new(doee));
        Ok(limits)
    });
    if let Err(error) = &outcome {
        tracing::warn!(%version, %error, "a Doee version could not be loaded");
    }
    doer.dispatch(Event::Loaded { version, outcome });
}

/// Learns which versions keep workers uncalled, of which a new Doer has heard nothing yet.
pub(crate) async fn learn_kept(doer: Rc<Doer>) {
    let kept = loop {
        match ask(&doer, DoeeVersion::NONE, Operation::Kept).await {
            // Resadmin, or the Kernel, is not there yet; it will be.
            Err(error) if error.code == ErrorCode::Unavailable => tokio::time::sleep(KEPT_INTERVAL).await,
            answer => break answer,
        }
    };
    doer.asks_for_kept.set(false);
    let kept = match kept {
        Ok(answer) => answer.payload(KEPT_LEN_MAX).await,
        Err(error) => Err(error),
    };
    match kept.map(|bytes| isms_protocol::decode::<Kept>(&bytes)) {
        Ok(Ok(Kept { versions })) => {
            for version in versions {
                doer.dispatch(Event::Keep { version });
            }
        }
        Ok(Err(error)) => tracing::error!(%error, "resadmin's list of kept versions cannot be read"),
        Err(error) => tracing::warn!(%error, "workers that are kept start when they are called"),
    }
}

async fn fetch(doer: &Doer, version: DoeeVersion) -> Result<LoadedDoee, WireError> {
    let spec: DoeeSpec = ask(doer, version, Operation::Doee)
        .await?
        .message
        .decode_body()
        .map_err(|error| {
            WireError::new(
                ErrorCode::Internal,
                format!("resadmin's answer cannot be read: {error}"),
            )
        })?;
    let cached = doer.state.borrow().binaries.get(spec.binary);
    let binary = match cached {
        Some(binary) => binary,
        None => {
            let bytes = ask(doer, version, Operation::Binary)
                .await?
                .payload(ARTIFACT_LEN_MAX as usize)
                .await?;
            let binary = Rc::new(seal(&spec, &bytes)?);
            doer.state
                .borrow_mut()
                .binaries
                .insert(spec.binary, Rc::clone(&binary), spec.binary_len);
            binary
        }
    };
    Ok(LoadedDoee { spec, binary })
}

async fn ask(doer: &Doer, version: DoeeVersion, operation: Operation) -> Result<isms_ipc::Answer, WireError> {
    let mut header = Header::new(Kind::Request, Service::Doer, Service::Resadmin);
    header.operation = operation as u16;
    header.target_doee = version;
    doer.link.call(Message::bare(header)).await
}

fn seal(spec: &DoeeSpec, bytes: &Bytes) -> Result<OwnedFd, WireError> {
    if ContentHash(Sha256::digest(bytes).into()) != spec.binary {
        let message = format!(
            "the binary of {}/{} is damaged: deploy it again",
            spec.project_name, spec.name
        );
        return Err(WireError::new(ErrorCode::Internal, message));
    }
    memfd::create_sealed(c"doee", bytes).map_err(|error| {
        WireError::new(
            ErrorCode::Unavailable,
            format!("cannot hold the binary in memory: {error}"),
        )
    })
}
