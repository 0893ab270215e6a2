//! Images: uploaded in pieces, verified, shared on the disk and by nothing else, and gone when nobody needs them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::atomic::Ordering};

use isms_protocol::{
    ContentHash, ErrorCode, Header, PrincipalId, Service as Role, WireError,
    resadmin::{CreateToken, CreatedToken, DeployEvent, Image, ImageState, Operation, Right, UploadImage},
};
use isms_resadmin::{Begun, Config, Upload};
use sha2::{Digest, Sha256};

use crate::harness::{ADMIN, Harness, failure, header, shared_object};

const MIB: u64 = 1 << 20;
const HOUR: u64 = 3600;

/// A file that passes the first look, with bytes of its own.
fn sif(content: u8, len: usize) -> Vec<u8> {
    let mut file = vec![content; len];
    file[..32].fill(0);
    file[32..48].copy_from_slice(b"SIF_MAGIC\x0001\x0002\0");
    file
}

fn hash(file: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(file).into())
}

fn state(offset: u64, complete: bool) -> ImageState {
    ImageState { offset, complete }
}

/// What Gate asks in the name of somebody.
struct Client<'a> {
    harness: &'a Harness,
    principal: PrincipalId,
    project: &'a str,
}

impl<'a> Client<'a> {
    async fn admin(harness: &'a Harness, project: &'a str) -> Client<'a> {
        Client {
            harness,
            principal: harness.admin().await,
            project,
        }
    }

    async fn state(&self, image: ContentHash) -> Result<ImageState, WireError> {
        let header = Header {
            principal: self.principal,
            ..header(Role::Gate, Operation::Image)
        };
        let project = self.project.to_owned();
        self.harness.body(&header, &Image { project, image }).await
    }

    async fn begin(&self, image: ContentHash, len: u64, offset: u64) -> Result<Begun, WireError> {
        let header = Header {
            principal: self.principal,
            ..header(Role::Gate, Operation::UploadImage)
        };
        let body = UploadImage {
            project: self.project.to_owned(),
            image,
            len,
            offset,
        };
        self.harness
            .service
            .begin_upload(&header, &isms_protocol::encode(&body))
            .await
    }

    async fn open(&self, image: ContentHash, len: u64, offset: u64) -> Upload {
        match self.begin(image, len, offset).await.expect("begins") {
            Begun::Open(upload) => upload,
            Begun::Complete(state) => panic!("is there already: {state:?}"),
        }
    }

    /// Uploads a whole file at once.
    async fn upload(&self, file: &[u8]) -> Result<ImageState, WireError> {
        match self.begin(hash(file), file.len() as u64, 0).await? {
            Begun::Complete(state) => Ok(state),
            Begun::Open(mut upload) => {
                upload.write(file).await?;
                upload.finish().await
            }
        }
    }
}

