//! Proves each layer of isolation by an operation that it must block.
//!
//! Sandboxes are started with a probing function in place of a program; it tries each operation at the point where only
//! the layer in question stands in the way: what seccomp would block as well is tried before seccomp, and so on.
//! A layer that is there but does not block counts as missing.

mod host;
mod inside;
mod neighbour;

use std::path::Path;

use self::{
    host::{Crash, Facts, Hunger},
    inside::{Check, Findings},
};
use crate::native::{Cgroups, Controller, Ids, Native};

/// One layer of isolation on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// Name, such as `seccomp`.
    pub name: String,
    /// An operation that it must block was blocked.
    pub proven: bool,
    /// The operation, or why the layer is absent.
    pub detail: String,
    /// Without it no worker starts.
    pub required: bool,
}

/// Layers without which no worker starts.
pub const REQUIRED: [&str; 15] = [
    "user namespace",
    "mount namespace",
    "read-only root",
    "tmp limits",
    "proc subset",
    "pid namespace",
    "network namespace",
    "ipc namespace",
    "capabilities",
    "no new privileges",
    "seccomp",
    "second seccomp",
    "descriptors",
    "core dumps",
    "parent death",
];

/// Layers that not every machine has; an administrator may require them.
pub const OPTIONAL: [&str; 11] = [
    "sub-uid",
    "landlock",
    "landlock signals",
    "landlock abstract sockets",
    "resource limits",
    "uts namespace",
    "cgroup namespace",
    "cgroup memory",
    "cgroup cpu",
    "cgroup pids",
    "apptainer",
];

/// Layers that a function inside proves: name, what it tries, the checks that must all be refused.
const PROVEN_INSIDE: [(&str, &str, &[Check]); 15] = [
    (
        "user namespace",
        "becoming uid 0 was refused",
        &[Check::BecomeRoot],
    ),
    (
        "mount namespace",
        "opening a file of the host was refused",
        &[Check::HostFile],
    ),
    (
        "read-only root",
        "creating a file in the root was refused",
        &[Check::WriteRoot],
    ),
    (
        "tmp limits",
        "bytes and files beyond the limits of /tmp were refused",
        &[Check::TemporaryBytes, Check::TemporaryFiles],
    ),
    (
        "proc subset",
        "the kernel's settings were not found in /proc",
        &[Check::KernelSettings],
    ),
    (
        "pid namespace",
        "a signal to the spawner found nobody",
        &[Check::SignalHost],
    ),
    (
        "network namespace",
        "a connection to the host's loopback was unreachable",
        &[Check::Connect],
    ),
    (
        "ipc namespace",
        "a message queue of the host was not found",
        &[Check::HostQueue],
    ),
    (
        "capabilities",
        "mounting a file system was refused",
        &[Check::Mount, Check::BoundingSet],
    ),
    (
        "no new privileges",
        "new privileges cannot be gained by exec",
        &[Check::NewPrivileges],
    ),
    (
        "landlock",
        "writing to a file of its own in /proc was refused",
        &[Check::LandlockWrite],
    ),
    (
        "resource limits",
        "a descriptor beyond the limit was refused",
        &[Check::DescriptorLimit],
    ),
    (
        "seccomp",
        "socket, ptrace, clone3 and clearing the death signal were refused",
        &[
            Check::Socket,
            Check::Ptrace,
            Check::Clone3,
            Check::ClearDeathSignal,
        ],
    ),
    (
        "second seccomp",
        "execve was refused after lockdown",
        &[Check::Execute],
    ),
    (
        "descriptors",
        "no descriptor but 0 to 4 was open",
        &[Check::SurplusDescriptor],
    ),
];

/// Whether workers may start.
pub(crate) fn is_sufficient(layers: &[LayerReport], required: &[&str]) -> bool {
    required
        .iter()
        .all(|name| layers.iter().any(|layer| layer.name == *name && layer.proven))
}

/// A report in which every required layer is missing for the same reason.
pub(crate) fn nothing(reason: &str, required: &[&str]) -> Vec<LayerReport> {
    let layer = |name: &&str| report(name, false, reason.to_owned(), required);
    required.iter().map(layer).collect()
}

/// Probes every layer. `host_file` is a file that no sandbox may see under its path. Takes well under a second.
pub(crate) fn run(
    native: &Native,
    cgroups: &Cgroups,
    ids: Ids,
    host_file: &Path,
    required: &[&str],
) -> Vec<LayerReport> {
    let (findings, facts) = match host::inspect(native, cgroups, ids, host_file) {
        Ok(inspected) => inspected,
        Err(error) => return nothing(&format!("no sandbox could be started: {error}"), required),
    };
    let mut layers: Vec<LayerReport> = PROVEN_INSIDE
        .iter()
        .map(|layer| inside_layer(layer, &findings, native, required))
        .collect();
    layers.extend(facts_layers(&facts, ids, required));
    layers.push(pids_layer(cgroups, &findings, required));
    layers.extend(crash_layers(native, host::crash(native, ids), required));
    let hunger = host::starve(native, cgroups, ids);
    layers.extend(hunger_layers(cgroups, &hunger, required));
    let death = host::orphan(native, ids);
    let detail = death.map_or_else(
        |error| error.to_string(),
        |()| "a sandbox died with its spawner".to_owned(),
    );
    layers.push(report(
        "parent death",
        detail.starts_with("a sandbox died"),
        detail,
        required,
    ));
    layers
}

