//! The images that a project's manifest names: found in its folder, packed where they are folders, hashed.
//!
//! Nothing outside of the project's folder is read, wherever a manifest or a link points: a stranger's project must
//! not upload its deployer's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use isms_protocol::ContentHash;
use isms_sandbox::sif::{self, Arch, SifError};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::output::{Bar, plain};

/// Bytes that are hashed at a time.
const PIECE_LEN: usize = 1 << 20;

/// What is needed of a manifest before it is sent. Whatever is wrong with it, the platform says with line and key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sketch {
    project: SketchProject,
    doee: BTreeMap<String, SketchDoee>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SketchProject {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SketchDoee {
    image: Option<String>,
}

/// The images of a project, by their paths in the manifest.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) project: String,
    pub(super) paths: BTreeSet<String>,
}

/// An image that can be uploaded.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: String,
    pub(super) hash: ContentHash,
    pub(super) len: u64,
    pub(super) file: File,
    /// Where a folder was packed to; goes with this.
    _packed: Option<Scratch>,
}

/// Reads which images a manifest names.
pub(super) fn named(manifest: &str) -> Named {
    let sketch: Sketch = toml::from_str(manifest).unwrap_or_default();
    Named {
        project: sketch.project.name,
        paths: sketch.doee.into_values().filter_map(|doee| doee.image).collect(),
    }
}

/// Opens an image of a project's folder, packs it if it is a folder itself, and takes its hash.
pub(super) fn open(folder: &Path, path: &str) -> Result<Image> {
    let shown = plain(path);
    let found = within(folder, path)?;
    let metadata = fs::metadata(&found).with_context(|| format!("cannot look at the image {shown}"))?;
    let (file, packed) = if metadata.is_dir() {
        let scratch = Scratch::new()?;
        (pack(&found, &scratch.0)?, Some(scratch))
    } else {
        ensure!(
            metadata.is_file(),
            "the image {shown} is neither a file nor a folder"
        );
        let file = File::open(&found).with_context(|| format!("cannot open the image {shown}"))?;
        (file, None)
    };
    match sif::read(&file) {
        // The platform may be another machine than this one; it looks itself.
        Ok(_) | Err(SifError::Arch { .. }) => {}
        Err(error) => return Err(error).with_context(|| format!("the image {shown} cannot be used")),
    }
    let (hash, len) = hash(&file, &shown)?;
    Ok(Image {
        path: path.to_owned(),
        hash,
        len,
        file,
        _packed: packed,
    })
}

/// The place of an image, links followed, if it is in the project's folder.
fn within(folder: &Path, path: &str) -> Result<PathBuf> {
    let shown = plain(path);
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    let plain_parts = parts
        .iter()
        .all(|part| matches!(part, Component::Normal(name) if !name.to_string_lossy().starts_with('.')));
    ensure!(
        plain_parts && !parts.is_empty() && !path.starts_with("data/"),
        "the image {shown:?} is not uploaded from there; name a place in the project's folder, not hidden and not in \
         data/, like images/x.sif"
    );
    let root = folder
        .canonicalize()
        .with_context(|| format!("cannot find {}", folder.display()))?;
    let found = root
        .join(path)
        .canonicalize()
        .with_context(|| format!("cannot find the image {shown} that project.toml names"))?;
    ensure!(
        found.starts_with(&root) && found != root,
        "the image {shown} is a link that leads out of the project's folder; copy the file"
    );
    Ok(found)
}

