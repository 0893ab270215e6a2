//! What the spawner makes before it can start anything: a mount namespace of its own, templates, the place of images.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::{config::SpawnerConfig, error::RunError, images::Images};
use crate::native::{Cgroups, Controller, Ingredients, Native, NativeError, own_mounts};

/// Stages the templates and prepares what all sandboxes share.
pub(super) fn stage(
    config: &SpawnerConfig,
    cgroups: &Cgroups,
    templates: &Path,
    privileged: bool,
) -> Result<(Native, Images), RunError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| RunError::Directory { path, source }
    };
    // First of all: the roots of sandboxes are looked up in it. What is mounted later is the spawner's alone.
    let mounts = own_mounts();
    let _ = fs::remove_dir_all(templates);
    let made = DirBuilder::new().mode(0o755).recursive(true).create(templates);
    made.map_err(at(templates))?;
    let ingredients = Ingredients {
        templates,
        executor: &config.executor,
        builder: &config.builder,
        sdk_include: &config.sdk_include,
        worker_maxima: &config.worker_maxima,
        builder_maxima: &config.builder_maxima,
        builder_network: config.builder_network,
        memory_by_cgroup: cgroups.has(Controller::Memory),
    };
    let native = Native::new(&ingredients)?;
    let images = config.run_directory.join("images");
    let roots = match mounts {
        Ok(()) => {
            let roots = native.image_roots(&ingredients, &images);
            Ok(roots.map_err(NativeError::Stage)?)
        }
        Err(_) if !privileged => Err("only root can make a root of an image; \
             start the platform as root, or use `isolation = \"apptainer\"`"
            .to_owned()),
        Err(error) => Err(format!(
            "cannot make a root of an image, for want of a mount namespace of its own: {error}"
        )),
    };
    let images = Images::new(config.images.clone(), images.clone(), config.image_len_max, roots)
        .map_err(at(&images))?;
    Ok((native, images))
}
