//! `isms deploy` and `isms delete`: uploads the images that are not there yet, then the folder, and tells what
//! happens.

mod images;
mod upload;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use isms_protocol::{limits::ARTIFACT_LEN_MAX, resadmin::DeployEvent};

use self::images::Image;
use crate::{
    cli::{DeleteArgs, DeployArgs},
    client::{Client, Refused},
    output::{bold, duration_ms, green, plain},
};

/// Files of a project.
const FILES_MAX: usize = 4096;
/// Folders that a deployment never needs.
const SKIPPED: [&str; 3] = ["data", "target", "build"];

pub(crate) async fn run(args: &DeployArgs) -> Result<()> {
    let client = Client::find(&args.platform)?;
    let images = open_images(&args.folder)?;
    for image in &images.images {
        upload::upload(&client, &images.project, image).await?;
    }
    let archive = pack(&args.folder, &images.images)?;
    let mut last = None;
    client
        .lines("POST", "/api/v1/deployments", archive, |line| {
            let event: DeployEvent = serde_json::from_slice(line).context("an event cannot be read")?;
            if args.platform.json {
                std::io::stdout().write_all(line)?;
                println!();
            } else {
                tell(&event);
            }
            last = Some(event);
            Ok(())
        })
        .await?;
    match last {
        Some(DeployEvent::Deployed { .. }) => Ok(()),
        Some(DeployEvent::Failed { message, .. }) => {
            Err(anyhow!(Refused(message))).context("nothing was deployed, what ran before still runs")
        }
        _ => Err(anyhow!(
            "the platform did not say whether the deployment succeeded; look with `isms status`"
        )),
    }
}

fn tell(event: &DeployEvent) {
    match event {
        DeployEvent::Building { doee } => eprintln!("building   {doee}"),
        DeployEvent::Built {
            doee, cached: true, ..
        } => eprintln!("unchanged  {doee}"),
        DeployEvent::Built {
            doee,
            duration_ms: ms,
            log,
            ..
        } => {
            eprintln!("built      {doee} in {}", duration_ms(*ms));
            if !log.trim().is_empty() {
                eprintln!("{}", plain(log.trim_end()));
            }
        }
        DeployEvent::Tried {
            doee,
            duration_ms: ms,
        } => {
            eprintln!("tried      a worker of {doee} in {}", duration_ms(*ms));
        }
        DeployEvent::Migrated {
            database,
            created,
            applied,
        } => eprintln!("database   {database} {}", migrated(*created, *applied)),
        DeployEvent::Deployed {
            project,
            revision,
            routes,
        } => {
            eprintln!("{} {} revision {revision}", green("deployed  "), bold(project));
            for route in routes {
                let (method, path) = route.split_once(' ').unwrap_or(("", route));
                println!("{method} /{project}{path}");
            }
        }
        DeployEvent::Failed { .. } => {}
    }
}

/// What was done to a database.
fn migrated(created: bool, applied: u32) -> String {
    let migrations = match applied {
        0 => String::new(),
        1 => "1 migration applied".to_owned(),
        _ => format!("{applied} migrations applied"),
    };
    match (created, applied) {
        (true, 0) => "was made".to_owned(),
        (true, _) => format!("was made, {migrations}"),
        (false, 0) => "is up to date".to_owned(),
        (false, _) => format!("was changed, {migrations}"),
    }
}

/// A project's images, each once.
struct ProjectImages {
    project: String,
    images: Vec<Image>,
}

/// Opens the images that a project's manifest names.
fn open_images(folder: &Path) -> Result<ProjectImages> {
    let manifest = folder.join("project.toml");
    ensure!(
        manifest.is_file(),
        "{} is missing: is this a project's folder?",
        manifest.display()
    );
    let text = fs::read(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let images::Named { project, paths } = images::named(&String::from_utf8_lossy(&text));
    if !is_path_segment(&project) {
        // The platform says what is wrong with the name.
        return Ok(ProjectImages {
            project,
            images: Vec::new(),
        });
    }
    let images = paths.iter().map(|path| images::open(folder, path));
    Ok(ProjectImages {
        images: images.collect::<Result<_>>()?,
        project,
    })
}

/// True for what can stand in a URL as it is.
fn is_path_segment(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Packs a project's folder: regular files, in order of name, without what is hidden or skipped; a reference in the
/// place of each image.
fn pack(folder: &Path, images: &[Image]) -> Result<Bytes> {
    let mut files = Vec::new();
    list(folder, Path::new(""), images, &mut files)?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |file: &Path, content: &[u8]| -> Result<u64> {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, file, content)?;
        Ok(archive.get_ref().len() as u64)
    };
    for image in images {
        append(
            Path::new(&image.path),
            format!("sha256:{}\n", image.hash).as_bytes(),
        )?;
    }
    for file in files {
        let content =
            fs::read(folder.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        let len = append(&file, &content)?;
        ensure!(
            len <= ARTIFACT_LEN_MAX,
            "the project is larger than {} MiB",
            ARTIFACT_LEN_MAX >> 20
        );
    }
    Ok(archive.into_inner()?.into())
}

fn list(root: &Path, below: &Path, images: &[Image], files: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name
            .to_str()
            .with_context(|| format!("{} is not UTF-8", entry.path().display()))?;
        let kind = entry.file_type()?;
        let skipped = kind.is_dir() && below.as_os_str().is_empty() && SKIPPED.contains(&name);
        if name.starts_with('.') || skipped {
            continue;
        }
        let path = below.join(name);
        if images.iter().any(|image| Path::new(&image.path) == path) {
            continue;
        }
        if kind.is_dir() {
            list(root, &path, images, files)?;
        } else if kind.is_file() {
            ensure!(
                files.len() < FILES_MAX,
                "the project has more than {FILES_MAX} files"
            );
            files.push(path);
        }
    }
    Ok(())
}

pub(crate) async fn delete(args: &DeleteArgs) -> Result<()> {
    let path = format!("/api/v1/projects/{}", args.project);
    Client::find(&args.platform)?
        .whole("DELETE", &path, Bytes::new())
        .await?;
    if args.platform.json {
        println!("{}", serde_json::json!({ "deleted": args.project }));
    } else {
        eprintln!("deleted {}", args.project);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_data_and_links_stay_at_home() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in [
            "project.toml",
            "doees/a/a.cpp",
            "doees/data/d.cpp",
            "data/big.csv",
            ".git/config",
        ] {
            write(path);
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let archive = pack(folder.path(), &[]).unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["doees/a/a.cpp", "doees/data/d.cpp", "project.toml"]);
    }

    #[test]
    fn what_was_done_to_a_database_is_told() {
        assert_eq!(migrated(true, 0), "was made");
        assert_eq!(migrated(true, 2), "was made, 2 migrations applied");
        assert_eq!(migrated(false, 1), "was changed, 1 migration applied");
        assert_eq!(migrated(false, 0), "is up to date");
    }

    #[test]
    fn a_folder_without_a_manifest_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = open_images(folder.path()).err().unwrap().to_string();
        assert!(error.contains("project.toml is missing"), "{error}");
    }
}
