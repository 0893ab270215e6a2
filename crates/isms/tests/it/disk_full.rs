//! A disk without room: what needs some is refused with a clear error, nothing is damaged, and all goes on when there is
//! room again.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    process::geteuid,
};

use crate::{
    data::with_database,
    harness::{Platform, binaries},
    images::{deploy, files, noise, project, root, stderr},
    project::{Project, c_doee, manifest, shared_object},
};

const MIB: u64 = 1 << 20;
/// Room for a platform with its programs as they are built for tests, and for a few images.
const DISK_LEN: u64 = 256 * MIB;
/// Of an image, so that there can be room for one and not for two.
const NOISE_LEN: u64 = 12 * MIB;

/// A file system of memory, in a mount namespace that ends with this process.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path) -> Disk {
        let options = format!("size={DISK_LEN},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "isms-test"])
            .arg(folder)
            .status();
        assert!(mounted.unwrap().success());
        Disk {
            folder: folder.to_owned(),
        }
    }

    /// Takes all but `left` bytes.
    fn fill_but(&self, left: u64) {
        self.make_room();
        let disk = statvfs(&self.folder).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        let filler = File::create(self.filler()).unwrap();
        assert!(free > left, "{free} bytes are free");
        fallocate(&filler, FallocateFlags::empty(), 0, free - left).unwrap();
    }

    fn make_room(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

/// Where the other half of a test mounts its disk; it cannot remove that folder itself.
const FOLDER: &str = "ISMS_TEST_DISK";

/// Runs the other half of a test where it may mount, so that no mount is left however that ends.
fn on_a_disk_of_its_own(test: &str) {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root can mount a small disk");
        return;
    }
    if binaries().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new("unshare")
        .env(FOLDER, folder.path())
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{said}"
    );
    if let Some(reason) = said.lines().find(|line| line.starts_with("SKIPPED: ")) {
        eprintln!("{reason}");
    }
}

fn start() -> (Disk, Platform) {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the test above says where"));
    let disk = Disk::mount(&folder);
    let platform = Platform::start_below(&folder).unwrap();
    (disk, platform)
}

fn refused(what: &str, output: &Output) {
    assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(output));
    assert!(
        stderr(output).contains("disk is full"),
        "{what}: {}",
        stderr(output)
    );
}

#[test]
fn an_image_for_which_the_disk_has_no_room_is_refused_and_taken_when_there_is_some() {
    on_a_disk_of_its_own("disk_full::images_on_a_small_disk");
}

#[test]
#[ignore = "is the process with the small disk of the test above"]
fn images_on_a_small_disk() {
    let (disk, platform) = start();
    platform.deploy(project("shop", "").path());
    let inside = project("shop", "image = \"root\"");
    let Some(()) = root(&inside) else { return };
    fs::write(inside.path().join("root/noise"), noise(NOISE_LEN as usize)).unwrap();
    disk.fill_but(NOISE_LEN / 2);
    refused("an upload", &deploy(&platform, &inside));
    assert_eq!(platform.get("/shop/").text(), "no image");
    assert!(files(&platform, "images").is_empty());
    // There is room for what is uploaded, and not for the copy that workers get.
    disk.fill_but(NOISE_LEN + NOISE_LEN / 2);
    let output = deploy(&platform, &inside);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("no room") && said.contains("what ran before still runs"),
        "{said}"
    );
    assert_eq!(files(&platform, "images").len(), 1, "{said}");
    assert_eq!(platform.get("/shop/").text(), "no image");
    disk.make_room();
    let output = deploy(&platform, &inside);
    assert!(stderr(&output).contains("unchanged  root"), "{}", stderr(&output));
    assert_eq!(platform.get("/shop/").text(), "of the image");
}

#[test]
fn what_cannot_be_stored_for_want_of_room_is_refused_and_what_is_there_is_kept() {
    on_a_disk_of_its_own("disk_full::binaries_and_rows_on_a_small_disk");
}

#[test]
#[ignore = "is the process with the small disk of the test above"]
fn binaries_and_rows_on_a_small_disk() {
    let (disk, platform) = start();
    let execute = "isms_rows rows; int count = query_is(call, \"count\"); const char *sql = count ? \
        \"select count(*) from items\" : \"insert into items (name) values (hex(randomblob(200000)))\"; \
        isms_result r = run(call, \"store\", sql, &rows); if (r || !count) return tell(call, r); \
        char t[32]; snprintf(t, sizeof t, \"%ld\", (long)rows.values[0].as.integer); return say(call, t);";
    platform.deploy(with_database("rows", "", execute).path());
    assert_eq!(platform.get("/rows/").text(), "0 ");
    let manifest = manifest("shop", "").replace("source = \"doees/main\"", "binary = \"main.so\"");
    // Two versions, of several MiB.
    let binary = |says: &str| {
        let mut binary = shared_object(&c_doee(&format!("return say(call, \"{says}\");")), &[]);
        binary.extend(noise(4 * MIB as usize));
        Project::new(&manifest).file("main.so", binary)
    };
    platform.deploy(binary("old").path());
    disk.fill_but(0);
    refused("a binary", &deploy(&platform, &binary("new")));
    assert_eq!(platform.get("/shop/").text(), "old");
    let answer = platform.get("/rows/").text();
    assert!(answer.starts_with("6 "), "a row: {answer}");
    assert_eq!(platform.get("/rows/?count").text(), "1");
    refused(
        "a new project",
        &deploy(&platform, &Project::c("more", "return say(call, \"more\");")),
    );
    disk.make_room();
    platform.deploy(binary("new").path());
    assert_eq!(platform.get("/shop/").text(), "new");
    assert_eq!(platform.get("/rows/").text(), "0 ");
    // Nothing was damaged that a restart would find.
    let platform = platform.restart();
    assert_eq!(platform.get("/shop/").text(), "new");
    assert_eq!(platform.get("/rows/?count").text(), "2");
}
