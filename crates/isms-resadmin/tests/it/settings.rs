//! What projects get where they share the platform.

use isms_protocol::{
    ErrorCode, Header, ProjectId, Service as Role, WireError,
    kernel::ProjectSettings,
    resadmin::{ChangeProject, CreateToken, CreatedToken, Operation, Right, Tokens},
};

use crate::harness::{Harness, failure, header};

const MANIFEST: &[u8] = b"[project]\nname = \"one\"\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n";

async fn deployed(harness: &Harness) -> ProjectId {
    harness
        .deploy_well(&[("project.toml", MANIFEST), ("a/a.c", b"int a;")])
        .await;
    harness.asked();
    harness.describe("one").await.expect("is deployed").id
}

fn weighing(weight: u32) -> ChangeProject {
    ChangeProject {
        weight: Some(weight),
        ..ChangeProject::default()
    }
}

async fn change(
    harness: &Harness,
    project: ProjectId,
    change: ChangeProject,
) -> Result<ProjectSettings, WireError> {
    let header = Header {
        project,
        principal: harness.admin().await,
        ..header(Role::Gate, Operation::ChangeProject)
    };
    harness.body(&header, &change).await
}

#[tokio::test]
async fn settings_are_kept_and_told_to_each_kernel_that_comes() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let one = deployed(&harness).await;
    let settings = || async { harness.describe("one").await.unwrap().settings };
    assert_eq!(settings().await, ProjectSettings::default());
    harness.service.tell_settings().await.unwrap();
    assert!(
        harness.asked().is_empty(),
        "a Kernel need not be told of defaults"
    );

    let heavy = ProjectSettings {
        weight: 300,
        ..ProjectSettings::default()
    };
    assert_eq!(change(&harness, one, weighing(300)).await, Ok(heavy));
    assert_eq!(harness.asked(), ["set-project 300"]);
    assert_eq!(change(&harness, one, ChangeProject::default()).await, Ok(heavy));
    assert_eq!(settings().await, heavy);
    drop(harness);

    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.describe("one").await.unwrap().settings, heavy);
    harness.service.tell_settings().await.unwrap();
    assert_eq!(harness.asked(), ["set-project 300"]);
    change(&harness, one, weighing(100)).await.unwrap();
    harness.asked();
    harness.service.tell_settings().await.unwrap();
    assert_eq!(
        harness.asked(),
        ["set-project 100"],
        "a Kernel that missed the change is told of defaults as well"
    );
}

#[tokio::test]
async fn a_change_while_the_kernel_is_away_is_kept_and_told_later() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let one = deployed(&harness).await;
    harness.fail("set-project", ErrorCode::Unavailable);
    assert_eq!(
        change(&harness, one, weighing(7)).await,
        Ok(ProjectSettings {
            weight: 7,
            ..ProjectSettings::default()
        })
    );
    harness.heal();
    harness.asked();
    harness.service.tell_settings().await.unwrap();
    assert_eq!(harness.asked(), ["set-project 7"]);
}

#[tokio::test]
async fn what_is_out_of_bounds_or_of_nobody_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let one = deployed(&harness).await;
    for weight in [0, 10_001, u32::MAX] {
        assert_eq!(
            failure(change(&harness, one, weighing(weight)).await),
            (
                ErrorCode::Invalid,
                format!("`weight` is {weight}; it is 1 to 10000")
            )
        );
    }
    let hasty = ChangeProject {
        rate_max: Some(1_000_001),
        ..ChangeProject::default()
    };
    assert_eq!(
        failure(change(&harness, one, hasty).await),
        (
            ErrorCode::Invalid,
            "`rate_max` is 1000001; it is 0 (no limit) to 1000000".into()
        )
    );
    let broad = ChangeProject {
        concurrency_max: Some(16_385),
        ..ChangeProject::default()
    };
    assert_eq!(
        failure(change(&harness, one, broad).await),
        (
            ErrorCode::Invalid,
            "`concurrency_max` is 16385; it is 0 (no limit) to 16384".into()
        )
    );
    let nobody = ProjectId::from_bytes([9; 16]);
    assert_eq!(
        failure(change(&harness, nobody, weighing(7)).await).0,
        ErrorCode::NotFound
    );
    assert!(harness.asked().is_empty());
    assert_eq!(
        harness.describe("one").await.unwrap().settings,
        ProjectSettings::default()
    );
}

