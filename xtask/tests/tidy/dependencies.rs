//! Rules about who depends on whom: the floors of the architecture, banned crates, the budget.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

use crate::{assert_none, licences, root};

/// Every crate of the workspace with those of ours that it may depend on, tests included. The order is
/// the order of the floors: a crate may only name what stands above it.
const FLOORS: &[(&str, &[&str])] = &[
    ("isms-protocol", &[]),
    ("isms-sandbox", &[]),
    ("isms-simulation", &[]),
    ("isms-journal", &["isms-simulation"]),
    ("isms-doee-sys", &[]),
    ("isms-ipc", &["isms-protocol"]),
    ("isms-http", &["isms-protocol", "isms-ipc"]),
    (
        "isms-kernel",
        &["isms-protocol", "isms-ipc", "isms-journal", "isms-simulation"],
    ),
    ("isms-dbriver", &["isms-protocol", "isms-ipc"]),
    ("isms-resadmin", &["isms-protocol", "isms-ipc"]),
    ("isms-commserver", &["isms-protocol", "isms-ipc", "isms-http"]),
    ("isms-gate", &["isms-protocol", "isms-ipc", "isms-http"]),
    ("isms-doer", &["isms-protocol", "isms-ipc", "isms-sandbox"]),
    // Plays supervisor and Doer to a real spawner, and an edge to a Kernel's core.
    (
        "isms-bench",
        &["isms-protocol", "isms-ipc", "isms-kernel", "isms-sandbox"],
    ),
    (
        "isms-executor",
        &["isms-protocol", "isms-ipc", "isms-sandbox", "isms-doee-sys"],
    ),
    // Attacks a platform that somebody else started.
    ("isms-hostile", &[]),
    (
        "isms",
        &[
            "isms-protocol",
            "isms-ipc",
            "isms-sandbox",
            "isms-http",
            "isms-kernel",
            "isms-dbriver",
            "isms-resadmin",
            "isms-commserver",
            "isms-gate",
            "isms-doer",
            "isms-hostile",
        ],
    ),
    // Makes images, and attacks the platform.
    ("xtask", &["isms-sandbox", "isms-hostile"]),
];

/// Crates that may not be in what ships, each with the reason.
const BANNED: &[(&str, &str)] = &[
    (
        "openssl-sys",
        "an installation needs nothing from the system; TLS is rustls",
    ),
    ("native-tls", "TLS is rustls"),
    (
        "zeromq",
        "reserves what a peer announces and ends the process; isms-ipc is the endpoint",
    ),
    (
        "zmq-sys",
        "an installation needs nothing from the system; isms-ipc is the endpoint",
    ),
    ("async-std", "there is one runtime, tokio"),
    ("serde_yaml", "not maintained"),
];

/// What the executor holds none of: it runs beside code that nobody trusts.
const NOT_IN_EXECUTOR: &[&str] = &[
    "tokio",
    "mio",
    "hyper",
    "axum",
    "http",
    "sqlx",
    "sqlx-core",
    "clap",
    "rusqlite",
];

/// Crates that all of ours together may pull in, to build and to run.
const CRATES_MAX: usize = 250;

/// `cargo metadata` for this platform.
pub(crate) fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let host = output(Command::new("rustc").arg("-vV"));
        let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1", "--filter-platform", host]);
        serde_json::from_str(&output(&mut command)).unwrap()
    })
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// The workspace's packages.
fn members() -> impl Iterator<Item = &'static Value> {
    let ids = list(metadata(), "workspace_members");
    list(metadata(), "packages")
        .iter()
        .filter(move |package| ids.contains(&package["id"]))
}

