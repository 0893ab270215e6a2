//! The source tree: checked paths, written below a fresh folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use isms_protocol::doer::Language;
use isms_protocol::{ErrorCode, WireError};
use serde_bytes::ByteBuf;

use crate::limits::{SOURCE_DEPTH_MAX, SOURCE_FILES_MAX, SOURCE_PATH_LEN_MAX};

/// Files as they travel: relative path, content.
pub(super) type Files = Vec<(String, ByteBuf)>;

/// The folder of the project that the tree is written to, so that the compiler names files as the project does. A name
/// that could not stand on a command line is left out; the files are then named from the tree on.
pub(super) fn folder(named: &str) -> &Path {
    Path::new(check_path(named).map_or("", |()| named))
}

/// Writes the files to `folder` below `top`, which must not exist yet. Nothing but this function writes there,
/// so no link can lead out of it.
pub(super) fn write(top: &Path, folder: &Path, files: &Files) -> Result<(), WireError> {
    if files.len() > SOURCE_FILES_MAX {
        let message = format!(
            "a Doee's folder has at most {SOURCE_FILES_MAX} files, not {}",
            files.len()
        );
        return Err(WireError::new(ErrorCode::TooLarge, message));
    }
    let internal = |path: &Path, error: io::Error| {
        WireError::new(
            ErrorCode::Internal,
            format!("cannot write {}: {error}", path.display()),
        )
    };
    fs::create_dir(top).map_err(|error| internal(top, error))?;
    let folder = top.join(folder);
    fs::create_dir_all(&folder).map_err(|error| internal(&folder, error))?;
    for (path, content) in files {
        check_path(path)?;
        let target = folder.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|_| invalid(path, "one of its folders is a file as well"))?;
        }
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(invalid(path, "it is there twice"));
            }
            opened => opened.map_err(|error| internal(&target, error))?,
        };
        file.write_all(content)
            .map_err(|error| internal(&target, error))?;
    }
    Ok(())
}

/// The files to compile, sorted.
pub(super) fn compiled(files: &Files, language: Language) -> Vec<PathBuf> {
    let endings: &[&str] = match language {
        Language::C => &["c"],
        Language::Cpp => &["cpp", "cc", "cxx", "c"],
    };
    let is_compiled = |path: &PathBuf| {
        path.extension()
            .is_some_and(|ending| endings.iter().any(|it| *it == ending))
    };
    let mut names: Vec<_> = files
        .iter()
        .map(|(path, _)| PathBuf::from(path))
        .filter(is_compiled)
        .collect();
    names.sort();
    names
}

/// Relative, of ordinary names alone, and safe to stand on a command line.
fn check_path(path: &str) -> Result<(), WireError> {
    if path.len() > SOURCE_PATH_LEN_MAX {
        return Err(invalid(
            &path[..path.floor_char_boundary(SOURCE_PATH_LEN_MAX)],
            "it is too long",
        ));
    }
    let names: Vec<_> = path.split('/').collect();
    if names.len() > SOURCE_DEPTH_MAX {
        return Err(invalid(path, "it is too deep"));
    }
    for name in names {
        if name.is_empty() || name == "." || name == ".." {
            return Err(invalid(path, "a path is relative, without . and .."));
        }
        let is_plain = |char: char| char.is_alphanumeric() || "._-+ ".contains(char);
        if !name.chars().all(is_plain) || name.starts_with('-') {
            return Err(invalid(
                path,
                "names have letters, digits, and . _ - + and blanks, and do not start with -",
            ));
        }
        // The compiler takes it, or what is in a folder of that name, for the header beside it, and unchecked: it
        // is a picture of the compiler's own memory.
        if name.ends_with(".gch") {
            return Err(invalid(path, "precompiled headers are not built from source"));
        }
    }
    Ok(())
}

fn invalid(path: &str, why: &str) -> WireError {
    WireError::new(
        ErrorCode::Invalid,
        format!("the source file {path:?} is refused: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_or_are_options_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "-o",
            "a\0b",
            "a\nb",
            "a/-x",
            "@f",
            "main.h.gch",
            "main.h.gch/any.h",
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(&"a/".repeat(20)).is_err());
        assert!(check_path(&"a".repeat(300)).is_err());
        for path in [
            "main.cpp",
            "a/b-c/d_e+f 1.hpp",
            ".clang-format",
            "größe.cpp",
            "gch",
        ] {
            assert!(check_path(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn compiled_files_are_sorted_and_of_the_language() {
        let files: Files = ["z.cpp", "a.hpp", "b/a.cpp", "c.c", "README.md"]
            .map(|it| (it.into(), ByteBuf::new()))
            .into();
        let names = |language| compiled(&files, language);
        assert_eq!(
            names(Language::Cpp),
            ["b/a.cpp", "c.c", "z.cpp"].map(PathBuf::from)
        );
        assert_eq!(names(Language::C), ["c.c"].map(PathBuf::from));
    }
}
