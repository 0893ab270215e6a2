//! The hostile suite on a platform of the test's own: whatever a Doee attacks, it is refused and nobody is harmed.

use std::path::PathBuf;

use isms_hostile::{Backend, Probe, Report, Suite, Target, catalogue};

use crate::{
    harness::{Platform, as_ordinary_user, repository},
    images::has_apptainer,
};

/// An empty worker that is not wanted any more goes at once, so that hundreds of probes need few at a time.
const SETTINGS: [&str; 2] = ["[workers]", "idle_s = 1"];

/// Runs probes and shows what was not contained.
fn attack(platform: &Platform, backend: &Backend, probes: &[Probe]) {
    let scratch = tempfile::tempdir().unwrap();
    let target = Target {
        http: platform.http.to_string(),
        gate: platform.gate.to_string(),
        token: platform.admin_token(),
        data: platform.data.path().to_owned(),
        isms: platform.program("isms"),
        supervisor: platform.pid(),
    };
    let suite = Suite {
        target: &target,
        binaries: &isms_hostile::compile(&repository(), scratch.path()).unwrap(),
        backend,
        probes,
        throwaway: false,
    };
    let outcomes = isms_hostile::run(&suite, |_, _| {}, |_, _| {}).unwrap();
    let report = Report::new(&backend.isolation, outcomes);
    eprintln!("{report}");
    assert!(report.is_contained(), "{report}\n{}", report.table(false));
}

#[test]
fn every_attack_is_contained_by_the_native_sandbox() {
    let Some(platform) = Platform::start_with(&SETTINGS) else {
        return;
    };
    attack(&platform, &Backend::native(), &catalogue());
}

#[test]
fn every_attack_is_contained_for_an_ordinary_user() {
    as_ordinary_user(|programs| {
        let platform = Platform::start_from(programs, &SETTINGS);
        let mut probes = catalogue();
        for probe in &mut probes {
            // The pipe for its output belongs to the uid that all workers of such a platform have: by its link in /proc
            // a worker can read again what it has said itself.
            if probe.name == "reopen-descriptors" {
                probe.expect.push("ok".to_owned());
            }
        }
        attack(&platform, &Backend::native(), &probes);
    });
}

#[test]
fn every_attack_is_contained_by_apptainer() {
    let Some(image) = std::env::var_os("ISMS_IMAGE").map(PathBuf::from) else {
        eprintln!("SKIPPED: ISMS_IMAGE names no image with the executor");
        return;
    };
    let Some(platform) = Platform::start_with(&SETTINGS).filter(has_apptainer) else {
        return;
    };
    attack(&platform, &Backend::apptainer(image), &catalogue());
}
