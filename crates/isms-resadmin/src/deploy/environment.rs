//! What the workers of each Doee consist of: the manifest's wishes against the administrator's lists and the
//! project's images, and the first start of a worker.

use std::time::Instant;

use isms_protocol::{ContentHash, ProjectId, doer::Environment, resadmin::DeployEvent};
use tokio::sync::mpsc;

use super::{DeployError, check_listener};
use crate::{
    bundle::Bundle,
    config::Config,
    images::IMAGE_KEPT_S,
    manifest::{Doee, Manifest},
    service::Core,
};

/// How an archive refers to an image that it does not hold, as Git LFS does: this, and the hash.
const REFERENCE: &str = "sha256:";

/// The environment of each Doee, as far as manifest, archive and settings tell.
pub(super) fn environments(
    manifest: &Manifest,
    bundle: &Bundle,
    config: &Config,
) -> Result<Vec<Environment>, DeployError> {
    if manifest.build_network && !config.build_network {
        return Err(DeployError::BuildNetwork);
    }
    manifest
        .doees
        .iter()
        .map(|doee| environment(doee, bundle, config))
        .collect()
}

fn environment(doee: &Doee, bundle: &Bundle, config: &Config) -> Result<Environment, DeployError> {
    let wanted = &doee.environment;
    let lists = [
        (
            "the device node",
            "device_nodes",
            &wanted.device_nodes,
            &config.device_nodes,
        ),
        (
            "the directory",
            "directories",
            &wanted.directories,
            &config.directories,
        ),
    ];
    for (kind, setting, wanted, allowed) in lists {
        let mut closed = wanted
            .iter()
            .filter(|path| !allowed.iter().any(|allowed| allowed.as_os_str() == path.as_str()));
        if let Some(path) = closed.next() {
            return Err(DeployError::Opening {
                doee: doee.name.clone(),
                kind,
                path: path.clone(),
                setting,
            });
        }
    }
    Ok(Environment {
        backend: wanted.backend,
        image: wanted
            .image
            .as_deref()
            .map(|path| image(doee, path, bundle))
            .transpose()?,
        device_nodes: wanted.device_nodes.clone(),
        directories: wanted.directories.clone(),
    })
}

/// The image that the archive refers to in the place of the file.
fn image(doee: &Doee, path: &str, bundle: &Bundle) -> Result<ContentHash, DeployError> {
    let file = bundle.file(path).ok_or_else(|| DeployError::NoImage {
        doee: doee.name.clone(),
        path: path.to_owned(),
    })?;
    let text = std::str::from_utf8(file).ok();
    let reference = text.and_then(|text| text.trim_end().strip_prefix(REFERENCE)?.parse().ok());
    reference.ok_or_else(|| DeployError::ImageReference {
        doee: doee.name.clone(),
        path: path.to_owned(),
    })
}

/// Checks that the project has its images, and that they stay while it is deployed.
pub(super) async fn check_images(
    core: &Core,
    project: ProjectId,
    manifest: &Manifest,
    environments: &[Environment],
) -> Result<(), DeployError> {
    let kept_until_s = (core.clock)().saturating_add(IMAGE_KEPT_S);
    for (doee, environment) in manifest.doees.iter().zip(environments) {
        let Some(image) = environment.image else { continue };
        if !core.store.keep_image(project, image, kept_until_s).await? {
            return Err(DeployError::ImageMissing {
                doee: doee.name.clone(),
                path: doee.environment.image.clone().unwrap_or_default(),
                image,
            });
        }
    }
    Ok(())
}

/// Has one worker started in each environment that is not the common one.
pub(super) async fn try_environments(
    core: &Core,
    project: ProjectId,
    manifest: &Manifest,
    environments: &[Environment],
    events: &mpsc::Sender<DeployEvent>,
) -> Result<(), DeployError> {
    let common = Environment::default();
    for (index, environment) in environments.iter().enumerate() {
        if *environment == common || environments[..index].contains(environment) {
            continue;
        }
        check_listener(events)?;
        let doee = manifest.doees[index].name.clone();
        let started = Instant::now();
        let tried = tokio::select! {
            tried = core.peers.try_environment(project, environment) => tried,
            () = events.closed() => return Err(DeployError::Abandoned),
        };
        tried.map_err(|source| DeployError::Try {
            doee: doee.clone(),
            source,
        })?;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        events.send(DeployEvent::Tried { doee, duration_ms }).await.ok();
    }
    Ok(())
}
