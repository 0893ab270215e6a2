//! A warm call in a container beside one in a native sandbox, of the same Doee on the same platform.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result};

use super::{Bench, Figures, wrk};
use crate::{
    command, image, install,
    platform::{Listen, Platform},
    workspace,
};

const MANIFEST: &str = r#"[project]
name = "backends"

[doee.native]
language = "cpp"
source = "noop"
workers = { min = 1, max = 1 }

[doee.container]
language = "cpp"
source = "noop"
workers = { min = 1, max = 1 }
isolation = "apptainer"
image = "minimal.sif"

[[trigger]]
http = "GET /native"
auth = "none"
doee = "native"

[[trigger]]
http = "GET /container"
auth = "none"
doee = "container"
"#;

/// Calls both in turn, round after round. Where Apptainer or the image cannot be had, says so and measures nothing.
pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let image = install::ensure_apptainer()
        .and_then(|()| install::ensure_all(&[&install::MKSQUASHFS]))
        .and_then(|()| image::minimal(&bench.binaries.join("doee-executor"), "bench"));
    let image = match image {
        Ok(image) => image,
        Err(error) => {
            eprintln!("SKIPPED: apptainer_warm_ratio: {error:#}");
            return Ok(());
        }
    };
    let platform = Platform::start(bench.binaries, Listen::ANY, "")?;
    let folder = platform.data().with_extension("backends");
    let deployed = deploy(&platform, &folder, &image);
    let _ = fs::remove_dir_all(&folder);
    deployed?;
    for _ in 0..bench.extent.rounds {
        let p50 = |path: &str| {
            let url = format!("http://{}/backends/{path}", platform.http);
            wrk::run(&url, 1, bench.extent.load_s).map(|load| load.p50_us)
        };
        let (native, container) = (p50("native")?, p50("container")?);
        figures.push("apptainer_warm_ratio", "", container / native);
    }
    Ok(())
}

fn deploy(platform: &Platform, folder: &Path, image: &Path) -> Result<()> {
    let source = folder.join("noop");
    fs::create_dir_all(&source).with_context(|| format!("cannot create {}", source.display()))?;
    let doee = workspace::root().join("benches/project/doees/noop/noop.cpp");
    fs::copy(doee, source.join("noop.cpp")).context("cannot copy the Doee")?;
    fs::copy(image, folder.join("minimal.sif")).context("cannot copy the image")?;
    fs::write(folder.join("project.toml"), MANIFEST).context("cannot write the manifest")?;
    let mut deploy = platform.isms();
    deploy
        .arg("deploy")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command::run(&mut deploy)
}