fn report(name: &str, proven: bool, detail: String, required: &[&str]) -> LayerReport {
    LayerReport {
        name: name.to_owned(),
        proven,
        detail,
        required: required.contains(&name),
    }
}

fn inside_layer(
    (name, detail, checks): &(&str, &str, &[Check]),
    findings: &Findings,
    native: &Native,
    required: &[&str],
) -> LayerReport {
    if *name == "landlock" && !native.has_landlock() {
        return report(
            name,
            false,
            "this kernel has no landlock, or it is switched off".to_owned(),
            required,
        );
    }
    match checks.iter().find(|check| !findings.blocked(**check)) {
        None => report(name, true, (*detail).to_owned(), required),
        Some(check) => {
            let detail = format!("not so: {detail} ({check:?}: {})", findings.describe(*check));
            report(name, false, detail, required)
        }
    }
}

fn facts_layers(facts: &Facts, ids: Ids, required: &[&str]) -> [LayerReport; 3] {
    let (own_uid, detail) = match ids {
        Ids::Distinct(uid) => (
            facts.uid == Some(uid),
            format!("each worker has a uid of its own, such as {uid}"),
        ),
        Ids::Own => (
            false,
            "workers share the uid of the platform; start it as root to give each its own".to_owned(),
        ),
    };
    let renamed = "setting the host name inside left the host's alone".to_owned();
    let cgroup = "a sandbox has its own view of control groups".to_owned();
    [
        report("sub-uid", own_uid, detail, required),
        report("uts namespace", facts.host_name_kept, renamed, required),
        report(
            "cgroup namespace",
            facts.cgroup_namespace_differs,
            cgroup,
            required,
        ),
    ]
}

fn crash_layers(
    native: &Native,
    crash: Result<Crash, host::ProbeError>,
    required: &[&str],
) -> [LayerReport; 3] {
    let scopes = ["landlock signals", "landlock abstract sockets"];
    let crash = match crash {
        Ok(crash) => crash,
        Err(error) => {
            let [signals, sockets] = scopes;
            return [signals, sockets, "core dumps"]
                .map(|name| report(name, false, format!("the probe failed: {error}"), required));
        }
    };
    let tried = [
        (
            "a signal to a process outside of the worker's domain was refused",
            crash.findings.signal,
        ),
        (
            "a connection to an abstract socket outside of it was refused",
            crash.findings.socket,
        ),
    ];
    let scope = |index: usize| {
        let (detail, errno) = tried[index];
        let (proven, detail) = match errno {
            _ if !native.has_landlock_scopes() => (
                false,
                "this kernel's landlock has no scopes; Linux 6.12 has".to_owned(),
            ),
            libc::EPERM => (true, detail.to_owned()),
            errno => (false, format!("not so: {detail} (errno {errno})")),
        };
        report(scopes[index], proven, detail, required)
    };
    let dumps = match (crash.exit.signal, crash.exit.dumped) {
        (Some(_), false) => "a crash wrote no core".to_owned(),
        (Some(_), true) => "a crash wrote a core or gave one to the host's handler".to_owned(),
        (None, _) => "the probe did not crash".to_owned(),
    };
    let proven = crash.exit.signal.is_some() && !crash.exit.dumped;
    [scope(0), scope(1), report("core dumps", proven, dumps, required)]
}

fn pids_layer(cgroups: &Cgroups, findings: &Findings, required: &[&str]) -> LayerReport {
    let name = "cgroup pids";
    if !cgroups.has(Controller::Pids) {
        return report(
            name,
            false,
            cgroups.missing(Controller::Pids).to_owned(),
            required,
        );
    }
    let detail = "a process beyond the limit was refused".to_owned();
    report(name, findings.blocked(Check::Fork), detail, required)
}

fn hunger_layers(cgroups: &Cgroups, hunger: &Hunger, required: &[&str]) -> [LayerReport; 2] {
    let layer = |name, controller, proven, detail: &str| {
        if cgroups.has(controller) {
            report(name, proven, detail.to_owned(), required)
        } else {
            report(name, false, cgroups.missing(controller).to_owned(), required)
        }
    };
    [
        layer(
            "cgroup memory",
            Controller::Memory,
            hunger.killed,
            "a sandbox was killed beyond its memory",
        ),
        layer(
            "cgroup cpu",
            Controller::Cpu,
            hunger.throttled,
            "a sandbox was held back beyond its processor time",
        ),
    ]
}
