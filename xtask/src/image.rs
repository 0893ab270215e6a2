//! `cargo xtask image`: images to run Doees in, made of the packages that Debian serves, without a registry.
//!
//! Each is a directory of unpacked packages and the executor, packed by mksquashfs and wrapped as SIF. Nothing of the
//! packages is run, no time and no random number gets in, so equal packages give equal bytes.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use isms_sandbox::sif::{self, Arch};

use crate::{build, command, install, progress::Steps, workspace};

/// An image by its name and what is unpacked into it.
#[derive(Debug)]
pub(crate) struct Image {
    name: &'static str,
    packages: &'static [&'static [&'static str]],
}

/// What a Doee in C or C++ links to.
const RUNTIME: &[&str] = &["libc6", "libgcc-s1", "libstdc++6"];
/// Debian 12's Python with its standard library, less what needs a terminal or old databases.
const PYTHON: &[&str] = &[
    "python3-minimal",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libbz2-1.0",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "zlib1g",
];

/// All images.
const IMAGES: [Image; 2] = [
    Image {
        name: "minimal",
        packages: &[RUNTIME],
    },
    Image {
        name: "python",
        packages: &[RUNTIME, PYTHON],
    },
];

/// Places of an image where something is mounted.
const MOUNT_POINTS: [&str; 6] = ["dev", "proc", "sys", "tmp", "var/tmp", "data"];
/// What no program in a worker reads: documentation, translations, and tables of character sets.
const LEFT_OUT: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
];

impl Image {
    /// The images with one of these names; all of them, when there is none.
    pub(crate) fn named(names: &[&str]) -> Option<Vec<&'static Image>> {
        let named = |name: &&str| IMAGES.iter().find(|image| image.name == *name);
        match names {
            [] => Some(IMAGES.iter().collect()),
            names => names.iter().map(named).collect(),
        }
    }
}

/// Builds images into `target/images`; prints the path of each.
pub(crate) fn run(images: &[&Image]) -> Result<ExitCode> {
    let mut steps = Steps::new(2 + images.len());
    steps.run("tools", || {
        install::ensure_all(&[&install::C_COMPILER, &install::MKSQUASHFS])
    })?;
    let executor = steps.run("executor", build::executor_release)?;
    let folder = workspace::target().join("images");
    let mut made = Vec::new();
    for image in images {
        let path = steps.run(image.name, || make(image, &executor, &folder))?;
        made.push(path);
    }
    eprintln!("finished in {}", steps.elapsed());
    for path in &made {
        println!("{}", path.display());
    }
    if let [path, ..] = made.as_slice() {
        eprintln!(
            "next: copy one into your project, say `image = \"…\"` in its project.toml, and `isms deploy` it"
        );
        eprintln!(
            "      look around in it: apptainer exec --containall --no-privs --no-home {} …",
            path.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn make(image: &Image, executor: &Path, folder: &Path) -> Result<PathBuf> {
    let (packages, root) = (folder.join("packages"), folder.join(image.name));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for directory in [&packages, &root] {
        make_directory(directory)?;
    }
    for package in download(&image.packages.concat(), &packages)? {
        command::run(Command::new("dpkg-deb").arg("-x").args([&package, &root]))?;
    }
    for name in LEFT_OUT {
        // Not every package has all of it.
        let _ = fs::remove_dir_all(root.join(name));
    }
    for name in MOUNT_POINTS.into_iter().chain(["isms"]) {
        make_directory(&root.join(name))?;
    }
    let inside = root.join("isms/doee-executor");
    fs::copy(executor, &inside).with_context(|| format!("cannot copy {}", executor.display()))?;
    fs::set_permissions(&inside, Permissions::from_mode(0o755))
        .context("cannot make the executor executable")?;
    let path = root.with_extension("sif");
    pack(&root, &path)?;
    Ok(path)
}

/// Fetches packages, unless their current versions are there; returns their files.
fn download(names: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    // A line for each that is not there, such as: 'http://…/libc6_2.36-9_amd64.deb' libc6_2.36-9_amd64.deb 2759320 …
    let missing = apt_download(&[&["--print-uris"], names].concat(), folder)?;
    for file in missing.lines().filter_map(|line| line.split_whitespace().nth(1)) {
        let (name, _) = file.split_once('_').unwrap_or((file, ""));
        if let Some(outdated) = find_package(name, folder)? {
            fs::remove_file(&outdated).with_context(|| format!("cannot remove {}", outdated.display()))?;
        }
    }
    apt_download(names, folder)?;
    let found = names.iter().map(|name| {
        find_package(name, folder)?
            .with_context(|| format!("apt-get said that it fetched {name}, and it is not there"))
    });
    found.collect()
}

fn find_package(name: &str, folder: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let prefix = format!("{name}_");
    let mut found = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    Ok(found.next().map(|entry| entry.path()))
}

fn apt_download(arguments: &[&str], folder: &Path) -> Result<String> {
    let mut apt = Command::new("apt-get");
    // Not as apt's own user, who may not write to the folder.
    apt.args(["download", "-q", "-o", "APT::Sandbox::User="])
        .args(arguments)
        .current_dir(folder);
    let output = apt
        .output()
        .context("cannot start apt-get; images are made of Debian's packages")?;
    ensure!(
        output.status.success(),
        "`{}` failed ({}); `apt-get update` may help, and the images are made of Debian 12's packages",
        command::quote(&apt),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Packs `root` and wraps it as SIF in `path`.
fn pack(root: &Path, path: &Path) -> Result<()> {
    let squashfs = root.with_extension("squashfs");
    let mut pack = Command::new("mksquashfs");
    pack.args([root, squashfs.as_path()])
        .args([
            "-noappend",
            "-quiet",
            "-no-progress",
            "-comp",
            "zstd",
            "-no-xattrs",
            "-all-root",
        ])
        .args(["-mkfs-time", "0", "-all-time", "0"])
        // It would contradict the two before.
        .env_remove("SOURCE_DATE_EPOCH");
    command::run(&mut pack)?;
    let mut file = File::open(&squashfs).with_context(|| format!("cannot open {}", squashfs.display()))?;
    let len = file.metadata().context("cannot measure the squashfs")?.len();
    let fresh = path.with_extension("new");
    let mut image = File::create(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    sif::wrap(&mut file, len, Arch::HOST, &mut image)?;
    fs::remove_file(&squashfs).context("cannot remove the squashfs")?;
    // By rename, so that whoever uses the old one keeps it whole.
    fs::rename(&fresh, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// Makes a directory that everybody may enter, and those above it; fine when it is there.
fn make_directory(path: &Path) -> Result<()> {
    let made =
        fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)));
    made.with_context(|| format!("cannot make {}", path.display()))
}
