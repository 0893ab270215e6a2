//! The hostile suite on a platform of the test's own: whatever a Doee attacks, it is refused and nobody is harmed.

use std::path::PathBuf;

use isms_hostile::{Backend, Report, Suite, Target, catalogue};

use crate::{
    harness::{Platform, as_ordinary_user, binaries, repository},
    images::has_apptainer,
};

/// An empty worker that is not wanted any more goes at once, so that hundreds of probes need few at a time.
const SETTINGS: [&str; 2] = ["[workers]", "idle_s = 1"];

/// Runs probes and shows what was not contained.
fn attack(platform: &Platform, backend: &Backend) {
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
        probes: &catalogue(),
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
    attack(&platform, &Backend::native());
}

#[test]
fn every_attack_is_contained_for_an_ordinary_user() {
    as_ordinary_user(|programs| {
        let platform = Platform::start_from(programs, &SETTINGS);
        attack(&platform, &Backend::native());
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
    attack(&platform, &Backend::apptainer(image));
}

#[test]
fn no_binary_of_the_platform_can_leave_a_layer_of_isolation_out() {
    // The variable that a build with the feature `ablation` reads, put together so that it stands in no binary.
    let variable = ["ISMS", "WITHOUT", "LAYERS"].join("_");
    let Some(folder) = binaries() else { return };
    for name in ["isms", "doee-executor", "doee-builder"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let found = bytes
            .windows(variable.len())
            .any(|window| window == variable.as_bytes());
        assert!(!found, "{name} was built with the feature");
    }
}
