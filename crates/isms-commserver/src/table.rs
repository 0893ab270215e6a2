//! The routes of all projects, as far as this process knows them.
//!
//! Two sources feed the table: deployments push (`set-routes`), and after each registration all
//! routes are pulled from Resadmin. A pull takes a while, so what was pushed meanwhile is newer than
//! what the pull brings and wins.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use isms_protocol::{ErrorCode, ProjectId, WireError, commserver::ProjectRoutes, limits::NAME_LEN_MAX};

use crate::router::Router;

/// Projects of one platform.
pub(crate) const PROJECTS_MAX: usize = 10_000;

/// The routes of all projects.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    projects: HashMap<String, Arc<ProjectEntry>>,
    /// Pushed since the last pull began.
    pushed: HashSet<ProjectId>,
    /// A pull has ended: what is not here does not exist.
    complete: bool,
}

/// The routes of one project.
#[derive(Debug)]
pub(crate) struct ProjectEntry {
    /// Which project.
    pub(crate) project: ProjectId,
    revision: u64,
    /// The routes.
    pub(crate) router: Router,
}

/// What the table knows of a name.
pub(crate) enum Lookup {
    /// This project.
    Project(Arc<ProjectEntry>),
    /// No project has this name.
    Unknown,
    /// Nothing yet: the routes have not been pulled.
    NotLoaded,
}

impl RouteTable {
    /// Looks a project up by name.
    pub(crate) fn lookup(&self, name: &str) -> Lookup {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        match inner.projects.get(name) {
            Some(entry) => Lookup::Project(entry.clone()),
            None if inner.complete => Lookup::Unknown,
            None => Lookup::NotLoaded,
        }
    }

    /// Takes routes that a deployment pushed; an older revision than the known one is ignored.
    pub(crate) fn push(&self, routes: &ProjectRoutes) -> Result<(), WireError> {
        let entry = build(routes)?;
        let mut inner = self.write();
        inner.pushed.insert(routes.project);
        inner.replace(routes, entry)
    }

    /// Begins a pull: from now on pushes are remembered.
    pub(crate) fn begin_pull(&self) {
        self.write().pushed.clear();
    }

    /// Takes routes that a pull brought, unless a push brought newer ones meanwhile.
    pub(crate) fn pulled(&self, routes: &ProjectRoutes) -> Result<(), WireError> {
        let entry = build(routes)?;
        let mut inner = self.write();
        if inner.pushed.contains(&routes.project) {
            return Ok(());
        }
        inner.replace(routes, entry)
    }

    /// Ends a pull that found exactly these projects: the others are forgotten.
    pub(crate) fn end_pull(&self, found: &HashSet<ProjectId>) {
        let mut inner = self.write();
        let Inner {
            projects,
            pushed,
            complete,
        } = &mut *inner;
        projects.retain(|_, entry| found.contains(&entry.project) || pushed.contains(&entry.project));
        *complete = true;
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        // Every statement leaves the table valid, so a panic elsewhere cannot have broken it.
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn replace(&mut self, routes: &ProjectRoutes, entry: Option<ProjectEntry>) -> Result<(), WireError> {
        let known = self
            .projects
            .values()
            .find(|known| known.project == routes.project);
        if known.is_some_and(|known| known.revision > routes.revision) {
            return Ok(());
        }
        if known.is_none() && entry.is_some() && self.projects.len() >= PROJECTS_MAX {
            let message = format!("commserver holds routes of at most {PROJECTS_MAX} projects");
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        self.projects.retain(|_, known| known.project != routes.project);
        if let Some(entry) = entry {
            self.projects.insert(routes.name.clone(), Arc::new(entry));
        }
        Ok(())
    }
}

/// Checks routes and builds their entry; `None` when the project has none.
fn build(routes: &ProjectRoutes) -> Result<Option<ProjectEntry>, WireError> {
    let invalid = |message: String| WireError::new(ErrorCode::Invalid, message);
    if !is_name(&routes.name) {
        return Err(invalid(format!(
            "`{}` is not a project's name",
            routes.name.escape_debug()
        )));
    }
    if routes.routes.is_empty() {
        return Ok(None);
    }
    let router = Router::build(routes).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(ProjectEntry {
        project: routes.project,
        revision: routes.revision,
        router,
    }))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NAME_LEN_MAX
        && bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use isms_protocol::{
        Class, DoeeVersion,
        commserver::{Auth, HttpRoute},
    };

    use super::*;

    fn routes(project: ProjectId, name: &str, revision: u64, paths: &[&str]) -> ProjectRoutes {
        let route = |path: &&str| HttpRoute {
            method: "GET".into(),
            path: (*path).into(),
            auth: Auth::None,
            doee: "d".into(),
            version: DoeeVersion::generate(),
            class: Class::Normal,
            deadline_ms: 1,
            body_len_max: 0,
        };
        ProjectRoutes {
            project,
            name: name.into(),
            revision,
            routes: paths.iter().map(route).collect(),
        }
    }

    fn revision(table: &RouteTable, name: &str) -> Option<u64> {
        match table.lookup(name) {
            Lookup::Project(entry) => Some(entry.revision),
            Lookup::Unknown | Lookup::NotLoaded => None,
        }
    }

    #[test]
    fn an_older_revision_is_ignored_and_an_empty_one_forgets_the_project() {
        let (table, id) = (RouteTable::default(), ProjectId::generate());
        table.push(&routes(id, "p", 5, &["/"])).expect("taken");
        table.push(&routes(id, "p", 4, &["/a"])).expect("ignored");
        assert_eq!(revision(&table, "p"), Some(5));
        table.push(&routes(id, "p", 6, &[])).expect("taken");
        assert_eq!(revision(&table, "p"), None);
    }

    #[test]
    fn what_is_pushed_during_a_pull_survives_it() {
        let (table, old, new, gone) = (
            RouteTable::default(),
            ProjectId::generate(),
            ProjectId::generate(),
            ProjectId::generate(),
        );
        table.push(&routes(gone, "gone", 1, &["/"])).expect("taken");
        table.begin_pull();
        table.push(&routes(new, "new", 1, &["/"])).expect("taken");
        table.push(&routes(old, "old", 9, &[])).expect("taken");
        table.pulled(&routes(old, "old", 8, &["/"])).expect("ignored");
        table.end_pull(&HashSet::from([old]));
        let found = ["old", "new", "gone"].map(|name| revision(&table, name));
        assert_eq!(found, [None, Some(1), None]);
    }

    #[test]
    fn before_the_first_pull_nothing_is_known_to_be_missing() {
        let table = RouteTable::default();
        assert!(matches!(table.lookup("p"), Lookup::NotLoaded));
        table.begin_pull();
        table.end_pull(&HashSet::new());
        assert!(matches!(table.lookup("p"), Lookup::Unknown));
    }

    #[test]
    fn malformed_routes_leave_the_old_ones() {
        let (table, id) = (RouteTable::default(), ProjectId::generate());
        table.push(&routes(id, "p", 1, &["/"])).expect("taken");
        let error = table
            .push(&routes(id, "p", 2, &["no-slash"]))
            .expect_err("refused");
        assert_eq!(error.code, ErrorCode::Invalid);
        let error = table.push(&routes(id, "P/..", 2, &["/"])).expect_err("refused");
        assert_eq!(error.code, ErrorCode::Invalid);
        assert_eq!(revision(&table, "p"), Some(1));
    }
}