fn stored(directory: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(directory.join(folder)).expect("is a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("is listed")
                .file_name()
                .into_string()
                .expect("is text")
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_upload_goes_on_after_a_break_and_after_a_restart_and_is_verified_at_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = sif(1, 3 * MIB as usize + 17);
    let (image, len) = (hash(&file), file.len() as u64);
    let half = MIB as usize + 5;
    {
        let harness = Harness::open(directory.path()).await;
        let client = Client::admin(&harness, "shop").await;
        assert_eq!(client.state(image).await, Ok(state(0, false)));
        let mut upload = client.open(image, len, 0).await;
        upload.write(&file[..half]).await.unwrap();
        assert_eq!(
            upload.keep().await,
            Ok(state(half as u64, false)),
            "the connection broke"
        );
        // Killed in the middle: what had reached the file counts, what was gathered does not.
        let mut upload = client.open(image, len, half as u64).await;
        upload.write(&file[half..half + MIB as usize]).await.unwrap();
        upload
            .write(&file[half + MIB as usize..half + MIB as usize + 9])
            .await
            .unwrap();
        drop(upload);
    }
    let harness = Harness::open(directory.path()).await;
    let client = Client::admin(&harness, "shop").await;
    let there = half as u64 + MIB;
    assert_eq!(client.state(image).await, Ok(state(there, false)));
    let mut upload = client.open(image, len, there).await;
    upload.write(&file[there as usize..]).await.unwrap();
    assert_eq!(upload.finish().await, Ok(state(len, true)));

    let path = directory.path().join("images").join(image.to_string());
    assert_eq!(fs::read(&path).unwrap(), file);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(stored(directory.path(), "uploads").is_empty());
    assert_eq!(client.state(image).await, Ok(state(len, true)));
    assert!(
        matches!(client.begin(image, len, 0).await, Ok(Begun::Complete(_))),
        "an image that is there is not uploaded again"
    );
}

#[tokio::test]
async fn pieces_without_a_break_may_end_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let client = Client::admin(&harness, "shop").await;
    let file = sif(2, 1000);
    let mut upload = client.open(hash(&file), 1000, 0).await;
    upload.write(&file[..300]).await.unwrap();
    assert_eq!(upload.finish().await, Ok(state(300, false)));
    let mut upload = client.open(hash(&file), 1000, 300).await;
    upload.write(&file[300..]).await.unwrap();
    assert_eq!(upload.finish().await, Ok(state(1000, true)));
}

#[tokio::test]
async fn bytes_with_another_hash_and_files_of_another_kind_are_refused_and_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let client = Client::admin(&harness, "shop").await;
    let (file, other) = (sif(1, 500), sif(2, 500));
    let mut upload = client.open(hash(&file), 500, 0).await;
    upload.write(&other).await.unwrap();
    let (code, message) = failure(upload.finish().await);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(
        message.contains(&hash(&other).to_string()) && message.contains(&hash(&file).to_string()),
        "{message}"
    );
    assert_eq!(client.state(hash(&file)).await, Ok(state(0, false)));

    let text = vec![b'x'; 500];
    let (code, message) = failure(client.upload(&text).await);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(message.contains("not a SIF image"), "{message}");

    let mut upload = client.open(hash(&file), 500, 0).await;
    upload.write(&file).await.unwrap();
    let (code, message) = failure(upload.write(b"more").await);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(message.contains("more bytes"), "{message}");
    drop(upload);

    assert_eq!(
        failure(client.begin(hash(&file), 127, 0).await).0,
        ErrorCode::Invalid
    );
    assert_eq!(
        failure(client.begin(hash(&file), 500, 501).await).0,
        ErrorCode::Invalid
    );
    assert!(stored(directory.path(), "images").is_empty());
}

#[tokio::test]
async fn an_upload_has_one_writer_who_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let client = Client::admin(&harness, "shop").await;
    let file = sif(1, 500);
    let first = client.open(hash(&file), 500, 0).await;
    let (code, message) = failure(client.begin(hash(&file), 500, 0).await);
    assert_eq!(code, ErrorCode::Conflict);
    assert!(message.contains("somebody else"), "{message}");
    drop(first);
    let (code, message) = failure(client.begin(hash(&file), 500, 10).await);
    assert_eq!(code, ErrorCode::Conflict);
    assert!(message.starts_with("0 bytes"), "{message}");
    client.open(hash(&file), 500, 0).await;
}

