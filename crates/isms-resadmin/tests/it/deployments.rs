//! From an archive to a project that serves, and back when something fails.

use std::{sync::Arc, time::Duration};

use isms_protocol::{
    DoeeVersion, ErrorCode, Header, ProjectId, Service as Role,
    commserver::{Auth, HttpRoute, ProjectRoutes},
    dbriver::Grants,
    decode,
    doer::DoeeSpec,
    resadmin::{DeployEvent, Kept, Operation, Projects},
};
use tokio::sync::Notify;

use crate::harness::{Harness, all, header, of_version, shared_object};

const MANIFEST: &[u8] = br#"
[project]
name = "shop"
[doee.ask]
language = "c"
source = "doees/ask"
allow = { sql = ["stock"], http = ["api.example.com:443"] }
params = { limit = 3 }
[doee.put]
language = "cpp"
source = "doees/put"
class = "high"
deadline_ms = 900
[[trigger]]
http = "GET /things/{id}"
auth = "none"
doee = "ask"
[[trigger]]
http = "PUT /things/{id}"
auth = "token"
doee = "put"
[database.stock]
kind = "sql"
migrations = "sql"
disk_mb = 8
"#;

const FILES: &[(&str, &[u8])] = &[
    ("project.toml", MANIFEST),
    ("doees/ask/ask.c", b"int ask;"),
    ("doees/put/put.cpp", b"int put;"),
    ("doees/put/put.hpp", b"int hpp;"),
    ("sql/2.sql", b"SELECT 2;"),
    ("sql/1.sql", b"SELECT 1;"),
    ("sql/notes.txt", b"not a migration"),
];

fn with<'a>(path: &'a str, content: &'a [u8]) -> Vec<(&'a str, &'a [u8])> {
    let others = FILES.iter().copied().filter(|(known, _)| *known != path);
    others.chain([(path, content)]).collect()
}

fn versions(routes: &ProjectRoutes) -> Vec<DoeeVersion> {
    routes.routes.iter().map(|route| route.version).collect()
}

fn last_routes(harness: &Harness) -> ProjectRoutes {
    harness
        .peers
        .routes
        .lock()
        .expect("not poisoned")
        .last()
        .expect("routes were set")
        .clone()
}

#[tokio::test]
async fn the_doer_hears_which_versions_keep_workers_and_can_ask_for_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let manifest = String::from_utf8(MANIFEST.to_vec()).unwrap();
    let keeps = manifest.replace(
        "language = \"cpp\"",
        "language = \"cpp\"\nworkers = { min = 1, max = 2 }",
    );
    harness.deploy_well(&with("project.toml", keeps.as_bytes())).await;
    let put = versions(&last_routes(&harness))[1];
    let kept = async || -> Kept {
        let header = of_version(Role::Doer, Operation::Kept, ProjectId::NONE, DoeeVersion::NONE);
        decode(&harness.payload(&header).await.unwrap()).unwrap()
    };
    assert!(harness.asked().contains(&format!("keep {put}")));
    assert_eq!(kept().await.versions, [put]);
    // What is not deployed any more keeps none.
    harness.deploy_well(FILES).await;
    assert!(!harness.asked().iter().any(|asked| asked.starts_with("keep")));
    assert_eq!(kept().await, Kept::default());
}

#[tokio::test]
async fn a_project_is_built_migrated_recorded_and_routed_in_this_order() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let mut events = harness.deploy(FILES).await;
    for event in &mut events {
        if let DeployEvent::Built { duration_ms, .. } = event {
            *duration_ms = 0;
        }
    }
    let building = |doee: &str| DeployEvent::Building { doee: doee.into() };
    let built = |doee: &str| DeployEvent::Built {
        doee: doee.into(),
        cached: false,
        duration_ms: 0,
        log: "".into(),
    };
    assert_eq!(
        events,
        [
            building("ask"),
            built("ask"),
            building("put"),
            built("put"),
            DeployEvent::Migrated {
                database: "stock".into(),
                created: true,
                applied: 2,
            },
            DeployEvent::Deployed {
                project: "shop".into(),
                revision: 1,
                routes: vec!["GET /things/{id}".into(), "PUT /things/{id}".into()],
            },
        ],
    );
    assert_eq!(
        harness.asked(),
        [
            "build ask C in doees/ask: ask.c",
            "build put Cpp in doees/put: put.cpp put.hpp",
            "prepare stock 8 MB 1.sql 2.sql",
            "routes shop r1 2"
        ],
    );
    let routes = last_routes(&harness);
    let put = HttpRoute {
        method: "PUT".into(),
        path: "/things/{id}".into(),
        auth: Auth::Token,
        doee: "put".into(),
        version: routes.routes[1].version,
        class: isms_protocol::Class::High,
        deadline_ms: 900,
        body_len_max: 16 * 1024 * 1024,
    };
    assert_eq!(routes.routes[1], put);
    let pull = Header {
        project: routes.project,
        ..header(Role::Commserver, Operation::Routes)
    };
    let pulled = harness.payload(&pull).await.unwrap();
    assert_eq!(decode::<ProjectRoutes>(&pulled).unwrap(), routes);
}

