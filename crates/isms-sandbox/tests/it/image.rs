//! Small SIF images for tests, made by mksquashfs and our own writer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use isms_sandbox::{
    linux::process::effective_uid,
    sif::{self, Arch},
    spawner::{Environment, ImageHash},
};
use sha2::{Digest, Sha256};

use crate::platform::Platform;

/// A root under construction, and the image that is made of it.
pub(crate) struct Image {
    tree: PathBuf,
}

/// False, said aloud, where no image can be a native root.
pub(crate) fn can_mount_images() -> bool {
    if effective_uid() != 0 {
        eprintln!("SKIPPED: only root can make a root of an image");
        return false;
    }
    if Command::new("mksquashfs").arg("-version").output().is_err() {
        eprintln!("SKIPPED: mksquashfs is missing");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED: there are no loop devices");
        return false;
    }
    true
}

/// A native worker in that image.
pub(crate) fn worker_in(image: ImageHash) -> Environment {
    Environment {
        image: Some(image),
        ..Environment::WORKER
    }
}

impl Image {
    /// An empty root.
    pub(crate) fn empty(platform: &Platform, name: &str) -> Self {
        let tree = platform.directory.join(name);
        fs::create_dir(&tree).unwrap();
        Self { tree }
    }

    /// With the host's loader and C library, which the tests' executor needs, and a file to be known by.
    pub(crate) fn with_libraries(platform: &Platform, name: &str) -> Self {
        let image = Self::empty(platform, name);
        let needed = Command::new("ldd")
            .arg(platform.directory.join("executor"))
            .output()
            .unwrap();
        let needed = String::from_utf8(needed.stdout).unwrap();
        let paths = needed.split_whitespace().filter(|word| word.starts_with('/'));
        for path in paths {
            image.copy(path);
        }
        image.write("opt/marker", name);
        image
    }

    fn copy(&self, path: &str) {
        let target = self.tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }

    /// A file in it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let target = self.tree.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, content).unwrap();
    }

    /// The first file of that name, wherever it is.
    pub(crate) fn find(&self, name: &str) -> PathBuf {
        let found = Command::new("find")
            .arg(&self.tree)
            .args(["-name", name])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        found.lines().next().unwrap().into()
    }

    /// The bytes of the image; further arguments are mksquashfs's.
    pub(crate) fn bytes(&self, arguments: &[&str], arch: Arch) -> Vec<u8> {
        let squashfs = self.tree.with_extension("squashfs");
        let made = Command::new("mksquashfs")
            .args([&self.tree, &squashfs])
            .args(["-noappend", "-quiet", "-no-progress", "-all-root"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let squashfs = fs::read(&squashfs).unwrap();
        let mut image = Vec::new();
        sif::wrap(&mut &squashfs[..], squashfs.len() as u64, arch, &mut image).unwrap();
        image
    }

    /// Puts the image where Resadmin keeps images.
    pub(crate) fn publish(&self, platform: &Platform) -> ImageHash {
        publish(platform, &self.bytes(&[], Arch::HOST))
    }
}

/// Puts bytes where Resadmin keeps images, under their hash.
pub(crate) fn publish(platform: &Platform, bytes: &[u8]) -> ImageHash {
    let hash = ImageHash(Sha256::digest(bytes).into());
    fs::write(published(platform, hash), bytes).unwrap();
    hash
}

/// Where Resadmin keeps it.
pub(crate) fn published(platform: &Platform, hash: ImageHash) -> PathBuf {
    platform.directory.join("images").join(hash.to_string())
}
