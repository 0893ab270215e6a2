//! What a guest has of its host and of Debian's packages: shared libraries, and what makes, mounts and runs images.
//!
//! Each file lies in the guest where it would be if it were installed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{find, read};
use crate::{hostile::archive::Archive, install};

/// What connects network namespaces, in the kernel's folder of modules. No module here needs another one.
const NETWORK_MODULES: [&str; 1] = ["drivers/net/veth.ko"];
/// What mounts an image.
const IMAGE_MODULES: [&str; 3] = [
    "drivers/block/loop.ko",
    "fs/squashfs/squashfs.ko",
    "fs/overlayfs/overlay.ko",
];
/// What packs one, below the folder of the unpacked packages.
const MKSQUASHFS: &str = "usr/bin/mksquashfs";
/// Where packages have libraries, below the same.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Of an installed package, what nothing reads that runs.
const UNUSED: &str = "/usr/share";

/// Files and folders, by their places inside.
pub(super) struct System<'a> {
    unpacked: &'a Path,
    files: BTreeMap<String, PathBuf>,
    folders: BTreeSet<String>,
    /// Those that need libraries.
    programs: Vec<PathBuf>,
}

impl<'a> System<'a> {
    /// Nothing yet; `unpacked` is the folder of Debian's packages.
    pub(super) fn new(unpacked: &'a Path) -> Self {
        Self {
            unpacked,
            files: BTreeMap::new(),
            folders: BTreeSet::new(),
            programs: Vec::new(),
        }
    }

    /// Adds what connects network namespaces.
    pub(super) fn add_networks(&mut self) -> Result<()> {
        self.add_modules(&NETWORK_MODULES)
    }

    fn add_modules(&mut self, modules: &[&str]) -> Result<()> {
        let release = find(&self.unpacked.join("lib/modules"), "")?;
        for module in modules {
            let file = release.join("kernel").join(module);
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            self.files.insert(format!("lib/modules/{name}"), file.clone());
        }
        Ok(())
    }

    /// Adds what makes and mounts images, and Apptainer where the host has it.
    pub(super) fn add_images(&mut self) -> Result<()> {
        self.add_modules(&IMAGE_MODULES)?;
        let mksquashfs = self.unpacked.join(MKSQUASHFS);
        self.files.insert(MKSQUASHFS.to_owned(), mksquashfs.clone());
        self.programs.push(mksquashfs);
        for path in install::apptainer_files() {
            self.add_installed(path)?;
        }
        Ok(())
    }

    fn add_installed(&mut self, path: PathBuf) -> Result<()> {
        let inside = inside(&path);
        if path.starts_with(UNUSED) || inside.is_empty() || inside == "." {
            return Ok(());
        }
        let metadata =
            fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        if metadata.is_dir() {
            self.folders.insert(inside);
        } else if metadata.is_file() {
            if read(&path)?.starts_with(b"\x7fELF") {
                self.programs.push(path.clone());
            }
            self.files.insert(inside, path);
        }
        Ok(())
    }

    /// Adds the loader and the shared libraries of these files, of any Doee, and of what was added before.
    pub(super) fn add_libraries(&mut self, files: &[(String, PathBuf)]) -> Result<()> {
        let unpacked = LIBRARIES.map(|folder| self.unpacked.join(folder));
        let search = std::env::join_paths(&unpacked).context("a folder's name holds a colon")?;
        let output = Command::new("ldd")
            .env("LD_LIBRARY_PATH", search)
            .args(files.iter().map(|(_, file)| file))
            .args(&self.programs)
            .output()
            .context("cannot start ldd")?;
        ensure!(
            output.status.success(),
            "ldd: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let libraries: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
            .filter(|word| !word.ends_with(':'))
            .map(PathBuf::from)
            .collect();
        ensure!(!libraries.is_empty(), "ldd names no library");
        for library in libraries {
            let place = library.strip_prefix(self.unpacked).unwrap_or(&library);
            self.files.insert(inside(place), library.clone());
        }
        Ok(())
    }

    /// Puts all of it into the archive of the guest's root.
    pub(super) fn pack(&self, archive: &mut Archive) -> Result<()> {
        for folder in &self.folders {
            archive.add_folder(folder);
        }
        for (name, file) in &self.files {
            let metadata =
                fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?;
            archive.add_file(name, &read(file)?, metadata.permissions().mode() & 0o777);
        }
        Ok(())
    }
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}