/// Names of the packages that the workspace needs to build and to run, without its own; a package that
/// is there in two versions is there twice.
fn shipped() -> Vec<&'static str> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata()["resolve"], "nodes")
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut open: Vec<&str> = members().map(|member| text(member, "id")).collect();
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        for dependency in list(nodes[id], "deps") {
            let ships = list(dependency, "dep_kinds")
                .iter()
                .any(|kind| kind["kind"] != "dev");
            if ships && seen.insert(text(dependency, "pkg")) {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    let foreign = |package: &&&Value| package["source"].is_string() && seen.contains(text(package, "id"));
    list(metadata(), "packages")
        .iter()
        .filter(|package| foreign(&package))
        .map(|it| text(it, "name"))
        .collect()
}

#[test]
fn crates_depend_only_on_the_floors_below_them() {
    let floors: BTreeMap<&str, &[&str]> = FLOORS.iter().copied().collect();
    let mut violations = Vec::new();
    for member in members() {
        let name = text(member, "name");
        let Some(allowed) = floors.get(name) else {
            violations.push(format!("{name} has no floor: add it to FLOORS"));
            continue;
        };
        let ours = list(member, "dependencies")
            .iter()
            .filter(|dependency| dependency["path"].is_string());
        let wrong = ours
            .map(|dependency| text(dependency, "name"))
            // A crate may name itself, to switch on a feature for its tests.
            .filter(|ours| *ours != name && !allowed.contains(ours));
        violations.extend(wrong.map(|ours| format!("{name} must not depend on {ours}")));
    }
    assert_none("services meet only in messages (ARCHITECTURE.md)", &violations);
}

#[test]
fn the_table_of_floors_has_no_cycle_and_no_service_that_knows_another() {
    let mut above: Vec<&str> = Vec::new();
    for (name, allowed) in FLOORS {
        for below in *allowed {
            assert!(
                above.contains(below),
                "{name} names {below}, which is not above it"
            );
        }
        above.push(name);
    }
}

#[test]
fn the_executor_holds_no_runtime_no_database_and_no_http() {
    let mut command = cargo();
    command.args([
        "tree",
        "--package",
        "isms-executor",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]);
    let tree = output(&mut command);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(
        names.contains("isms-executor"),
        "cargo tree says something else than before: {tree}"
    );
    let violations: Vec<String> = NOT_IN_EXECUTOR
        .iter()
        .filter(|name| names.contains(*name))
        .map(|name| (*name).to_owned())
        .collect();
    assert_none("the executor must not hold", &violations);
}

#[test]
fn no_build_that_ships_can_leave_a_layer_of_isolation_out() {
    const FEATURE: &str = "ablation";
    let mut violations = Vec::new();
    for member in members() {
        let name = text(member, "name");
        for (feature, enables) in member["features"].as_object().unwrap() {
            let named = enables.as_array().unwrap().iter().filter_map(Value::as_str);
            if named.clone().any(|enabled| enabled.ends_with(FEATURE)) {
                violations.push(format!("{name}: the feature {feature} enables it"));
            }
            if feature == FEATURE && name != "isms-sandbox" {
                violations.push(format!("{name} has such a feature"));
            }
        }
        for dependency in list(member, "dependencies") {
            if list(dependency, "features")
                .iter()
                .any(|feature| feature == FEATURE)
            {
                violations.push(format!("{name} asks for it of {}", text(dependency, "name")));
            }
        }
    }
    assert_none(
        "isms-sandbox/ablation is asked for on the command line alone",
        &violations,
    );
}

#[test]
fn no_banned_crate_ships() {
    let shipped = shipped();
    let violations: Vec<String> = BANNED
        .iter()
        .filter(|(name, _)| shipped.contains(name))
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    assert_none(
        "banned (`cargo tree --invert NAME` shows who wants it)",
        &violations,
    );
}

#[test]
fn the_tree_stays_within_its_budget_of_crates() {
    let count = shipped().len();
    assert!(
        count <= CRATES_MAX,
        "{count} crates are needed, at most {CRATES_MAX} may be"
    );
}

#[test]
fn every_dependency_may_be_used_under_a_licence_that_we_accept() {
    let violations: Vec<String> = list(metadata(), "packages")
        .iter()
        .filter(|package| !licences::is_accepted(package["license"].as_str().unwrap_or("")))
        .map(|package| format!("{}: {}", text(package, "name"), package["license"]))
        .collect();
    assert_none("licence not accepted", &violations);
}
