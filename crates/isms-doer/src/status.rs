//! What the Doer tells of itself, and how it words a worker's end.

use std::time::Instant;

use isms_protocol::{
    ContentHash, DoeeVersion, ProcessId, ProjectId,
    doer::{Isolation, IsolationLayer, WorkerStatus, Workers, WorkersAfter},
    limits::WORKERS_LISTED_MAX,
    worker::EXIT_ABORTED,
};
use isms_sandbox::probe::LayerReport;

use crate::{environment, service::Doer};

/// The answer of `Operation::Workers`: a part of the list, which a message holds.
pub(crate) fn workers(doer: &Doer, after: WorkersAfter) -> Workers {
    let state = doer.state.borrow();
    let now = Instant::now();
    let (waiting, sent) = state.handler.admin.lengths();
    let running: usize = state
        .workers
        .values()
        .map(|connection| connection.begun().len())
        .sum();
    let mut listed = state
        .handler
        .workers()
        .filter(|(id, _)| id.0 > after.worker)
        .peekable();
    let workers = listed.by_ref().take(WORKERS_LISTED_MAX).map(|(id, worker)| {
        let connection = state.workers.get(&id);
        let doee = connection.and_then(|connection| connection.doee());
        let spec = doee.as_ref().map(|doee| &doee.spec);
        WorkerStatus {
            worker: id.0,
            pid: connection.map_or(0, |connection| connection.pid),
            state: worker.state.name().to_owned(),
            project: spec.map_or(ProjectId::NONE, |spec| spec.project),
            project_name: spec.map_or_else(String::new, |spec| spec.project_name.clone()),
            doee: spec.map_or_else(String::new, |spec| spec.name.clone()),
            version: worker.version.unwrap_or(DoeeVersion::NONE),
            process: connection
                .and_then(|connection| connection.running())
                .unwrap_or(ProcessId::NONE),
            calls: worker.calls,
            age_ms: now.saturating_duration_since(worker.started).as_millis() as u64,
            backend: environment::backend(worker.environment.backend),
            image: worker.environment.image.map(|image| ContentHash(image.0)),
        }
    });
    Workers {
        workers: workers.collect(),
        more: listed.peek().is_some(),
        waiting: waiting as u32,
        ready: sent.saturating_sub(running) as u32,
        running: running as u32,
    }
}

/// The answer of `Operation::Isolation`, from what the spawner proved.
pub(crate) fn isolation(layers: Vec<LayerReport>, sufficient: bool) -> Isolation {
    let layers = layers.into_iter().map(
        |LayerReport {
             name,
             proven,
             detail,
             required,
         }| IsolationLayer {
            name,
            proven,
            detail,
            required,
        },
    );
    Isolation {
        layers: layers.collect(),
        sufficient,
    }
}

/// How a worker ended, to stand between "the worker" and "while …"; with the way out of a lack of memory.
pub(crate) fn exit_text(code: Option<i32>, signal: Option<i32>, oom: bool, way_out: &str) -> String {
    match (oom, signal, code) {
        (true, ..) => format!("was killed for using more than its memory limit ({way_out})"),
        (_, Some(signal), _) => match signal_name(signal) {
            Some(name) => format!("died of signal {signal} ({name})"),
            None => format!("died of signal {signal}"),
        },
        (_, None, Some(EXIT_ABORTED)) => exit_text(None, Some(SIGABRT), false, way_out),
        (_, None, Some(code)) => format!("exited with status {code}"),
        (_, None, None) => "vanished".to_owned(),
    }
}

const SIGABRT: i32 = 6;

/// Names of the signals that a faulty program dies of; the numbers are those of Linux.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        4 => "SIGILL",
        SIGABRT => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS: a system call that the sandbox forbids",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_death_is_named() {
        let text = |code, signal, oom| exit_text(code, signal, oom, "raise memory_mb or use less");
        assert_eq!(text(None, Some(11), false), "died of signal 11 (SIGSEGV)");
        assert_eq!(text(Some(3), None, false), "exited with status 3");
        assert_eq!(text(Some(134), None, false), "died of signal 6 (SIGABRT)");
        assert_eq!(
            text(None, Some(9), true),
            "was killed for using more than its memory limit (raise memory_mb or use less)"
        );
    }
}
