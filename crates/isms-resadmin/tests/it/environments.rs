//! What the workers of a Doee consist of: checked against the administrator's lists, tried once, then recorded.

use std::path::Path;

use isms_protocol::{
    ContentHash, ErrorCode, Header, Service as Role,
    doer::{Backend, DoeeSpec, Environment},
    encode,
    resadmin::{DeployEvent, Operation, UploadImage},
};
use isms_resadmin::{Begun, Config};
use sha2::{Digest, Sha256};

use crate::harness::{ADMIN, Harness, header, of_version};

/// A project of two Doees, the first with these keys.
async fn deploy(harness: &Harness, keys: &str, reference: Option<&str>) -> Vec<DeployEvent> {
    let manifest = format!(
        "[project]\nname = \"shop\"\n{keys}\n[doee.b]\nlanguage = \"c\"\nsource = \"src\"\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"b\"\n\
         [database.stock]\nkind = \"sql\"\ndisk_mb = 1\n"
    );
    let mut files = vec![("project.toml", manifest.as_bytes()), ("src/a.c", b"int a;")];
    if let Some(reference) = reference {
        files.push(("images/x.sif", reference.as_bytes()));
    }
    harness.deploy(&files).await
}

fn doee(keys: &str) -> String {
    format!("[doee.a]\nlanguage = \"c\"\nsource = \"src\"\n{keys}")
}

fn failure(events: &[DeployEvent]) -> (&str, &str) {
    match events.last() {
        Some(DeployEvent::Failed { code, message }) => (code, message),
        other => panic!("did not fail: {other:?}"),
    }
}

async fn upload(harness: &Harness) -> ContentHash {
    let mut file = vec![0; 500];
    file[32..48].copy_from_slice(b"SIF_MAGIC\x0001\x0002\0");
    let image = ContentHash(Sha256::digest(&file).into());
    let header = Header {
        principal: harness.admin().await,
        ..header(Role::Gate, Operation::UploadImage)
    };
    let body = encode(&UploadImage {
        project: "shop".into(),
        image,
        len: 500,
        offset: 0,
    });
    let Begun::Open(mut upload) = harness
        .service
        .begin_upload(&header, &body)
        .await
        .expect("begins")
    else {
        panic!("nothing was uploaded before");
    };
    upload.write(&file).await.expect("is taken");
    upload.finish().await.expect("is an image");
    image
}

fn allowing(directory: &Path) -> Config {
    Config {
        device_nodes: vec!["/dev/ttyUSB0".into()],
        directories: vec!["/srv/maps".into()],
        build_network: true,
        ..Config::new(directory, ADMIN)
    }
}

#[tokio::test]
async fn an_environment_is_tried_after_the_build_and_before_the_migrations_and_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open_with(allowing(directory.path())).await;
    let image = upload(&harness).await;
    let keys = doee(
        "isolation = \"apptainer\"\nimage = \"images/x.sif\"\n\
         allow = { device_nodes = [\"/dev/ttyUSB0\"], directories = [\"/srv/maps\"] }",
    );
    let reference = format!("sha256:{image}\n");
    let events = deploy(&harness, &keys, Some(&reference)).await;
    assert!(
        events
            .iter()
            .any(|event| matches!(event, DeployEvent::Tried { doee, .. } if doee == "a")),
        "{events:?}"
    );
    let asked = harness.asked();
    let expected = Environment {
        backend: Backend::Apptainer,
        image: Some(image),
        device_nodes: vec!["/dev/ttyUSB0".into()],
        directories: vec!["/srv/maps".into()],
    };
    assert_eq!(
        asked,
        [
            "build a C in src: a.c".to_owned(),
            format!("try apptainer {expected:?}"),
            "prepare stock 1 MB ".to_owned(),
            "routes shop r1 1".to_owned(),
        ],
        "the common environment of b is not tried"
    );
    let project = harness.describe("shop").await.unwrap();
    let environments = [expected, Environment::default()];
    for (doee, environment) in project.doees.iter().zip(environments) {
        let header = of_version(Role::Doer, Operation::Doee, project.id, doee.version);
        let spec: DoeeSpec = harness.body(&header, &()).await.unwrap();
        assert_eq!(spec.environment, environment, "{}", doee.name);
    }
}

