//! The hostile suite on a platform of the test's own: whatever a Doee attacks, it is refused and nobody is harmed.

use std::{path::PathBuf, process::Command};

use isms_hostile::{Backend, Report, Suite, Target, catalogue};

use crate::harness::{Platform, binaries, repository};

/// Runs every probe and shows what was not contained.
fn attack(backend: &Backend) {
    let Some(platform) = Platform::start_with(&["[workers]", "idle_s = 1"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let target = Target {
        http: platform.http.to_string(),
        gate: platform.gate.to_string(),
        token: platform.admin_token(),
        data: platform.data.path().to_owned(),
        isms: binaries().unwrap().join("isms"),
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
    assert!(report.is_contained(), "{report}\n{}", report.table(false));
}

#[test]
fn every_attack_is_contained_by_the_native_sandbox() {
    attack(&Backend::native());
}

#[test]
fn every_attack_is_contained_by_apptainer() {
    let installed = ["apptainer", "singularity"].iter().any(|program| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    });
    if !installed {
        eprintln!("SKIPPED: neither apptainer nor singularity is installed");
        return;
    }
    let Some(image) = std::env::var_os("ISMS_IMAGE").map(PathBuf::from) else {
        eprintln!("SKIPPED: ISMS_IMAGE names no image with the executor");
        return;
    };
    attack(&Backend::apptainer(image));
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
