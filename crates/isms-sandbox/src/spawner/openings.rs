//! The administrator's lists of device nodes and directories: what an index in a request stands for.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{
    config::SpawnerConfig,
    environment::{HOLES_MAX, Holes},
};
use crate::native::{Opening, Openings};

/// The lists, each entry with its name inside, or why it cannot be used.
#[derive(Debug)]
pub(super) struct Allowed {
    devices: Vec<Result<Opening, String>>,
    directories: Vec<Result<Opening, String>>,
    network: bool,
}

impl Allowed {
    pub(super) fn new(config: &SpawnerConfig) -> Self {
        Self {
            devices: entries(&config.device_nodes),
            directories: entries(&config.directories),
            network: config.builder_network,
        }
    }

    /// What was asked for, or which part of it is not allowed.
    pub(super) fn grant(&self, holes: &Holes) -> Result<Openings, String> {
        if holes.network && !self.network {
            return Err("builders have no network here; the administrator can allow it".to_owned());
        }
        Ok(Openings {
            devices: chosen(&self.devices, holes.devices, "device node")?,
            directories: chosen(&self.directories, holes.directories, "directory")?,
            network: holes.network,
        })
    }
}

fn entries(paths: &[PathBuf]) -> Vec<Result<Opening, String>> {
    (0..paths.len().min(HOLES_MAX))
        .map(|index| entry(paths, index))
        .collect()
}

/// An entry goes by the last part of its path, so no two of a list may have the same.
fn entry(paths: &[PathBuf], index: usize) -> Result<Opening, String> {
    let source = &paths[index];
    let name = source.file_name().filter(|_| source.is_absolute());
    let name = name.ok_or_else(|| format!("{} is no absolute path with a name", source.display()))?;
    let is_twin = |other: &Path| other.file_name() == Some(name);
    if paths
        .iter()
        .enumerate()
        .any(|(at, other)| at != index && is_twin(other))
    {
        return Err(format!(
            "two entries of the administrator's list are called {}; rename one, or list a link to it",
            OsStr::display(name)
        ));
    }
    Ok(Opening {
        source: source.clone(),
        name: name.to_owned(),
    })
}

fn chosen(
    entries: &[Result<Opening, String>],
    indexes: u64,
    what: &'static str,
) -> Result<Vec<Opening>, String> {
    (0..HOLES_MAX)
        .filter(|index| indexes & (1 << index) != 0)
        .map(|index| match entries.get(index) {
            Some(entry) => entry.clone(),
            None => Err(format!("the administrator allows no {what} number {index}")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(devices: &[&str], directories: &[&str]) -> Allowed {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        Allowed {
            devices: entries(&paths(devices)),
            directories: entries(&paths(directories)),
            network: false,
        }
    }

    fn holes(devices: u64, directories: u64) -> Holes {
        Holes {
            devices,
            directories,
            network: false,
        }
    }

    #[test]
    fn an_index_stands_for_an_entry_under_its_own_name_and_nothing_else() {
        let allowed = allowed(&["/dev/ttyUSB0", "/dev/ttyUSB1"], &["/srv/models"]);
        let openings = allowed.grant(&holes(0b10, 0b1)).unwrap();
        let opening = |source: &str, name: &str| Opening {
            source: source.into(),
            name: name.into(),
        };
        assert_eq!(openings.devices, [opening("/dev/ttyUSB1", "ttyUSB1")]);
        assert_eq!(openings.directories, [opening("/srv/models", "models")]);
        let none = allowed.grant(&Holes::default()).unwrap();
        assert!(!none.has_mounts() && !none.network);
    }

    #[test]
    fn an_index_beyond_the_list_is_refused_even_beside_a_good_one() {
        let allowed = allowed(&["/dev/ttyUSB0"], &[]);
        let refused = |devices, directories| allowed.grant(&holes(devices, directories)).unwrap_err();
        assert!(refused(0b11, 0).contains("no device node number 1"));
        assert!(refused(1 << 63, 0).contains("no device node number 63"));
        assert!(refused(1, 1).contains("no directory number 0"));
    }

    #[test]
    fn entries_without_a_name_or_with_the_same_one_are_refused_when_asked_for() {
        let allowed = allowed(&[], &["/srv/a/models", "/srv/b/models", "/", "models", "/srv/.."]);
        let refused = |index: u32| allowed.grant(&holes(0, 1 << index)).unwrap_err();
        assert!(refused(0).contains("two entries"));
        assert!(refused(1).contains("two entries"));
        assert!(refused(2).contains("no absolute path"));
        assert!(refused(4).contains("no absolute path"));
    }

    #[test]
    fn the_network_is_refused_where_it_is_not_allowed() {
        let mut allowed = allowed(&[], &[]);
        let holes = Holes {
            network: true,
            ..Holes::default()
        };
        assert!(allowed.grant(&holes).unwrap_err().contains("no network"));
        allowed.network = true;
        assert!(allowed.grant(&holes).unwrap().network);
    }
}
