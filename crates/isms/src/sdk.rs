//! What `isms` carries with it, so that `isms new` and builds work where no repository is: the SDK's
//! headers and the templates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

macro_rules! embedded {
    ($root:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), $root, $path)))),*]
    };
}

/// Files of a template: path and content; `{{name}}` in either stands for the project's name.
type Files = &'static [(&'static str, &'static str)];

/// `isms new --lang cpp`.
pub(crate) const CPP_TEMPLATE: Files =
    embedded!("/templates/cpp/": "project.toml", "README.md", "doees/hello/hello.cpp");
/// `isms new --lang c`.
pub(crate) const C_TEMPLATE: Files =
    embedded!("/templates/c/": "project.toml", "README.md", "doees/hello/hello.c");

const C_HEADERS: Files =
    embedded!("/../../sdk/c/include/": "isms_doee.h", "isms_doee_call.h", "isms_doee_http.h");
const CPP_HEADERS: Files =
    embedded!("/../../sdk/cpp/include/": "isms/call.hpp", "isms/doee.hpp", "isms/http.hpp", "isms/json.hpp");

/// Writes the headers below a folder, for the builders; returns the include directory.
pub(crate) fn write_headers(folder: &Path) -> Result<PathBuf> {
    let include = folder.join("sdk/include");
    for (path, content) in C_HEADERS.iter().chain(CPP_HEADERS) {
        let path = include.join(path);
        let parent = path.parent().expect("a header lies in the include directory");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(include)
}
