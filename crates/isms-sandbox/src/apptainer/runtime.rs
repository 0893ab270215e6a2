//! Finds the container runtime, in system directories only: whoever could put a program there is root already.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where packages of distributions and an installation by hand put programs.
const DIRECTORIES: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
/// In order of preference.
const NAMES: [&str; 2] = ["apptainer", "singularity"];

/// Permission to write, for others than the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An installed container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Its program, with no link in the path.
    pub(crate) program: PathBuf,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error("neither apptainer nor singularity is installed in /usr/bin or /usr/local/bin")]
    Absent,
    #[error("{path} does not belong to root, or others may write to it or to a directory above it")]
    Writable { path: PathBuf },
}

impl Runtime {
    pub(crate) fn find() -> Result<Self, RuntimeError> {
        let places = NAMES
            .iter()
            .flat_map(|name| DIRECTORIES.map(|directory| Path::new(directory).join(name)));
        Self::find_in(places, 0)
    }

    /// The first of `places` that there is; it must belong to `owner`, who is root except in tests.
    fn find_in(places: impl Iterator<Item = PathBuf>, owner: u32) -> Result<Self, RuntimeError> {
        let program = places
            .filter_map(|place| fs::canonicalize(place).ok())
            .find(|program| program.is_file())
            .ok_or(RuntimeError::Absent)?;
        let safe = |metadata: Metadata| metadata.uid() == owner && metadata.mode() & WRITABLE_BY_OTHERS == 0;
        let trusted = program
            .ancestors()
            .all(|path| fs::symlink_metadata(path).is_ok_and(safe));
        if trusted {
            Ok(Self { program })
        } else {
            Err(RuntimeError::Writable { path: program })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{iter, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn where_none_is_installed_it_says_so() {
        let nowhere = iter::once(PathBuf::from("/nowhere/apptainer"));
        assert_eq!(Runtime::find_in(nowhere, 0), Err(RuntimeError::Absent));
    }

    #[test]
    fn singularity_is_taken_where_only_that_is() {
        // A program of root's that every system has plays it.
        let places = ["/nowhere/apptainer", "/usr/bin/env"].map(PathBuf::from);
        let found = Runtime::find_in(places.into_iter(), 0).unwrap();
        assert_eq!(found.program, fs::canonicalize("/usr/bin/env").unwrap());
    }

    #[test]
    fn a_program_that_others_can_change_is_refused() {
        let directory = std::env::temp_dir().join(format!("isms-runtime-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let program = directory.join("apptainer");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // Below a directory in which everybody may rename things.
        let found = Runtime::find_in(iter::once(program.clone()), 0);
        fs::remove_dir_all(&directory).unwrap();
        let path = fs::canonicalize(std::env::temp_dir())
            .unwrap()
            .join(program.strip_prefix(std::env::temp_dir()).unwrap());
        assert_eq!(found, Err(RuntimeError::Writable { path }));
    }
}
