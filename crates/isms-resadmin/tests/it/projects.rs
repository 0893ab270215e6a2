//! Projects over their life: apart from each other, over restarts, until they are deleted.

use isms_protocol::{
    DoeeVersion, ErrorCode, Header, Service as Role, limits,
    resadmin::{NameDoees, NamedDoee, NamedDoees, Operation, ProjectSummary, Projects},
};

use crate::harness::{Harness, failure, header, of_version, shared_object};

async fn deploy_named(harness: &Harness, name: &str) -> u64 {
    let manifest = format!("[project]\nname = {name:?}\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n");
    harness
        .deploy_well(&[("project.toml", manifest.as_bytes()), ("a/a.c", b"int a;")])
        .await
}

#[tokio::test]
async fn projects_share_neither_builds_nor_versions() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy_named(&harness, "one").await;
    deploy_named(&harness, "two").await;
    let builds = harness
        .asked()
        .iter()
        .filter(|asked| asked.starts_with("build"))
        .count();
    assert_eq!(builds, 2, "the same source is built for each");
    let one = harness.describe("one").await.unwrap();
    let two = harness.describe("two").await.unwrap();
    assert_ne!(one.doees[0].version, two.doees[0].version);
    let foreign = of_version(Role::Dbriver, Operation::Grants, one.id, two.doees[0].version);
    let refused = failure(
        harness
            .body::<_, isms_protocol::dbriver::Grants>(&foreign, &())
            .await,
    );
    assert_eq!(
        refused,
        (
            ErrorCode::Forbidden,
            "the function is not part of the project".into()
        )
    );
}

#[tokio::test]
async fn versions_have_names_that_of_an_earlier_deployment_too_and_what_does_not_exist_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let mut versions = Vec::new();
    for source in [&b"int a;"[..], b"int b;"] {
        let manifest = b"[project]\nname = \"one\"\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n";
        harness
            .deploy_well(&[("project.toml", manifest), ("a/a.c", source)])
            .await;
        versions.push(harness.describe("one").await.unwrap().doees[0].version);
    }
    assert_ne!(versions[0], versions[1]);
    let ask = async |role, versions: Vec<DoeeVersion>| {
        harness
            .body::<_, NamedDoees>(&header(role, Operation::NameDoees), &NameDoees { versions })
            .await
    };
    let named = |version| NamedDoee {
        version,
        project: "one".into(),
        doee: "a".into(),
    };
    let expected = versions.iter().copied().map(named).collect();
    versions.push(DoeeVersion::from_bytes([9; 16]));
    assert_eq!(
        ask(Role::Gate, versions).await,
        Ok(NamedDoees { doees: expected })
    );
    let (code, _) = failure(ask(Role::Commserver, Vec::new()).await);
    assert_eq!(code, ErrorCode::Forbidden);
    let too_many = vec![DoeeVersion::NONE; limits::NAMED_DOEES_MAX + 1];
    let (code, _) = failure(ask(Role::Gate, too_many).await);
    assert_eq!(code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_restart_keeps_everything_and_sweeps_what_was_never_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy_named(&harness, "one").await;
    let before = harness.describe("one").await.unwrap();
    drop(harness);
    // As left by a kill between the write of a binary and its record, and in the middle of a write.
    let binaries = directory.path().join("binaries");
    let orphan = binaries.join("ab".repeat(32));
    std::fs::write(&orphan, b"whole but not recorded").unwrap();
    let torn = binaries.join("new-abc");
    std::fs::write(&torn, b"tor").unwrap();

    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.describe("one").await.unwrap(), before);
    assert!(!orphan.exists() && !torn.exists());
    let version = before.doees[0].version;
    let binary = harness
        .payload(&of_version(Role::Doer, Operation::Binary, before.id, version))
        .await
        .unwrap();
    assert_eq!(binary, shared_object(b"int a;"));
    deploy_named(&harness, "one").await;
    assert_eq!(
        harness.asked(),
        ["routes one r2 0", "deployed"],
        "the build of the former run is reused"
    );
}