#[tokio::test]
async fn the_doer_and_dbriver_learn_what_they_must_know_of_a_version() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.deploy_well(FILES).await;
    let routes = last_routes(&harness);
    let (project, version) = (routes.project, routes.routes[0].version);
    let spec: DoeeSpec = harness
        .body(&of_version(Role::Doer, Operation::Doee, project, version), &())
        .await
        .unwrap();
    assert_eq!(
        (spec.version, spec.project, spec.name.as_str()),
        (version, project, "ask")
    );
    assert_eq!(
        spec.params,
        [("limit".to_owned(), isms_protocol::doer::Parameter::Integer(3))]
    );
    let binary = harness
        .payload(&of_version(Role::Doer, Operation::Binary, project, version))
        .await
        .unwrap();
    assert_eq!(binary, shared_object(b"int ask;"));
    assert_eq!(spec.binary_len, binary.len() as u64);
    let grants: Grants = harness
        .body(
            &of_version(Role::Dbriver, Operation::Grants, project, version),
            &(),
        )
        .await
        .unwrap();
    assert_eq!(grants.databases, ["stock"]);
    assert_eq!(grants.http, ["api.example.com:443"]);
}

#[tokio::test]
async fn an_unchanged_doee_keeps_its_version_and_a_changed_one_is_replaced_and_retired() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.deploy_well(FILES).await;
    let first = versions(&last_routes(&harness));
    harness.asked();
    assert_eq!(harness.deploy_well(FILES).await, 2);
    assert_eq!(versions(&last_routes(&harness)), first);
    assert_eq!(
        harness.asked(),
        ["prepare stock 8 MB 1.sql 2.sql", "routes shop r2 2", "deployed"]
    );

    assert_eq!(
        harness
            .deploy_well(&with("doees/put/put.hpp", b"int changed;"))
            .await,
        3
    );
    let third = versions(&last_routes(&harness));
    assert_eq!(third[0], first[0]);
    assert_ne!(third[1], first[1]);
    let retire = format!("retire {}", first[1]);
    assert_eq!(
        harness.asked(),
        [
            "build put Cpp in doees/put: put.cpp put.hpp",
            "prepare stock 8 MB 1.sql 2.sql",
            "routes shop r3 2",
            "deployed",
            &retire
        ],
    );
    let settings = String::from_utf8(MANIFEST.to_vec())
        .unwrap()
        .replace("limit = 3", "limit = 4");
    harness
        .deploy_well(&with("project.toml", settings.as_bytes()))
        .await;
    assert_ne!(
        versions(&last_routes(&harness))[0],
        first[0],
        "parameters are part of a version"
    );
}

#[tokio::test]
async fn a_build_that_fails_tells_the_compilers_log_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.deploy_well(FILES).await;
    harness.asked();
    *harness.peers.compiler.lock().unwrap() = "ask.c:1:1: error: no".into();
    let failed = harness
        .deploy_badly(&with("doees/ask/ask.c", b"int broken"))
        .await;
    assert_eq!(
        failed,
        (
            "BuildFailed".into(),
            "doee ask does not build:\nask.c:1:1: error: no".into()
        )
    );
    assert_eq!(harness.asked(), ["build ask C in doees/ask: ask.c"]);
    assert_eq!(harness.describe("shop").await.unwrap().revision, 1);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_old_version_serving() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.deploy_well(FILES).await;
    harness.asked();
    harness.fail("prepare", ErrorCode::Conflict);
    let failed = harness.deploy_badly(FILES).await;
    assert_eq!(
        failed,
        ("Conflict".into(), "database stock: the test says so".into())
    );
    assert_eq!(harness.asked(), ["prepare stock 8 MB 1.sql 2.sql"]);
    assert_eq!(harness.describe("shop").await.unwrap().revision, 1);
}

#[tokio::test]
async fn routes_that_are_refused_bring_the_old_version_back() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.fail("routes", ErrorCode::Invalid);
    let failed = harness.deploy_badly(FILES).await;
    assert_eq!(
        failed,
        (
            "Invalid".into(),
            "the routes were refused: the test says so".into()
        )
    );
    assert_eq!(
        harness.describe("shop").await.expect_err("nothing serves").code,
        ErrorCode::NotFound
    );
    harness.heal();
    assert_eq!(
        harness.deploy_well(FILES).await,
        2,
        "a revision is never used twice"
    );
    let before = harness.describe("shop").await.unwrap();
    harness.fail("routes", ErrorCode::Invalid);
    harness
        .deploy_badly(&with("doees/ask/ask.c", b"int other;"))
        .await;
    assert_eq!(harness.describe("shop").await.unwrap(), before);
    assert!(!harness.asked().iter().any(|asked| asked.starts_with("retire")));
}