/// Packs a folder so that equal content gives an equal file: no times, no owners, no extended attributes.
fn pack(folder: &Path, scratch: &Path) -> Result<File> {
    let (squashfs, image) = (scratch.join("root.squashfs"), scratch.join("image.sif"));
    eprintln!("packing    {}", folder.display());
    let packed = Command::new("mksquashfs")
        .args([folder, squashfs.as_path()])
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
        .env_remove("SOURCE_DATE_EPOCH")
        .output();
    let packed = match packed {
        Ok(packed) => packed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "mksquashfs is missing, which makes an image of the folder {}; install squashfs-tools (Debian: apt-get \
             install squashfs-tools), or name a SIF file",
            folder.display()
        ),
        Err(error) => return Err(error).context("cannot start mksquashfs"),
    };
    ensure!(
        packed.status.success(),
        "mksquashfs could not pack {}: {}",
        folder.display(),
        plain(String::from_utf8_lossy(&packed.stderr).trim())
    );
    let mut root = File::open(&squashfs).context("cannot open what mksquashfs made")?;
    let len = root
        .metadata()
        .context("cannot measure what mksquashfs made")?
        .len();
    let mut file = File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
    sif::wrap(&mut root, len, Arch::HOST, &mut file)?;
    fs::remove_file(&squashfs).ok();
    File::open(&image).with_context(|| format!("cannot open {}", image.display()))
}

fn hash(file: &File, shown: &str) -> Result<(ContentHash, u64)> {
    let total = file.metadata().context("cannot measure an image")?.len();
    let mut bar = Bar::new(format!("checking   {shown}"), total);
    let (mut hasher, mut len) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match (&*file).read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
                len += count as u64;
                bar.advance(len);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read the image {shown}")),
        }
    }
    bar.clear();
    Ok((ContentHash(hasher.finalize().into()), len))
}

/// A folder for what goes when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("isms-image-{}-{number}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}; set TMPDIR to a folder with room", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_a_manifest_are_found_each_once() {
        let named = named(
            "[project]\nname = \"p\"\n[doee.a]\nimage = \"i/x.sif\"\n[doee.b]\nimage = \"i/x.sif\"\n[doee.c]\n\
             memory_mb = 64\n",
        );
        assert_eq!(named.project, "p");
        assert_eq!(named.paths.into_iter().collect::<Vec<_>>(), ["i/x.sif"]);
    }

    #[test]
    fn a_manifest_that_is_wrong_is_left_to_the_platform() {
        for wrong in ["[project", "[doee.a]\nimage = 1\n", ""] {
            assert!(super::named(wrong).paths.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn nothing_outside_of_the_folder_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let (inside, outside) = (scratch.path().join("project"), scratch.path().join("secret"));
        fs::create_dir(&inside).unwrap();
        fs::write(&outside, "secret").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        fs::write(inside.join(".hidden"), "x").unwrap();
        for path in [
            "../secret",
            "link",
            "up/secret",
            "up",
            "",
            ".",
            ".hidden",
            "data/x.sif",
            outside.to_str().unwrap(),
            "a/../../secret",
        ] {
            assert!(open(&inside, path).is_err(), "{path}");
        }
        let missing = open(&inside, "images/x.sif").unwrap_err();
        assert!(format!("{missing:#}").contains("images/x.sif"), "{missing:#}");
    }

    #[test]
    fn a_file_that_is_no_image_is_refused_before_it_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.sif"), "#!/bin/sh\n").unwrap();
        let error = format!("{:#}", open(folder.path(), "x.sif").unwrap_err());
        assert!(
            error.contains("x.sif") && error.contains("not a SIF image"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_becomes_an_image_and_equal_folders_become_equal_ones() {
        if Command::new("mksquashfs").arg("-version").output().is_err() {
            eprintln!("SKIPPED: mksquashfs is missing here");
            return;
        }
        let hash = |content: &str, times: u32| {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("root/bin");
            fs::create_dir_all(&root).unwrap();
            for _ in 0..times {
                fs::write(root.join("a"), content).unwrap();
                fs::write(root.join("b"), "b").unwrap();
            }
            let image = open(folder.path(), "root").unwrap();
            assert_eq!(sif::read(&image.file).unwrap().arch, Arch::HOST);
            let scratch = image._packed.as_ref().unwrap().0.clone();
            assert!(scratch.exists());
            let hash = image.hash;
            drop(image);
            assert!(!scratch.exists(), "what was packed goes");
            hash
        };
        assert_eq!(hash("a", 1), hash("a", 2));
        assert_ne!(hash("a", 1), hash("c", 1));
    }
}
