//! Where the parent groups go: reads what is mounted, and makes a parent per hierarchy.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{Controller, sweep};
use crate::linux::process;

/// Group for processes of the own v2 group, which must be empty before its children can have controllers.
const LEAF: &str = "isms-roles";

/// The parents that could be made, and why others could not.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) parents: Vec<Parent>,
    pub(super) missing: Vec<(Controller, String)>,
}

/// A group whose children are sandboxes.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) path: PathBuf,
    pub(super) controllers: Vec<Controller>,
    pub(super) unified: bool,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

impl Places {
    pub(super) fn find(data_directory: &Path) -> Self {
        let name = parent_name(data_directory);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut places = Self::default();
        // Every controller is in one hierarchy only; a v2 that lacks those of a v1 is passed over.
        for hierarchy in hierarchies(&mounts) {
            let made = if hierarchy.unified {
                make_unified(&hierarchy.mount_point, &name)
            } else {
                make_parent(hierarchy.mount_point.join(&name))
                    .map(|path| (path, hierarchy.controllers.clone()))
            };
            match made {
                Ok((_, controllers)) if controllers.is_empty() => {}
                Ok((path, controllers)) => {
                    places.parents.push(Parent {
                        path,
                        controllers,
                        unified: hierarchy.unified,
                    });
                }
                Err(error) => {
                    let reason = format!("{}: {error}", hierarchy.mount_point.display());
                    let lost = hierarchy.controllers.iter();
                    places
                        .missing
                        .extend(lost.map(|controller| (*controller, reason.clone())));
                }
            }
        }
        places
    }
}

/// The same for every start of the same data directory (FNV-1a of its path).
fn parent_name(data_directory: &Path) -> String {
    let path = fs::canonicalize(data_directory).unwrap_or_else(|_| data_directory.to_owned());
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("isms-{hash:016x}")
}

/// Reads the hierarchies that have one of our controllers from `/proc/self/mountinfo`.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    mounts.lines().filter_map(hierarchy).collect()
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = file_system.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
    let listed = match kind {
        "cgroup" => options.replace(',', " "),
        "cgroup2" => fs::read_to_string(mount_point.join("cgroup.controllers")).unwrap_or_default(),
        _ => return None,
    };
    let controllers: Vec<_> = Controller::ALL
        .into_iter()
        .filter(|ours| listed.split_whitespace().any(|name| name == ours.name()))
        .collect();
    let used = !controllers.is_empty();
    used.then_some(Hierarchy {
        mount_point,
        unified: kind == "cgroup2",
        controllers,
    })
}

fn make_parent(path: PathBuf) -> io::Result<PathBuf> {
    sweep(&path);
    fs::create_dir(&path)?;
    Ok(path)
}

/// In v2 a parent lies in the own group when that was delegated to us, else (as root) at the top.
fn make_unified(mount_point: &Path, name: &str) -> io::Result<(PathBuf, Vec<Controller>)> {
    let own = own_group(mount_point);
    let base = match own {
        Some(own) if is_delegated(&own) => own,
        _ if process::effective_uid() == 0 => mount_point.to_owned(),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "no group was delegated to this user",
            ));
        }
    };
    let available = fs::read_to_string(base.join("cgroup.controllers"))?;
    let controllers: Vec<_> = Controller::ALL
        .into_iter()
        .filter(|ours| available.split_whitespace().any(|name| name == ours.name()))
        .collect();
    enable(&base, &controllers)?;
    let parent = make_parent(base.join(name))?;
    enable(&parent, &controllers)?;
    Ok((parent, controllers))
}

/// Gives a group's children its controllers. Processes in the group itself, our own roles, move to a leaf first.
fn enable(group: &Path, controllers: &[Controller]) -> io::Result<()> {
    let names: Vec<_> = controllers
        .iter()
        .map(|controller| format!("+{}", controller.name()))
        .collect();
    let write = || fs::write(group.join("cgroup.subtree_control"), names.join(" "));
    match write() {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = group.join(LEAF);
            if !leaf.is_dir() {
                fs::create_dir(&leaf)?;
            }
            for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
                fs::write(leaf.join("cgroup.procs"), pid)?;
            }
            write()
        }
        result => result,
    }
}

/// Directory of the v2 group that this process is in; the leaf counts as its parent.
fn own_group(mount_point: &Path) -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = mount_point.join(own);
    let path = if path.ends_with(LEAF) {
        path.parent()?.to_owned()
    } else {
        path
    };
    path.is_dir().then_some(path)
}

/// Systemd marks a delegated group; an ordinary user may write to one or not.
fn is_delegated(group: &Path) -> bool {
    if process::effective_uid() != 0 {
        return fs::OpenOptions::new()
            .write(true)
            .open(group.join("cgroup.subtree_control"))
            .is_ok();
    }
    let Ok(path) = std::ffi::CString::new(group.as_os_str().as_bytes()) else {
        return false;
    };
    [c"trusted.delegate", c"user.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 4];
        // SAFETY: C strings and a writable buffer with its length.
        let len = unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        len == 1 && value[0] == b'1'
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_version_1_are_found_by_their_controllers() {
        let mounts = "\
30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
33 23 0:29 / /proc rw,relatime - proc proc rw
garbage";
        let separate = |path: &str, controller| Hierarchy {
            mount_point: path.into(),
            unified: false,
            controllers: vec![controller],
        };
        assert_eq!(
            hierarchies(mounts),
            [
                separate("/sys/fs/cgroup/memory", Controller::Memory),
                separate("/sys/fs/cgroup/cpu,cpuacct", Controller::Cpu),
            ]
        );
    }

    #[test]
    fn a_data_directory_has_one_name_and_others_have_others() {
        assert_eq!(
            parent_name(Path::new("/nowhere/a")),
            parent_name(Path::new("/nowhere/a"))
        );
        assert_ne!(
            parent_name(Path::new("/nowhere/a")),
            parent_name(Path::new("/nowhere/b"))
        );
        assert_eq!(parent_name(Path::new("/nowhere/a")).len(), "isms-".len() + 16);
    }
}
