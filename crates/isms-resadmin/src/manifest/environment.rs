//! What the workers of a Doee consist of: isolation, image, and openings in their walls.
//!
//! The manifest asks; the administrator's lists decide, at deployment and again when a worker starts.

use isms_protocol::{doer::Backend, limits::OPENINGS_MAX};

use super::{
    ManifestError,
    reader::{Item, Section},
};

const BACKENDS: [(&str, Backend); 2] = [("native", Backend::Native), ("apptainer", Backend::Apptainer)];

/// What a Doee's workers consist of, with the image by its path in the project's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) backend: Backend,
    pub(crate) image: Option<String>,
    /// Absolute paths in order, each once, so that equal wishes are equal.
    pub(crate) device_nodes: Vec<String>,
    /// The same.
    pub(crate) directories: Vec<String>,
}

/// Reads `isolation` and `image` of a Doee, and its openings out of `allow`.
pub(super) fn environment(
    doee: &Section<'_>,
    allow: Option<&Section<'_>>,
) -> Result<Environment, ManifestError> {
    let backend = match doee.optional("isolation") {
        Some(item) => item.one_of(&BACKENDS, &[])?,
        None => Backend::Native,
    };
    let image = doee.optional("image").map(|item| item.path()).transpose()?;
    if backend == Backend::Apptainer && image.is_none() {
        let message = "is \"apptainer\", which runs an image; name its file or folder with image";
        return Err(doee.error("isolation", message));
    }
    let openings = |key: &str, below: &str| match allow.and_then(|allow| allow.optional(key)) {
        Some(item) => paths(&item, below),
        None => Ok(Vec::new()),
    };
    Ok(Environment {
        backend,
        image,
        device_nodes: openings("device_nodes", "/dev/")?,
        directories: openings("directories", "/")?,
    })
}

fn paths(list: &Item<'_>, below: &str) -> Result<Vec<String>, ManifestError> {
    let items = list.array()?;
    if items.len() > OPENINGS_MAX {
        return Err(list.error(&format!(
            "has {} entries; allowed: at most {OPENINGS_MAX}",
            items.len()
        )));
    }
    let mut paths = items
        .iter()
        .map(|item| item.host_path(below))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}