#[tokio::test]
async fn a_projects_own_administrator_does_not_decide_what_it_gets() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let one = deployed(&harness).await;
    let principal = harness.admin().await;
    let create = CreateToken {
        name: "own".into(),
        project: Some("one".into()),
        rights: vec![Right::Admin],
        expires_in_s: None,
    };
    let as_admin = |operation| Header {
        principal,
        ..header(Role::Gate, operation)
    };
    let own: CreatedToken = harness
        .body(&as_admin(Operation::CreateToken), &create)
        .await
        .unwrap();
    let tokens: Tokens = harness.body(&as_admin(Operation::ListTokens), &()).await.unwrap();
    assert!(tokens.tokens.iter().any(|token| token.id == own.id));
    let header = Header {
        project: one,
        principal: own.id,
        ..header(Role::Gate, Operation::ChangeProject)
    };
    let refused = harness.body::<_, ProjectSettings>(&header, &weighing(7)).await;
    assert_eq!(failure(refused).0, ErrorCode::Forbidden);
}

fn manifest(rate: &str) -> String {
    format!("[project]\nname = \"one\"\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n{rate}\n")
}

#[tokio::test]
async fn what_becomes_of_calls_is_told_before_the_routes_and_to_each_kernel_that_comes() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    for (keys, expected) in [
        (
            "durable = false",
            &["set-retries volatile", "routes one r1 0"][..],
        ),
        (
            "retry = { attempts = 3, backoff_ms = 5 }",
            &["set-retries 3x5", "routes one r2 0"],
        ),
    ] {
        let manifest = manifest(keys);
        let files = [("project.toml", manifest.as_bytes()), ("a/a.c", &b"int a;"[..])];
        harness.deploy_well(&files).await;
        let asked = harness.asked().into_iter();
        let told = asked.filter(|asked| asked.starts_with("set-re") || asked.starts_with("routes"));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
    drop(harness);
    let harness = Harness::open(directory.path()).await;
    harness.service.tell_settings().await.unwrap();
    assert_eq!(harness.asked(), ["set-rates", "set-retries 3x5"]);
}

#[tokio::test]
async fn rates_of_doees_are_told_before_their_routes_and_to_each_kernel_that_comes() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let deploy = async |harness: &Harness, rate: &str| {
        let manifest = manifest(rate);
        let files = [("project.toml", manifest.as_bytes()), ("a/a.c", &b"int a;"[..])];
        harness.deploy_well(&files).await;
        let asked = harness.asked().into_iter();
        let told = asked.filter(|asked| asked.starts_with("set-rates") || asked.starts_with("routes"));
        let version = harness.describe("one").await.unwrap().doees[0].version;
        (told.collect::<Vec<_>>(), version)
    };
    let (told, first) = deploy(&harness, "").await;
    assert_eq!(told, ["routes one r1 0"], "a Kernel need not be told of nothing");
    let (told, second) = deploy(&harness, "rate = { per_s = 5, burst = 9 }").await;
    assert_eq!(told, ["set-rates 5/9", "routes one r2 0"]);
    assert_eq!(first, second, "another rate is no other version");
    drop(harness);

    let harness = Harness::open(directory.path()).await;
    harness.service.tell_settings().await.unwrap();
    assert_eq!(harness.asked(), ["set-rates 5/9", "set-retries"]);
    harness.fail("set-rates", ErrorCode::Unavailable);
    let (told, _) = deploy(&harness, "").await;
    assert_eq!(told, ["set-rates", "routes one r3 0"]);
    harness.heal();
    harness.service.tell_settings().await.unwrap();
    assert!(harness.asked().is_empty());
}