#[tokio::test]
async fn a_worker_that_does_not_start_fails_the_deployment_and_the_old_version_serves() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy(&harness, "", None).await;
    let before = harness.describe("shop").await.unwrap();
    harness.asked();
    let image = upload(&harness).await;
    harness.fail("try", ErrorCode::Unavailable);
    let events = deploy(
        &harness,
        &doee("image = \"images/x.sif\""),
        Some(&format!("sha256:{image}")),
    )
    .await;
    assert_eq!(
        failure(&events),
        (
            "Unavailable",
            "doee a: a worker was started once and failed: the test says so"
        )
    );
    assert!(
        !harness
            .asked()
            .iter()
            .any(|asked| asked.starts_with("prepare") || asked.starts_with("routes")),
        "nothing is migrated for what cannot run"
    );
    assert_eq!(harness.describe("shop").await.unwrap(), before);
}

#[tokio::test]
async fn openings_that_the_administrator_has_not_listed_are_refused_with_the_setting() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open_with(Config {
        build_network: false,
        ..allowing(directory.path())
    })
    .await;
    for (keys, error) in [
        (
            doee("allow = { device_nodes = [\"/dev/ttyUSB0\", \"/dev/sda\"] }"),
            "doee a: the device node /dev/sda is not open to projects on this platform; the administrator allows it \
             by [workers] device_nodes in isms.toml",
        ),
        (
            doee("allow = { directories = [\"/srv\"] }"),
            "doee a: the directory /srv is not open to projects on this platform; the administrator allows it by \
             [workers] directories in isms.toml",
        ),
        (
            "[build]\nnetwork = true".to_owned(),
            "build.network: builds may not use the network on this platform; the administrator allows it by [build] \
             network = true in isms.toml",
        ),
    ] {
        let events = deploy(&harness, &keys, None).await;
        assert_eq!(failure(&events), ("Forbidden", error));
    }
    assert!(
        harness.asked().is_empty(),
        "nothing is built for what may not run"
    );
}

#[tokio::test]
async fn a_build_with_network_is_another_build_than_one_without() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open_with(allowing(directory.path())).await;
    let build = async |keys: &str| {
        deploy(&harness, keys, None).await;
        harness.asked().remove(0)
    };
    assert_eq!(
        build("[build]\nnetwork = true").await,
        "build b C in src with network: a.c"
    );
    assert_eq!(build("").await, "build b C in src: a.c");
    assert!(
        build("[build]\nnetwork = true").await.starts_with("prepare"),
        "built before"
    );
}

#[tokio::test]
async fn an_image_is_referred_to_in_the_place_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let keys = doee("image = \"images/x.sif\"");
    let events = deploy(&harness, &keys, None).await;
    assert_eq!(
        failure(&events),
        (
            "Invalid",
            "doee a: images/x.sif is not in the archive; give the file or folder of its image"
        )
    );
    for wrong in [
        "",
        "sha256:",
        "sha256:xy",
        "SIF_MAGIC",
        &format!("sha512:{}", "0".repeat(64)),
    ] {
        let events = deploy(&harness, &keys, Some(wrong)).await;
        let (code, message) = failure(&events);
        assert_eq!(code, "Invalid", "{wrong}");
        assert!(message.contains("no reference"), "{message}");
    }
    let unknown = format!("sha256:{}", "0".repeat(64));
    let events = deploy(&harness, &keys, Some(&unknown)).await;
    let (code, message) = failure(&events);
    assert_eq!(code, "NotFound");
    assert!(
        message.contains("images/x.sif") && message.contains("upload it first"),
        "{message}"
    );
    assert!(harness.asked().is_empty());
}