#[tokio::test]
async fn a_damaged_binary_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy_named(&harness, "one").await;
    let project = harness.describe("one").await.unwrap();
    let file = directory
        .path()
        .join("binaries")
        .join(project.doees[0].binary.to_string());
    std::fs::write(file, b"something else").unwrap();
    let served = harness
        .payload(&of_version(
            Role::Doer,
            Operation::Binary,
            project.id,
            project.doees[0].version,
        ))
        .await;
    assert_eq!(
        failure(served),
        (
            ErrorCode::Internal,
            "the binary cannot be read; see Resadmin's log".into()
        )
    );
}

#[tokio::test]
async fn a_deleted_project_is_gone_with_all_that_belongs_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy_named(&harness, "one").await;
    deploy_named(&harness, "two").await;
    let (one, two) = (
        harness.describe("one").await.unwrap(),
        harness.describe("two").await.unwrap(),
    );
    harness.asked();
    let delete = Header {
        project: one.id,
        principal: harness.admin().await,
        ..header(Role::Gate, Operation::DeleteProject)
    };
    harness.empty(&delete, &()).await.unwrap();
    let retire = format!("retire {}", one.doees[0].version);
    assert_eq!(
        harness.asked(),
        [
            "routes one r2 0",
            "forget-project",
            &retire,
            "set-project 100",
            "set-rates",
            "set-retries",
            "drop"
        ]
    );
    assert_eq!(
        failure(harness.describe("one").await),
        (ErrorCode::NotFound, "there is no project one".into())
    );
    assert_eq!(failure(harness.empty(&delete, &()).await).0, ErrorCode::NotFound);
    let gone = of_version(Role::Doer, Operation::Binary, one.id, one.doees[0].version);
    assert_eq!(failure(harness.payload(&gone).await).0, ErrorCode::NotFound);
    let projects: Projects = harness
        .body(&header(Role::Gate, Operation::Projects), &())
        .await
        .unwrap();
    assert_eq!(
        projects.projects,
        [ProjectSummary {
            id: two.id,
            name: "two".into(),
            revision: 1
        }]
    );
    let kept = of_version(Role::Doer, Operation::Binary, two.id, two.doees[0].version);
    harness
        .payload(&kept)
        .await
        .expect("the other project's same binary stays");
    assert_eq!(deploy_named(&harness, "one").await, 1, "the name is free");
}

#[tokio::test]
async fn a_deletion_that_failed_is_finished_by_the_next_run() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy_named(&harness, "one").await;
    let project = harness.describe("one").await.unwrap();
    let principal = harness.admin().await;
    // Neither its calls nor its data may outlive it.
    harness.fail("forget-project", ErrorCode::Unavailable);
    let delete = Header {
        project: project.id,
        principal,
        ..header(Role::Gate, Operation::DeleteProject)
    };
    assert_eq!(
        failure(harness.empty(&delete, &()).await).0,
        ErrorCode::Unavailable
    );
    assert_eq!(failure(harness.describe("one").await).0, ErrorCode::NotFound);
    drop(harness);

    let harness = Harness::open(directory.path()).await;
    harness.service.resume_deletions().await.unwrap();
    assert_eq!(harness.asked().last().map(String::as_str), Some("drop"));
    harness.service.resume_deletions().await.unwrap();
    assert!(harness.asked().is_empty(), "nothing is left to delete");
}

#[tokio::test]
async fn a_store_of_a_later_release_is_refused() {
    use sqlx::{ConnectOptions, Connection};
    let directory = tempfile::tempdir().unwrap();
    drop(Harness::open(directory.path()).await);
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("resadmin.sqlite"));
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let (requests, _asked) = tokio::sync::mpsc::channel(1);
    let config = isms_resadmin::Config::new(directory.path(), crate::harness::ADMIN);
    let error = isms_resadmin::Service::open(config, requests, std::sync::Arc::new(|| 0))
        .await
        .map(drop);
    let source = std::error::Error::source(&error.expect_err("is refused")).map(ToString::to_string);
    let message = "the store has format 99, this release knows 6; use the release that wrote it";
    assert_eq!(source.as_deref(), Some(message));
}
