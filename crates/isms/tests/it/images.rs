//! Images on the running platform: uploaded, taken up again, refused, and Doees that run in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use isms_sandbox::sif::{self, Arch};
use rustix::process::{Signal, geteuid};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    harness::{Http, Platform, Response, binaries, eventually, signal},
    project::{Project, c_doee},
};

const MIB: usize = 1 << 20;

/// A SIF file with so many bytes of its own in the place of a squashfs.
fn sif(content: u8, len: usize) -> Vec<u8> {
    let mut squashfs = vec![content; len];
    squashfs[..4].copy_from_slice(b"hsqs");
    squashfs[40..48].copy_from_slice(&(len as u64).to_le_bytes());
    let mut image = Vec::new();
    sif::wrap(&mut squashfs.as_slice(), len as u64, Arch::HOST, &mut image).unwrap();
    image
}

fn hex(file: &[u8]) -> String {
    Sha256::digest(file)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A project whose one Doee has these keys; it says what stands in a file of its root.
fn project(name: &str, keys: &str) -> Project {
    let manifest = format!(
        "[project]\nname = \"{name}\"\n[doee.main]\nlanguage = \"c\"\nsource = \"doees/main\"\n{keys}\n\
         [[trigger]]\nhttp = \"GET /\"\nauth = \"none\"\ndoee = \"main\"\n"
    );
    let execute = r#"
        char text[100] = "no image";
        FILE *file = fopen("/etc/image", "r");
        if (file) { size_t len = fread(text, 1, sizeof text - 1, file); text[len] = 0; fclose(file); }
        return say(call, text);"#;
    Project::new(&manifest).file("doees/main/main.c", c_doee(execute))
}

fn deploy(platform: &Platform, project: &Project) -> Output {
    platform.isms(&["deploy", project.path().to_str().unwrap()])
}

/// What the platform says of a deployment that it refuses.
fn refused(platform: &Platform, project: &Project) -> String {
    let output = deploy(platform, project);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    stderr(&output)
}

/// A request about an image of the project `shop`, as the administrator.
fn request(platform: &Platform, method: &str, image: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
    let token = format!("Bearer {}", platform.admin_token());
    let mut headers = vec![("authorization", token.as_str())];
    headers.extend_from_slice(fields);
    let path = format!("/api/v1/projects/shop/images/{image}");
    Http::connect(platform.gate).send(method, &path, &headers, body)
}

fn upload(platform: &Platform, image: &str, offset: usize, len: usize, body: &[u8]) -> Response {
    let (offset, len) = (offset.to_string(), len.to_string());
    let fields = [
        ("upload-offset", offset.as_str()),
        ("upload-length", len.as_str()),
    ];
    request(platform, "PATCH", image, &fields, body)
}

fn standing(platform: &Platform, image: &str) -> Value {
    request(platform, "GET", image, &[], b"").json()
}

fn files(platform: &Platform, folder: &str) -> Vec<PathBuf> {
    let folder = platform.data.path().join("resadmin").join(folder);
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A root with the executor's libraries and a file that a Doee can look at; no image can be made without mksquashfs.
fn root(project: &Project) -> Option<()> {
    if Command::new("mksquashfs").arg("-version").output().is_err() {
        eprintln!("SKIPPED: mksquashfs is missing here");
        return None;
    }
    let root = project.path().join("root");
    for folder in ["etc", "tmp", "proc", "dev", "data"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/image"), "of the image").unwrap();
    let listed = Command::new("ldd")
        .arg(binaries()?.join("doee-executor"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(library, target).unwrap();
    }
    Some(())
}

/// Images are mounted by root only.
fn is_root() -> bool {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: images are mounted by root only");
    }
    geteuid().is_root()
}

/// The layer `apptainer` as `isms doctor` shows it.
fn apptainer(platform: &Platform) -> Value {
    let shown = platform.isms(&["doctor", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let layers = shown["layers"].as_array().unwrap();
    let mut named = layers.iter().filter(|layer| layer["name"] == "apptainer");
    named.next().expect("doctor knows Apptainer").clone()
}

fn has_apptainer(platform: &Platform) -> bool {
    let layer = apptainer(platform);
    let detail = layer["detail"].as_str().unwrap();
    let there = layer["proven"] == true || detail.contains("is there");
    if !there {
        eprintln!("SKIPPED: Apptainer cannot be used here: {detail}");
    }
    there
}

fn runs_in_its_image(platform: &Platform, isolation: &str) {
    let keys = format!("isolation = \"{isolation}\"\nimage = \"root\"");
    let project = project("inside", &keys);
    let Some(()) = root(&project) else { return };
    let output = deploy(platform, &project);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("tried      a worker of main"),
        "{}",
        stderr(&output)
    );
    assert_eq!(platform.get("/inside/").text(), "of the image");
    let worker = platform.workers("inside").remove(0);
    assert_eq!(worker["backend"], isolation);
    assert_eq!(
        files(platform, "images"),
        [platform
            .data
            .path()
            .join("resadmin/images")
            .join(worker["image"].as_str().unwrap())]
    );
    eventually("a second worker of the image that is ready", || {
        let empty = platform.workers("");
        empty
            .iter()
            .any(|other| {
                other["image"] == worker["image"]
                    && other["backend"] == isolation
                    && other["state"] == "empty"
            })
            .then_some(())
    });
    let again = deploy(platform, &project);
    assert!(stderr(&again).contains("unchanged  root"), "{}", stderr(&again));
}

#[test]
fn a_doee_runs_in_its_image_without_apptainer() {
    let Some(platform) = Platform::start().filter(|_| is_root()) else {
        return;
    };
    runs_in_its_image(&platform, "native");
}

#[test]
fn a_doee_runs_in_its_image_by_apptainer() {
    let Some(platform) = Platform::start().filter(|platform| is_root() && has_apptainer(platform)) else {
        return;
    };
    runs_in_its_image(&platform, "apptainer");
    assert_eq!(
        apptainer(&platform)["proven"],
        true,
        "its first use has proven it"
    );
}

#[test]
fn an_upload_that_a_client_left_is_gone_on_with_by_the_next() {
    let Some(platform) = Platform::start() else { return };
    let project = project("shop", "image = \"x.sif\"");
    let image = sif(1, 4 * MIB);
    fs::write(project.path().join("x.sif"), &image).unwrap();
    let half = 2 * MIB + 11;
    let head = format!(
        "PATCH /api/v1/projects/shop/images/{} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nupload-offset: \
         0\r\nupload-length: {}\r\ncontent-length: {}\r\n\r\n",
        hex(&image),
        platform.gate,
        platform.admin_token(),
        image.len(),
        image.len()
    );
    let mut client = Http::connect(platform.gate);
    client.write(head.as_bytes()).unwrap();
    client.write(&image[..half]).unwrap();
    drop(client);
    // The rest was on its way and went with the connection.
    eventually("what the client has sent, but for the last of it", || {
        let offset = standing(&platform, &hex(&image))["offset"].as_u64()?;
        (MIB as u64..=half as u64).contains(&offset).then_some(())
    });
    let output = deploy(&platform, &project);
    assert!(
        stderr(&output).contains("uploaded   x.sif"),
        "{}",
        stderr(&output)
    );
    assert_eq!(standing(&platform, &hex(&image))["complete"], true);
    let stored = files(&platform, "images").remove(0);
    assert_eq!(fs::read(stored).unwrap(), image);
    assert!(files(&platform, "uploads").is_empty());
}

#[test]
fn a_client_goes_on_by_itself_when_resadmin_is_killed_under_its_upload() {
    let Some(platform) = Platform::start() else { return };
    let project = project("shop", "image = \"x.sif\"");
    let image = sif(1, 48 * MIB);
    fs::write(project.path().join("x.sif"), &image).unwrap();
    let deploying = platform
        .command(&["deploy", project.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let resadmin = platform.process("resadmin").unwrap();
    let arrived = eventually("the first bytes", || {
        let file = files(&platform, "uploads").pop()?;
        let len = fs::metadata(file).ok()?.len();
        (len > 0).then_some(len)
    });
    resadmin.kill();
    assert!(arrived < image.len() as u64, "it was killed in the middle");
    let output = deploying.wait_with_output().unwrap();
    assert!(
        stderr(&output).contains("uploaded   x.sif"),
        "{}",
        stderr(&output)
    );
    let stored = files(&platform, "images").remove(0);
    assert!(fs::read(stored).unwrap() == image, "every byte is there once");
}

#[test]
fn what_is_not_the_image_that_it_is_said_to_be_is_not_kept() {
    let Some(platform) = Platform::start() else { return };
    let (image, other) = (sif(1, MIB), sif(2, MIB));
    let damaged = upload(&platform, &hex(&image), 0, image.len(), &other);
    assert_eq!(damaged.status, 400, "{}", damaged.text());
    assert!(damaged.text().contains(&hex(&other)), "{}", damaged.text());
    let text = vec![b'x'; 1000];
    let no_sif = upload(&platform, &hex(&text), 0, text.len(), &text);
    assert_eq!(no_sif.status, 400);
    assert!(no_sif.text().contains("not a SIF image"), "{}", no_sif.text());
    let elsewhere = upload(&platform, &hex(&image), 5, image.len(), &image[5..]);
    assert_eq!(elsewhere.status, 409, "{}", elsewhere.text());
    for image in [&image, &other] {
        let standing = standing(&platform, &hex(image));
        assert_eq!(
            (&standing["offset"], &standing["complete"]),
            (&0.into(), &false.into())
        );
    }
    assert!(files(&platform, "images").is_empty() && files(&platform, "uploads").is_empty());
}

#[test]
fn images_keep_within_the_administrators_limits_and_projects_share_the_file() {
    let settings = ["[images]", "size_mb_max = 2", "disk_mb_max = 3"];
    let Some(platform) = Platform::start_with(&settings) else {
        return;
    };
    let large = project("shop", "image = \"x.sif\"").file("x.sif", sif(1, 2 * MIB));
    let error = refused(&platform, &large);
    assert!(
        error.contains("size_mb_max") || error.contains("too large"),
        "{error}"
    );
    let image = sif(2, MIB + MIB / 2);
    assert_eq!(
        upload(&platform, &hex(&image), 0, image.len(), &image).status,
        200
    );
    let second = project("garden", "image = \"x.sif\"").file("x.sif", sif(3, MIB + MIB / 2));
    let error = refused(&platform, &second);
    assert!(error.contains("disk_mb_max"), "{error}");
    // The same one is uploaded for another project, beside itself while it comes in, and kept once.
    let same = project("garden", "image = \"x.sif\"").file("x.sif", &image);
    let error = refused(&platform, &same);
    assert!(
        error.contains("disk_mb_max"),
        "its bytes have to come in first: {error}"
    );
    let small = sif(4, MIB / 4);
    assert_eq!(
        upload(&platform, &hex(&small), 0, small.len(), &small).status,
        200
    );
    let shared = project("garden", "image = \"x.sif\"").file("x.sif", &small);
    let output = deploy(&platform, &shared);
    assert!(
        stderr(&output).contains("uploaded   x.sif"),
        "{}",
        stderr(&output)
    );
    assert_eq!(files(&platform, "images").len(), 2);
}

#[test]
fn an_image_in_which_nothing_can_start_fails_the_deployment_and_the_old_version_serves() {
    let Some(platform) = Platform::start().filter(|_| is_root()) else {
        return;
    };
    platform.deploy(project("shop", "").path());
    assert_eq!(platform.get("/shop/").text(), "no image");
    let apptainer = has_apptainer(&platform);
    let isolations = ["native", "apptainer"]
        .into_iter()
        .take(if apptainer { 2 } else { 1 });
    for isolation in isolations {
        let keys = format!("isolation = \"{isolation}\"\nimage = \"root\"");
        let corrupt = project("shop", &keys.replace("root", "x.sif")).file("x.sif", sif(1, MIB));
        let error = refused(&platform, &corrupt);
        assert!(
            error.contains("what ran before still runs") && error.contains("doee main"),
            "{isolation}: {error}"
        );
        let empty = project("shop", &keys);
        if root(&empty).is_some() {
            for libraries in ["lib", "lib64", "usr"] {
                let _ = fs::remove_dir_all(empty.path().join("root").join(libraries));
            }
            let error = refused(&platform, &empty);
            assert!(
                error.contains("ld-linux") || error.contains("libc"),
                "{isolation}: {error}"
            );
        }
        assert_eq!(platform.get("/shop/").text(), "no image");
    }
}

#[test]
fn unknown_isolation_and_images_that_are_not_there_are_refused() {
    let Some(platform) = Platform::start() else { return };
    let error = refused(&platform, &project("shop", "isolation = \"docker\""));
    assert!(
        error.contains("project.toml:6") && error.contains("docker"),
        "{error}"
    );
    let error = refused(&platform, &project("shop", "isolation = \"apptainer\""));
    assert!(error.contains("name its file or folder with image"), "{error}");
    for (keys, word) in [
        ("image = \"x.sif\"", "x.sif"),
        ("image = \"../x.sif\"", "../x.sif"),
        ("image = \"doees/main/main.c\"", "not a SIF image"),
    ] {
        let output = deploy(&platform, &project("shop", keys));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    // Truncated after it was made.
    let mut image = sif(1, MIB);
    image.truncate(MIB / 2);
    let output = deploy(
        &platform,
        &project("shop", "image = \"x.sif\"").file("x.sif", &image),
    );
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("truncated"), "{}", stderr(&output));
    assert_eq!(platform.get("/shop/").status, 404);
}

#[test]
fn an_interrupted_client_leaves_what_it_has_sent_and_nothing_else() {
    let Some(platform) = Platform::start() else { return };
    if Command::new("mksquashfs").arg("-version").output().is_err() {
        return eprintln!("SKIPPED: mksquashfs is missing here");
    }
    let project = project("shop", "image = \"root\"");
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(project.path().join("root")).unwrap();
    fs::write(project.path().join("root/noise"), noise(6 * MIB)).unwrap();
    let start = || {
        platform
            .command(&["deploy", project.path().to_str().unwrap()])
            .env("TMPDIR", scratch.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut client = start();
    eventually("the first bytes", || files(&platform, "uploads").pop());
    signal(client.id(), Signal::KILL);
    client.wait().unwrap();
    let output = start().wait_with_output().unwrap();
    assert!(
        stderr(&output).contains("uploaded   root"),
        "packed again, it is the same file: {}",
        stderr(&output)
    );
    assert_eq!(files(&platform, "images").len(), 1);
    assert!(files(&platform, "uploads").is_empty());
    assert!(
        leftovers(scratch.path()) <= 1,
        "only the killed one could not clean up"
    );
}

fn leftovers(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// So many bytes that no compression shortens.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u64 / 32)
        .flat_map(|number| Sha256::digest(number.to_le_bytes()))
        .collect()
}
