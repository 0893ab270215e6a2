//! Which Doees a Doee may call, and which version of them serves.

use isms_protocol::{
    DoeeVersion, ErrorCode, Header, ProjectId, Service as Role,
    commserver::ProjectRoutes,
    decode,
    resadmin::{Callee, FindCallee, Operation},
};

use crate::harness::{Harness, failure, header};

const MANIFEST: &str = r#"
[project]
name = "shop"
[doee.ask]
language = "c"
source = "doees/ask"
allow = { call = ["put", "ask"] }
[doee.put]
language = "c"
source = "doees/put"
class = "high"
deadline_ms = 900
[[trigger]]
http = "GET /ask"
auth = "none"
doee = "ask"
[[trigger]]
http = "GET /put"
auth = "none"
doee = "put"
"#;

async fn deploy(harness: &Harness, manifest: &str, put: &[u8]) {
    let files: [(&str, &[u8]); 3] = [
        ("project.toml", manifest.as_bytes()),
        ("doees/ask/ask.c", b"int ask;"),
        ("doees/put/put.c", put),
    ];
    harness.deploy_well(&files).await;
}

/// Project and the versions of `ask` and `put`.
async fn serving(harness: &Harness) -> (ProjectId, DoeeVersion, DoeeVersion) {
    let project = harness.describe("shop").await.expect("it serves").id;
    let mut header = header(Role::Commserver, Operation::Routes);
    header.project = project;
    let routes: ProjectRoutes =
        decode(&harness.payload(&header).await.expect("it has routes")).expect("decodes");
    let version = |name: &str| {
        routes
            .routes
            .iter()
            .find(|route| route.doee == name)
            .expect("it has a route")
            .version
    };
    (project, version("ask"), version("put"))
}

async fn find(
    harness: &Harness,
    (project, caller): (ProjectId, DoeeVersion),
    doee: &str,
) -> Result<Callee, isms_protocol::WireError> {
    let header = Header {
        project,
        calling_doee: caller,
        ..header(Role::Doer, Operation::Callee)
    };
    harness.body(&header, &FindCallee { doee: doee.into() }).await
}

#[tokio::test]
async fn a_version_calls_what_its_manifest_named_and_reaches_what_serves_now() {
    let folder = tempfile::tempdir().unwrap();
    let harness = Harness::open(folder.path()).await;
    deploy(&harness, MANIFEST, b"int one;").await;
    let (project, ask, put) = serving(&harness).await;
    let found = find(&harness, (project, ask), "put").await.unwrap();
    assert_eq!(
        (found.version, found.class.name(), found.deadline_ms),
        (put, "high", 900)
    );
    assert!(found.is_durable);
    assert_eq!(find(&harness, (project, ask), "ask").await.unwrap().version, ask);
    let forbidden = [
        ((project, put), "ask"),
        ((project, ask), "nothing"),
        ((ProjectId::from_bytes([9; 16]), ask), "put"),
    ];
    for (caller, doee) in forbidden {
        let refused = failure(find(&harness, caller, doee).await);
        assert_eq!(refused.0, ErrorCode::Forbidden, "{doee}: {}", refused.1);
    }
    let nobody = failure(find(&harness, (project, DoeeVersion::NONE), "put").await);
    assert_eq!(nobody.0, ErrorCode::NotFound);

    // Settings that make no new version count at once, and so does a new version, also for old callers.
    let changed = MANIFEST.replace("deadline_ms = 900", "deadline_ms = 800\ndurable = false");
    deploy(&harness, &changed, b"int one;").await;
    let found = find(&harness, (project, ask), "put").await.unwrap();
    assert_eq!(
        (found.version, found.deadline_ms, found.is_durable),
        (put, 800, false)
    );
    deploy(&harness, &changed, b"int two;").await;
    let (_, same, newer) = serving(&harness).await;
    assert_eq!(same, ask);
    assert_ne!(newer, put);
    assert_eq!(
        find(&harness, (project, ask), "put").await.unwrap().version,
        newer
    );
    let told = harness.asked().into_iter().filter(|asked| asked == "deployed");
    assert_eq!(
        told.count(),
        2,
        "the doer forgets with every deployment after the first"
    );
}

#[tokio::test]
async fn only_the_doer_asks_for_callees() {
    let folder = tempfile::tempdir().unwrap();
    let harness = Harness::open(folder.path()).await;
    for sender in [Role::Gate, Role::Commserver, Role::Dbriver] {
        let header = header(sender, Operation::Callee);
        let find = FindCallee { doee: "put".into() };
        let refused = failure(harness.body::<_, Callee>(&header, &find).await);
        assert_eq!(refused.0, ErrorCode::Forbidden);
    }
}
