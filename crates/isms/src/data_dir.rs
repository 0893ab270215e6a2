//! The data directory: who owns what in it, and that only one platform uses it at a time.
//!
//! `DIR/{kernel,resadmin,dbriver,commserver,gate,doer}` belong to their roles, each with a format
//! version; `DIR/run` holds sockets and the template root, and is made anew at each start.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Seek, Write},
    ops::Range,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use isms_protocol::{Service, TokenHash};
use rustix::fs::{FlockOperation, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::users::Users;

/// Version of the directory's layout; a newer one is refused.
const FORMAT: u32 = 1;
/// Incarnation numbers reserved at once, so that a restart of a role writes nothing.
const INCARNATION_BLOCK: u32 = 1000;
/// Holds the version of the layout.
pub(crate) const FORMAT_FILE: &str = "format";
/// Name of the file with the administrator's token.
pub(crate) const ADMIN_TOKEN_FILE: &str = "admin.token";
/// Name of the file with the management API's address.
pub(crate) const GATE_ADDRESS_FILE: &str = "run/gate.address";
const LOCK_FILE: &str = "lock";

/// An opened data directory. The lock is held as long as this lives.
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Creates what is missing, takes the lock and empties `run`.
    pub(crate) fn open(path: &Path, users: &Users) -> Result<DataDir> {
        fs::create_dir_all(path).with_context(|| {
            format!(
                "cannot create the data directory {}; name another with --data DIR",
                path.display()
            )
        })?;
        // Others may pass through to what they own, and list nothing.
        fs::set_permissions(path, Permissions::from_mode(0o711))
            .with_context(|| format!("the data directory {} is not ours to set up", path.display()))?;
        let lock = take_lock(path)?;
        let dir = DataDir {
            path: path.to_owned(),
            lock,
        };
        dir.check_format()?;
        if users.of(Service::Kernel).is_some() {
            check_passage(path)?;
        }
        for service in Service::REGISTERED.into_iter().chain([Service::Kernel]) {
            dir.make_private(service.name(), users.of(service))?;
        }
        dir.remake_run(users)?;
        Ok(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A role's own folder.
    pub(crate) fn of(&self, service: Service) -> PathBuf {
        self.path.join(service.name())
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// The images that Resadmin keeps and the spawner makes roots of.
    pub(crate) fn images(&self) -> PathBuf {
        self.path.join("resadmin/images")
    }

    /// Reserves a block of incarnation numbers, durably.
    pub(crate) fn reserve_incarnations(&self) -> Result<Range<u32>> {
        let path = self.path.join("incarnation");
        let next: u32 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| {
                format!(
                    "{} does not hold a number; restore it from a backup",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 1,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let reserved = next
            .checked_add(INCARNATION_BLOCK)
            .context("incarnation numbers are used up")?;
        write_durably(&path, format!("{reserved}\n").as_bytes(), 0o600)?;
        Ok(next..reserved)
    }

    /// The hash of the administrator's token; the first start makes the token.
    pub(crate) fn admin_token_hash(&self) -> Result<TokenHash> {
        let path = self.path.join(ADMIN_TOKEN_FILE);
        let token = match fs::read_to_string(&path) {
            Ok(token) => token.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let token = format!("isms_{}", hex(&random_bytes()?));
                write_durably(&path, format!("{token}\n").as_bytes(), 0o600)?;
                token
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(TokenHash(Sha256::digest(token).into()))
    }

    /// Lets `isms down` find the supervisor.
    pub(crate) fn record_supervisor(&mut self) -> Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        writeln!(self.lock, "{}", std::process::id()).context("cannot write the lock file")
    }

    fn check_format(&self) -> Result<()> {
        let path = self.path.join(FORMAT_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(FORMAT) => Ok(()),
                Ok(newer) if newer > FORMAT => bail!(
                    "{} has format {newer}, this version of isms reads up to {FORMAT}; use a newer isms",
                    self.path.display()
                ),
                _ => bail!("{} holds {text:?} instead of a format version", path.display()),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_durably(&path, format!("{FORMAT}\n").as_bytes(), 0o644)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A folder that one role alone may enter.
    fn make_private(&self, name: &str, owner: Option<(u32, u32)>) -> Result<()> {
        let path = self.path.join(name);
        let context = || format!("cannot set up {}", path.display());
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(context);
            }
            _ => {}
        }
        // Opened without following links: whoever owned the folder before must not redirect the change.
        let folder = rustix::fs::open(
            &path,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
        )
        .with_context(context)?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(&folder, Some(uid), Some(gid)).with_context(context)?;
        }
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o700)).with_context(context)
    }

    fn remake_run(&self, users: &Users) -> Result<()> {
        let run = self.run();
        match fs::remove_dir_all(&run) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", run.display()));
            }
            _ => {}
        }
        fs::create_dir(&run).with_context(|| format!("cannot create {}", run.display()))?;
        fs::set_permissions(&run, Permissions::from_mode(0o710))?;
        users.give_to_group(&run)
    }
}

