//! What takes room without running: a thousand deployed Doees that nobody calls, and what a call of another one notices of
//! them; calls that wait.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result};

use super::{Bench, Figures, memory, probe, wrk};
use crate::{
    command,
    platform::{Listen, Platform},
};

/// Doees of one project, and projects.
const DOEES: usize = 125;
const PROJECTS: usize = 8;

pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let platform = Platform::start(bench.binaries, Listen::ANY, "")?;
    super::deploy(&platform)?;
    let warm = || -> Result<f64> {
        let url = format!("http://{}/bench/noop", platform.http);
        let mut times = Vec::new();
        for _ in 0..bench.extent.rounds {
            times.push(wrk::run(&url, 1, bench.extent.load_s)?.p50_us);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    };
    let one = warm()?;
    let before = memory::pss_mb(platform.pid())?;
    for number in 0..PROJECTS {
        let folder = platform.data().join(format!("many-{number}"));
        write_project(&folder, number, bench.noop)?;
        let mut deploy = platform.isms();
        deploy.arg("deploy").arg(&folder);
        command::run(deploy.stdout(Stdio::null()).stderr(Stdio::null()))?;
    }
    let many = warm()?;
    let after = memory::pss_mb(platform.pid())?;
    figures.push("doees_1000_p50_ratio", "", many / one);
    let each = (after - before) * 1e6 / 1024.0 / (DOEES * PROJECTS) as f64;
    figures.push("idle_doee_kib", "KiB", each.max(0.0));
    for sample in probe(&["queued-calls"])? {
        figures.add(sample);
    }
    Ok(())
}

/// A project whose Doees all have the same binary.
fn write_project(folder: &Path, number: usize, binary: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    fs::copy(binary, folder.join("noop.so")).with_context(failed)?;
    let doees = (0..DOEES).map(|doee| {
        format!(
            "[doee.d{doee}]\nbinary = \"noop.so\"\n\n[[trigger]]\nhttp = \"GET /d{doee}\"\nauth = \"none\"\n\
             doee = \"d{doee}\"\n\n"
        )
    });
    let manifest: String = [format!("[project]\nname = \"many-{number}\"\n\n")]
        .into_iter()
        .chain(doees)
        .collect();
    fs::write(folder.join("project.toml"), manifest).with_context(failed)
}
