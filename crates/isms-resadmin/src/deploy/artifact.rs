//! From a Doee's source, or a prebuilt file, to a recorded binary.

use std::time::Instant;

use bytes::Bytes;
use isms_protocol::{
    ContentHash, ProjectId,
    doer::{Build, Language},
    encode,
    limits::ARTIFACT_LEN_MAX,
    resadmin::DeployEvent,
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::DeployError;
use crate::{
    bundle::Bundle,
    elf,
    manifest::{Code, Manifest},
    service::Core,
};

/// What a Doee's binary is made from.
pub(super) struct Artifact {
    doee: String,
    content: Content,
}

enum Content {
    Source {
        language: Language,
        /// Where it lies in the project.
        folder: String,
        /// The builder may use the host's network.
        network: bool,
        /// Says that two builds give the same: language, toolchain, network, names and bytes of all files.
        key: ContentHash,
        /// The files as the builder takes them.
        files: Bytes,
    },
    Binary(Bytes),
}

/// Finds what each Doee is made from, so that a missing file fails before anything is built.
pub(super) async fn collect(
    manifest: &Manifest,
    bundle: &Bundle,
    toolchain: &str,
) -> Result<Vec<Artifact>, DeployError> {
    let mut artifacts = Vec::new();
    for doee in &manifest.doees {
        let name = doee.name.clone();
        let content = match &doee.code {
            Code::Binary { path } => {
                let missing = || DeployError::NoBinary {
                    doee: name.clone(),
                    path: path.clone(),
                };
                Content::Binary(bundle.file(path).ok_or_else(missing)?.clone())
            }
            Code::Source { language, folder } => {
                let files = bundle.folder(folder);
                if files.is_empty() {
                    return Err(DeployError::NoSource {
                        doee: name,
                        folder: folder.clone(),
                    });
                }
                source(&name, *language, folder, files, manifest.build_network, toolchain).await?
            }
        };
        artifacts.push(Artifact { doee: name, content });
    }
    Ok(artifacts)
}

async fn source(
    doee: &str,
    language: Language,
    folder: &str,
    files: Vec<(String, Bytes)>,
    network: bool,
    toolchain: &str,
) -> Result<Content, DeployError> {
    if files
        .iter()
        .map(|(path, content)| (path.len() + content.len()) as u64)
        .sum::<u64>()
        > ARTIFACT_LEN_MAX
    {
        return Err(DeployError::SourceLen {
            doee: doee.to_owned(),
        });
    }
    let (folder, toolchain) = (folder.to_owned(), toolchain.to_owned());
    // Hashing tens of megabytes would hold up everybody else's requests.
    let hashed = tokio::task::spawn_blocking(move || {
        let key = build_key(language, &files, network, &toolchain);
        let files: Vec<(String, ByteBuf)> = files
            .into_iter()
            .map(|(path, content)| (path, ByteBuf::from(content)))
            .collect();
        Content::Source {
            language,
            folder,
            network,
            key,
            files: encode(&files).into(),
        }
    });
    hashed.await.map_err(|_| DeployError::Stopped)
}

fn build_key(language: Language, files: &[(String, Bytes)], network: bool, toolchain: &str) -> ContentHash {
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(toolchain.as_bytes());
    add(&encode(&language));
    if network {
        add(b"network");
    }
    for (path, content) in files {
        add(path.as_bytes());
        add(content);
    }
    ContentHash(hasher.finalize().into())
}

impl Artifact {
    /// The recorded binary and its length: an earlier one of the same project where the source is the
    /// same, else a new one.
    pub(super) async fn binary(
        self,
        core: &Core,
        project: ProjectId,
        events: &mpsc::Sender<DeployEvent>,
    ) -> Result<(ContentHash, u64), DeployError> {
        let Artifact { doee, content } = self;
        let started = Instant::now();
        let (binary, cached, log) = match content {
            Content::Binary(file) => (store(core, &doee, file).await?, false, String::new()),
            Content::Source {
                language,
                folder,
                network,
                key,
                files,
            } => match core.store.build(project, key).await? {
                Some(binary) => (binary, true, String::new()),
                None => {
                    events
                        .send(DeployEvent::Building { doee: doee.clone() })
                        .await
                        .ok();
                    let request = Build {
                        doee: doee.clone(),
                        language,
                        folder,
                        network,
                    };
                    let built = tokio::select! {
                        built = build(core, project, &request, files.clone()) => built?,
                        () = events.closed() => return Err(DeployError::Abandoned),
                    };
                    let (file, log) = built;
                    let binary = store(core, &doee, file).await?;
                    let source = core.sources.put(files).await?;
                    core.store.add_build(project, key, source, binary.0).await?;
                    (binary, false, log)
                }
            },
        };
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        events
            .send(DeployEvent::Built {
                doee,
                cached,
                duration_ms,
                log,
            })
            .await
            .ok();
        Ok(binary)
    }
}

/// Has the Doer build. When this is dropped, the request is cancelled.
async fn build(
    core: &Core,
    project: ProjectId,
    request: &Build,
    files: Bytes,
) -> Result<(Bytes, String), DeployError> {
    let built = core.peers.build(project, request, files).await;
    let (reply, file) = built.map_err(|source| DeployError::Builder {
        doee: request.doee.clone(),
        source,
    })?;
    match reply.built {
        true => Ok((file, reply.log)),
        false => Err(DeployError::Build {
            doee: request.doee.clone(),
            log: reply.log,
        }),
    }
}

/// Puts a binary on disk, then records it.
async fn store(core: &Core, doee: &str, file: Bytes) -> Result<(ContentHash, u64), DeployError> {
    elf::check(&file).map_err(|reason| DeployError::Binary {
        doee: doee.to_owned(),
        reason,
    })?;
    let len = file.len() as u64;
    let hash = core.binaries.put(file).await?;
    core.store.add_binary(hash, len).await?;
    Ok((hash, len))
}
