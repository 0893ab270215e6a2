//! What the API shows: answers of services as JSON. Absent ids are `null`, hashes are hex.

use isms_protocol::{
    DoeeVersion, ProcessId, ProjectId,
    doer::{WorkerStatus, Workers},
    kernel::{BUCKETS_US, ClassCalls, DeadLetters, ProcessStatus, Processes, Status},
    resadmin::{DoeeSummary, Project},
};
use serde_json::{Value, json};

use crate::{log_store::Usage, metrics::Measured};

/// Whether a list shows how much there is in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Totals {
    /// It does.
    Shown,
    /// It does not: the caller may see its own part only.
    Hidden,
}

/// The platform's state.
pub(crate) fn status(status: &Status, logs: &Usage) -> Value {
    let [done, failed, cancelled, expired] = status.ended;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "services": status.services,
        "ready": status.ready,
        "running": status.running,
        "ended": { "done": done, "failed": failed, "cancelled": cancelled, "expired": expired },
        "events_dropped": status.events_dropped,
        "logs": { "bytes": logs.len, "dropped": logs.dropped },
    })
}

/// Processes that have not ended.
pub(crate) fn processes(processes: &Processes) -> Value {
    let shown: Vec<Value> = processes.processes.iter().map(process).collect();
    json!({ "processes": shown, "omitted": processes.omitted })
}

/// Dead letters; `name` tells what a Doee is called.
pub(crate) fn dead_letters(letters: &DeadLetters, name: impl Fn(DoeeVersion) -> Option<String>) -> Value {
    let shown = letters.letters.iter().map(|letter| {
        json!({
            "process": letter.process,
            "doee": name(letter.doee),
            "version": letter.doee,
            "age_us": letter.age_us,
            "dead_us": letter.dead_us,
            "kept_us": letter.kept_us,
            "failures": letter.failures,
            "request_len": letter.request_len,
            "code": letter.code.name(),
            "reason": letter.reason,
        })
    });
    json!({ "letters": shown.collect::<Vec<Value>>(), "more": letters.more })
}

fn process(process: &ProcessStatus) -> Value {
    json!({
        "process": process.process,
        "parent": process_id(process.parent),
        "project": project_id(process.project),
        "target": process.target,
        "doee": version_id(process.target_doee),
        "class": process.class,
        "queued": process.queued,
        "age_us": process.age_us,
    })
}

/// Workers, and with totals the three queues of tasks.
pub(crate) fn workers(workers: &Workers, totals: Totals) -> Value {
    let mut shown = json!({ "workers": workers.workers.iter().map(worker).collect::<Vec<Value>>() });
    if totals == Totals::Shown {
        shown["waiting"] = workers.waiting.into();
        shown["ready"] = workers.ready.into();
        shown["running"] = workers.running.into();
    }
    shown
}

fn worker(worker: &WorkerStatus) -> Value {
    json!({
        "worker": worker.worker,
        "pid": worker.pid,
        "state": worker.state,
        "project": project_id(worker.project),
        "project_name": worker.project_name,
        "doee": worker.doee,
        "version": version_id(worker.version),
        "process": process_id(worker.process),
        "calls": worker.calls,
        "age_ms": worker.age_ms,
        "backend": worker.backend.name(),
        "image": worker.image.map(|image| image.to_string()),
    })
}

/// How the calls of Doees went. A Doee without a version is the sum of those that have no row of their own.
pub(crate) fn calls(measured: &[Measured]) -> Value {
    let calls: Vec<Value> = measured.iter().map(calls_of_doee).collect();
    json!({ "buckets_us": BUCKETS_US, "calls": calls })
}

fn calls_of_doee(one: &Measured) -> Value {
    let calls = &one.calls;
    json!({
        "project": project_id(calls.project),
        "project_name": one.names.as_ref().map(|names| &names.project),
        "doee": one.names.as_ref().map(|names| &names.doee),
        "version": version_id(calls.doee),
        "queued": calls.queued,
        "running": calls.running,
        "classes": calls.classes.iter().map(calls_of_class).collect::<Vec<Value>>(),
    })
}

fn calls_of_class(calls: &ClassCalls) -> Value {
    json!({
        "class": calls.class,
        "outcomes": calls.outcomes,
        "deadlines": {
            "met": calls.deadlines_met,
            "missed_queued": calls.outcomes.expired,
            "missed_running": calls.deadlines_missed,
        },
        "waited": calls.waited,
        "ran": calls.ran,
    })
}

/// A project.
pub(crate) fn project(project: &Project) -> Value {
    let doee = |doee: &DoeeSummary| {
        json!({
            "name": doee.name,
            "version": doee.version,
            "binary": doee.binary.to_string(),
            "deadline_ms": doee.deadline_ms,
        })
    };
    json!({
        "id": project.id,
        "name": project.name,
        "revision": project.revision,
        "doees": project.doees.iter().map(doee).collect::<Vec<Value>>(),
        "databases": project.databases,
        "routes": project.routes,
        "settings": project.settings,
    })
}

fn project_id(id: ProjectId) -> Option<ProjectId> {
    (!id.is_none()).then_some(id)
}

fn process_id(id: ProcessId) -> Option<ProcessId> {
    (!id.is_none()).then_some(id)
}

fn version_id(id: DoeeVersion) -> Option<DoeeVersion> {
    (!id.is_none()).then_some(id)
}