#[tokio::test]
async fn a_commserver_that_is_not_there_does_not_hold_up_a_deployment() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    harness.fail("routes", ErrorCode::Unavailable);
    assert_eq!(harness.deploy_well(FILES).await, 1);
}

#[tokio::test]
async fn a_second_deployment_of_the_same_project_meanwhile_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let gate = Arc::new(Notify::new());
    *harness.peers.gate.lock().unwrap() = Some(gate.clone());
    let mut first = harness.begin_deploy(FILES).await;
    assert_eq!(
        first.recv().await,
        Some(DeployEvent::Building { doee: "ask".into() })
    );
    let message = "another deployment of shop is going on; try again when it has ended";
    assert_eq!(
        harness.deploy_badly(FILES).await,
        ("Conflict".into(), message.into())
    );
    *harness.peers.gate.lock().unwrap() = None;
    gate.notify_one();
    assert!(matches!(
        all(first).await.last(),
        Some(DeployEvent::Deployed { revision: 1, .. })
    ));
}

#[tokio::test]
async fn a_caller_that_goes_away_during_a_build_stops_the_deployment() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let gate = Arc::new(Notify::new());
    *harness.peers.gate.lock().unwrap() = Some(gate.clone());
    let mut events = harness.begin_deploy(FILES).await;
    events.recv().await.expect("it builds");
    drop(events);
    *harness.peers.gate.lock().unwrap() = None;
    // The turn is given back as soon as the deployment has noticed.
    let again = async {
        while harness
            .deploy(FILES)
            .await
            .pop()
            .is_none_or(|event| matches!(event, DeployEvent::Failed { .. }))
        {}
    };
    tokio::time::timeout(Duration::from_secs(5), again)
        .await
        .expect("the project can be deployed again");
    assert_eq!(harness.describe("shop").await.unwrap().revision, 1);
    gate.notify_waiters();
}

#[tokio::test]
async fn a_prebuilt_binary_is_checked_and_served() {
    let manifest = b"[project]\nname = \"pre\"\n[doee.a]\nbinary = \"out/a.so\"\n";
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let refused = harness
        .deploy_badly(&[("project.toml", manifest), ("out/a.so", b"#!/bin/sh")])
        .await;
    let message = "doee a: its binary is refused: it is not a 64-bit ELF file";
    assert_eq!(refused, ("BuildFailed".into(), message.into()));
    let missing = harness.deploy_badly(&[("project.toml", manifest)]).await;
    assert_eq!(
        missing,
        (
            "Invalid".into(),
            "doee a: the file out/a.so does not exist".into()
        )
    );
    harness
        .deploy_well(&[("project.toml", manifest), ("out/a.so", &shared_object(b"x"))])
        .await;
    assert_eq!(harness.asked(), ["routes pre r1 0"]);
}

#[tokio::test]
async fn what_is_wrong_with_an_archive_is_said_before_anything_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let invalid = |message: &str| ("Invalid".to_owned(), message.to_owned());
    assert_eq!(
        harness.deploy_badly(&[("a", b"")]).await,
        invalid("the folder has no project.toml")
    );
    assert_eq!(
        harness.deploy_badly(&[("project.toml", b"\xff")]).await,
        invalid("project.toml is not UTF-8")
    );
    let unknown = harness
        .deploy_badly(&[("project.toml", b"[project]\nnam = 1\n")])
        .await;
    assert_eq!(
        unknown,
        invalid("project.toml:2: project.nam: is not a known key; allowed: name")
    );
    let escaping = harness.deploy_badly(&[("../project.toml", MANIFEST)]).await;
    let message = "the archive's entry \"../project.toml\" does not stay below the project's folder";
    assert_eq!(escaping, invalid(message));
    let no_source = harness
        .deploy_badly(&[("project.toml", MANIFEST), ("sql/1.sql", b"")])
        .await;
    assert_eq!(no_source, invalid("doee ask: the folder doees/ask has no file"));
    let no_migrations = harness.deploy_badly(&FILES[..4]).await;
    assert_eq!(
        no_migrations,
        invalid("database stock: the folder sql has no .sql file")
    );
    assert!(harness.asked().is_empty());
    let projects: Projects = harness
        .body(&header(Role::Gate, Operation::Projects), &())
        .await
        .unwrap();
    assert!(projects.projects.is_empty());
}