#[tokio::test]
async fn size_disk_and_number_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open_with(Config {
        image_len_max: 2 * MIB,
        images_len_max: 3 * MIB,
        ..Config::new(directory.path(), ADMIN)
    })
    .await;
    let shop = Client::admin(&harness, "shop").await;
    let (code, message) = failure(shop.begin(ContentHash([1; 32]), 2 * MIB + 1, 0).await);
    assert_eq!(code, ErrorCode::TooLarge);
    assert!(message.contains("size_mb_max"), "{message}");

    let first = sif(1, 2 * MIB as usize);
    shop.upload(&first).await.unwrap();
    let second = sif(2, 2 * MIB as usize);
    let (code, message) = failure(shop.upload(&second).await);
    assert_eq!(code, ErrorCode::LimitReached);
    assert!(message.contains("disk_mb_max"), "{message}");
    // Two that each would fit: the one that comes later does not.
    let (small, other) = (sif(3, MIB as usize), sif(4, MIB as usize));
    let mut upload = shop.open(hash(&small), MIB, 0).await;
    let mut late = shop.open(hash(&other), MIB, 0).await;
    upload.write(&small).await.unwrap();
    assert_eq!(failure(late.write(&other).await).0, ErrorCode::LimitReached);
    drop(late);
    assert_eq!(upload.finish().await, Ok(state(MIB, true)));

    // A day later nothing refers to any of them, and there is room again.
    harness.now.fetch_add(25 * HOUR, Ordering::Relaxed);
    shop.upload(&second).await.unwrap();
    assert_eq!(stored(directory.path(), "images"), [hash(&second).to_string()]);

    let garden = Client::admin(&harness, "garden").await;
    for number in 0..4 {
        garden.open(ContentHash([number; 32]), 500, 0).await;
    }
    let (code, message) = failure(garden.begin(ContentHash([9; 32]), 500, 0).await);
    assert_eq!(code, ErrorCode::LimitReached);
    assert!(message.contains("4 are allowed"), "{message}");
    shop.open(ContentHash([9; 32]), 500, 0).await;
}

#[tokio::test]
async fn as_many_images_come_in_at_a_time_as_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let mut open = Vec::new();
    let (shop, garden) = (
        Client::admin(&harness, "shop").await,
        Client::admin(&harness, "garden").await,
    );
    for number in 0..4 {
        open.push(shop.open(ContentHash([number; 32]), 500, 0).await);
    }
    assert_eq!(
        failure(garden.begin(ContentHash([9; 32]), 500, 0).await).0,
        ErrorCode::Busy
    );
    open.pop();
    garden.open(ContentHash([9; 32]), 500, 0).await;
}

#[tokio::test]
async fn a_project_learns_nothing_of_the_images_of_another_and_shares_only_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let file = sif(1, 500);
    let image = hash(&file);
    let (shop, garden) = (
        Client::admin(&harness, "shop").await,
        Client::admin(&harness, "garden").await,
    );
    shop.upload(&file).await.unwrap();
    assert_eq!(garden.state(image).await, Ok(state(0, false)));
    let reference = format!("sha256:{image}\n");
    let refused = deploy(&harness, "garden", &reference).await.unwrap_err();
    assert!(
        refused.starts_with("NotFound") && refused.contains("has not been uploaded for this project"),
        "{refused}"
    );

    let mut upload = garden.open(image, 500, 0).await;
    upload.write(&file).await.unwrap();
    assert_eq!(upload.finish().await, Ok(state(500, true)));
    assert_eq!(stored(directory.path(), "images"), [image.to_string()]);
    for name in ["shop", "garden"] {
        deploy(&harness, name, &reference).await.unwrap();
    }
    harness.now.fetch_add(25 * HOUR, Ordering::Relaxed);
    for (name, left) in [("shop", 1), ("garden", 0)] {
        let header = Header {
            principal: harness.admin().await,
            project: harness.describe(name).await.unwrap().id,
            ..header(Role::Gate, Operation::DeleteProject)
        };
        harness.empty(&header, &()).await.unwrap();
        assert_eq!(stored(directory.path(), "images").len(), left, "after {name}");
    }
}

