//! Which databases exist and which are open.
//!
//! One file per project and name: `DIR/PROJECT_ID/NAME.sqlite`. Opening one database never waits for
//! another; the lock guards the map alone.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use isms_protocol::ProjectId;
use tokio::sync::OnceCell;

use crate::{
    config::Config,
    database::{Database, Mode},
    error::DatabaseError,
};

/// A database as it is used: the file stays open at least as long as this.
pub(crate) type Slot = Arc<OnceCell<Database>>;

type Key = (ProjectId, String);

/// The open databases.
pub(crate) struct Registry {
    config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    dropping: HashSet<ProjectId>,
}

struct Entry {
    slot: Slot,
    used: Instant,
}

impl Registry {
    pub(crate) fn new(config: Config) -> Registry {
        Registry {
            config,
            state: Mutex::default(),
        }
    }

    /// A database, opened if it is not. The name has been validated.
    pub(crate) async fn open(
        &self,
        project: ProjectId,
        name: &str,
        mode: Mode,
    ) -> Result<Slot, DatabaseError> {
        let path = self.path(project, name);
        if mode == Mode::Write && !path.exists() {
            return Err(DatabaseError::NotFound {
                database: name.to_owned(),
            });
        }
        let key = (project, name.to_owned());
        let (slot, victim) = self.reserve(&key)?;
        close(victim).await;
        let opened = slot
            .get_or_try_init(|| self.open_file(project, &path, mode))
            .await;
        match opened {
            Ok(_) => Ok(slot),
            Err(error) => {
                self.forget(&key, &slot);
                Err(error)
            }
        }
    }

    /// Closes a database as soon as nobody uses it.
    pub(crate) fn discard(&self, project: ProjectId, name: &str) {
        self.state().entries.remove(&(project, name.to_owned()));
    }

    /// Closes what has been idle for the configured time.
    pub(crate) async fn close_idle(&self, now: Instant) {
        let idle = Duration::from_secs(self.config.idle_close_s.into());
        let victims: Vec<Slot> = {
            let mut state = self.state();
            state
                .entries
                .extract_if(|_, entry| is_unused(&entry.slot) && now.duration_since(entry.used) >= idle)
                .map(|(_, entry)| entry.slot)
                .collect()
        };
        for victim in victims {
            close(Some(victim)).await;
        }
    }

    /// Closes everything.
    pub(crate) async fn close_all(&self) {
        let entries: Vec<Entry> = self.state().entries.drain().map(|(_, entry)| entry).collect();
        for entry in entries {
            close(Some(entry.slot)).await;
        }
    }

    /// Deletes all databases of a project; nothing is left to delete the second time.
    pub(crate) async fn drop_project(&self, project: ProjectId) -> Result<(), DatabaseError> {
        let slots: Vec<Slot> = {
            let mut state = self.state();
            state.dropping.insert(project);
            state
                .entries
                .extract_if(|key, _| key.0 == project)
                .map(|(_, entry)| entry.slot)
                .collect()
        };
        for slot in slots {
            close(Some(slot)).await;
        }
        let directory = self.directory(project);
        let removed = blocking(move || match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await;
        self.state().dropping.remove(&project);
        removed
    }

    fn reserve(&self, key: &Key) -> Result<(Slot, Option<Slot>), DatabaseError> {
        let mut state = self.state();
        if state.dropping.contains(&key.0) {
            return Err(DatabaseError::NotFound {
                database: key.1.clone(),
            });
        }
        if let Some(entry) = state.entries.get_mut(key)
            && entry.slot.get().is_none_or(Database::is_open)
        {
            entry.used = Instant::now();
            return Ok((entry.slot.clone(), None));
        }
        state.entries.remove(key);
        let open = state.entries.len();
        let victim = match open >= self.config.open_databases_max {
            true => Some(take_least_used(&mut state.entries).ok_or(DatabaseError::TooManyOpen { open })?),
            false => None,
        };
        let slot = Slot::default();
        state.entries.insert(
            key.clone(),
            Entry {
                slot: slot.clone(),
                used: Instant::now(),
            },
        );
        Ok((slot, victim))
    }

    async fn open_file(
        &self,
        project: ProjectId,
        path: &Path,
        mode: Mode,
    ) -> Result<Database, DatabaseError> {
        let directory = self.directory(project);
        if mode == Mode::Create {
            let directory = directory.clone();
            blocking(move || {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
            })
            .await?;
        }
        let (readers, heap) = (self.config.readers_per_database, self.config.heap_mb_max);
        let database = Database::open(path, mode, readers, heap, Arc::default()).await?;
        if mode == Mode::Create {
            let parent = self.config.directory.clone();
            blocking(move || {
                fs::File::open(directory)?.sync_all()?;
                fs::File::open(parent)?.sync_all()
            })
            .await?;
        }
        Ok(database)
    }

    fn forget(&self, key: &Key, slot: &Slot) {
        let mut state = self.state();
        if state
            .entries
            .get(key)
            .is_some_and(|entry| Arc::ptr_eq(&entry.slot, slot) && slot.get().is_none())
        {
            state.entries.remove(key);
        }
    }

    fn directory(&self, project: ProjectId) -> PathBuf {
        self.config.directory.join(project.to_string())
    }

    fn path(&self, project: ProjectId, name: &str) -> PathBuf {
        self.directory(project).join(format!("{name}.sqlite"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unused(slot: &Slot) -> bool {
    Arc::strong_count(slot) == 1
}

fn take_least_used(entries: &mut HashMap<Key, Entry>) -> Option<Slot> {
    let unused = entries.iter().filter(|(_, entry)| is_unused(&entry.slot));
    let key = unused
        .min_by_key(|(_, entry)| entry.used)
        .map(|(key, _)| key.clone())?;
    entries.remove(&key).map(|entry| entry.slot)
}

/// Closes a database that nobody else uses; else its last user does by dropping it.
async fn close(slot: Option<Slot>) {
    if let Some(database) = slot.and_then(Arc::into_inner).and_then(OnceCell::into_inner) {
        database.close().await;
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), DatabaseError> {
    let fail = |message: String| DatabaseError::Open { message };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| fail(error.to_string())),
        Err(error) => Err(fail(error.to_string())),
    }
}