/// Roles with uids of their own must be able to pass through every folder above what they own.
fn check_passage(path: &Path) -> Result<()> {
    for folder in path.ancestors() {
        let mode = fs::metadata(folder)
            .with_context(|| format!("cannot look at {}", folder.display()))?
            .permissions()
            .mode();
        if mode & 0o001 == 0 {
            bail!(
                "the roles' own users cannot pass through {}: allow it with `chmod o+x {}`, or name another \
                 folder with --data DIR",
                folder.display(),
                folder.display()
            );
        }
    }
    Ok(())
}

/// Takes the lock, or says who has it.
fn take_lock(path: &Path) -> Result<File> {
    let path = path.join(LOCK_FILE);
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}; is the data directory writable?", path.display()))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "another isms (process {}) uses {}; stop it with `isms down`, or name another folder with --data DIR",
            read_pid(&lock).map_or("unknown".to_owned(), |pid| pid.to_string()),
            path.parent().unwrap_or(&path).display()
        );
    }
    Ok(lock)
}

/// The supervisor that holds a data directory's lock, if one runs.
pub(crate) fn running_supervisor(data: &Path) -> Result<Option<(u32, File)>> {
    let path = data.join(LOCK_FILE);
    let lock = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(None);
    }
    let pid =
        read_pid(&lock).with_context(|| format!("{} names no process yet; try again", path.display()))?;
    Ok(Some((pid, lock)))
}

fn read_pid(mut lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Writes a small file so that after a power loss it is there whole, or the old one is.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let context = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .with_context(context)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(context)?;
    fs::rename(&temporary, path).with_context(context)?;
    let parent = path.parent().expect("the file lies in a folder");
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .with_context(context)
}

/// 256 random bits of the operating system.
pub(crate) fn random_bytes() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .context("the operating system gives no random bytes")?;
    anyhow::ensure!(
        filled == bytes.len(),
        "the operating system gave too few random bytes"
    );
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<DataDir> {
        DataDir::open(path, &Users::shared())
    }

    #[test]
    fn a_second_platform_on_the_same_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = open(folder.path()).unwrap();
        first.record_supervisor().unwrap();
        let error = open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(running_supervisor(folder.path()).unwrap().is_some());
        drop(first);
        assert!(running_supervisor(folder.path()).unwrap().is_none());
        open(folder.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("format"), "2\n").unwrap();
        let error = open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("has format 2"), "{error}");
    }

    #[test]
    fn incarnations_are_never_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open(folder.path()).unwrap();
        let first = dir.reserve_incarnations().unwrap();
        assert_eq!(first, 1..1 + INCARNATION_BLOCK);
        assert_eq!(dir.reserve_incarnations().unwrap().start, first.end);
    }

    #[test]
    fn the_administrators_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open(folder.path()).unwrap();
        let hash = dir.admin_token_hash().unwrap();
        assert_eq!(dir.admin_token_hash().unwrap(), hash);
        let mode = fs::metadata(folder.path().join(ADMIN_TOKEN_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_that_roles_cannot_pass_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("data");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let error = check_passage(&inner).unwrap_err().to_string();
        assert!(
            error.contains(&format!("chmod o+x {}", folder.path().display())),
            "{error}"
        );
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o711)).unwrap();
        check_passage(&inner).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_names_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = open(&folder.path().join("file/data")).err().unwrap().to_string();
        assert!(error.contains("--data DIR"), "{error}");
    }
}