#[tokio::test]
async fn who_may_deploy_a_project_may_upload_for_it_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let files = [
        (
            "project.toml",
            &b"[project]\nname = \"shop\"\n[doee.a]\nbinary = \"a.so\"\n"[..],
        ),
        ("a.so", &shared_object(b"a")),
    ];
    harness.deploy_well(&files).await;
    let admin = harness.admin().await;
    let token = async |project: Option<&str>, right: Right| -> PrincipalId {
        let header = Header {
            principal: admin,
            ..header(Role::Gate, Operation::CreateToken)
        };
        let create = CreateToken {
            name: "ci".into(),
            project: project.map(Into::into),
            rights: vec![right],
            expires_in_s: None,
        };
        let created: CreatedToken = harness.body(&header, &create).await.unwrap();
        created.id
    };
    let client = |principal, project| Client {
        harness: &harness,
        principal,
        project,
    };
    let image = ContentHash([1; 32]);
    let own = token(Some("shop"), Right::Deploy).await;
    assert_eq!(client(own, "shop").state(image).await, Ok(state(0, false)));
    client(own, "shop").open(image, 500, 0).await;
    for other in ["garden", "shops"] {
        let refused = client(own, other);
        assert_eq!(failure(refused.state(image).await).0, ErrorCode::NotFound);
        assert_eq!(failure(refused.begin(image, 500, 0).await).0, ErrorCode::NotFound);
    }
    let reader = client(token(None, Right::Read).await, "shop");
    assert_eq!(failure(reader.state(image).await).0, ErrorCode::Forbidden);
    assert_eq!(failure(reader.begin(image, 500, 0).await).0, ErrorCode::Forbidden);
    let nameless = client(admin, "../shop");
    assert_eq!(failure(nameless.begin(image, 500, 0).await).0, ErrorCode::Invalid);

    let body = isms_protocol::encode(&UploadImage {
        project: "shop".into(),
        image,
        len: 500,
        offset: 0,
    });
    let header = Header {
        principal: admin,
        ..header(Role::Doer, Operation::UploadImage)
    };
    let refused = harness.service.begin_upload(&header, &body).await;
    assert_eq!(
        failure(refused).0,
        ErrorCode::Forbidden,
        "the Doer uploads nothing"
    );
}

#[tokio::test]
async fn what_nobody_goes_on_with_or_refers_to_is_removed_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    let shop = Client::admin(&harness, "shop").await;
    let (old, new) = (sif(1, 500), sif(2, 500));
    let begun = hash(&sif(3, 500));
    let mut upload = shop.open(begun, 500, 0).await;
    upload.write(b"begin").await.unwrap();
    upload.keep().await.unwrap();
    shop.upload(&old).await.unwrap();
    let reference = |file: &[u8]| format!("sha256:{}", hash(file));
    deploy(&harness, "shop", &reference(&old)).await.unwrap();

    harness.now.fetch_add(24 * HOUR + 1, Ordering::Relaxed);
    harness.service.sweep_images().await.unwrap();
    assert_eq!(
        shop.state(begun).await,
        Ok(state(0, false)),
        "a day is enough to go on"
    );
    assert!(stored(directory.path(), "uploads").is_empty());
    assert_eq!(shop.state(hash(&old)).await, Ok(state(500, true)), "it serves");

    shop.upload(&new).await.unwrap();
    deploy(&harness, "shop", &reference(&new)).await.unwrap();
    harness.now.fetch_add(HOUR - 1, Ordering::Relaxed);
    harness.service.sweep_images().await.unwrap();
    assert_eq!(
        stored(directory.path(), "images").len(),
        2,
        "calls of before may still need it"
    );
    harness.now.fetch_add(2, Ordering::Relaxed);
    harness.service.sweep_images().await.unwrap();
    assert_eq!(stored(directory.path(), "images"), [hash(&new).to_string()]);
}

/// Deploys a project whose only Doee runs in an image, with this in the place of the image.
async fn deploy(harness: &Harness, name: &str, reference: &str) -> Result<(), String> {
    let manifest =
        format!("[project]\nname = \"{name}\"\n[doee.a]\nbinary = \"a.so\"\nimage = \"images/x.sif\"\n");
    let files = [
        ("project.toml", manifest.as_bytes()),
        ("a.so", &shared_object(b"a")),
        ("images/x.sif", reference.as_bytes()),
    ];
    match harness.deploy(&files).await.pop() {
        Some(DeployEvent::Deployed { .. }) => Ok(()),
        Some(DeployEvent::Failed { code, message }) => Err(format!("{code}: {message}")),
        other => panic!("no end: {other:?}"),
    }
}
