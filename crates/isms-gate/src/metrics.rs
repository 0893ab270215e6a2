//! What Prometheus reads: its text format, version 0.0.4.
//!
//! Names and labels are a promise to whoever has built a dashboard on them; docs/metrics.md lists them.

use std::fmt::{Display, Write};

use isms_protocol::kernel::{BUCKETS_US, ClassCalls, DoeeCalls, Histogram, ServiceStatus, Status};

use crate::{log_store::Usage, names::Names, trace_store::TraceUsage};

/// The format, as its readers ask for it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How the calls of one Doee went.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// `None` for the sum of the rest, and for a Doee of a project that is gone.
    pub(crate) names: Option<Names>,
    pub(crate) calls: DoeeCalls,
}

/// What only who sees all projects gets.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) status: Status,
    pub(crate) logs: Usage,
    pub(crate) traces: TraceUsage,
    /// Spans that were passed on, and that were not, where some are.
    pub(crate) exported: Option<(u64, u64)>,
}

/// What the sum of all Doees that have no row of their own is called. No Doee is without a project.
pub(crate) const REST: &str = "other";

/// Name, help, and the value of each sample.
type Family<T> = (&'static str, &'static str, fn(&T) -> u32);
/// The same of histograms.
type Times = (&'static str, &'static str, fn(&ClassCalls) -> &Histogram);

/// Everything, as text.
pub(crate) fn text(measured: &[Measured], platform: Option<&Platform>) -> String {
    let mut text = String::new();
    if let Some(platform) = platform {
        write_platform(&mut text, &platform.status);
        write_single(&mut text, platform);
    }
    write_loads(&mut text, measured);
    write_classes(&mut text, measured);
    text
}

fn write_platform(text: &mut String, status: &Status) {
    family(text, "isms_info", "gauge", "The platform's version.");
    line(
        text,
        "isms_info",
        &Labels::default().and("version", env!("CARGO_PKG_VERSION")),
        1,
    );
    let of_service: [Family<ServiceStatus>; 3] = [
        ("isms_service_up", "Whether a service is registered.", |service| {
            u32::from(service.up)
        }),
        (
            "isms_service_running",
            "Requests that a service works on.",
            |service| service.running,
        ),
        (
            "isms_service_queued",
            "Requests that wait for a service.",
            |service| service.queued,
        ),
    ];
    for (name, help, value) in of_service {
        family(text, name, "gauge", help);
        for service in &status.services {
            line(
                text,
                name,
                &Labels::default().and("service", service.service.name()),
                value(service),
            );
        }
    }
    let name = "isms_processes_total";
    family(
        text,
        name,
        "counter",
        "Requests of services that have ended, by outcome.",
    );
    for (outcome, count) in ["done", "failed", "cancelled", "expired"]
        .into_iter()
        .zip(status.ended)
    {
        line(text, name, &Labels::default().and("outcome", outcome), count);
    }
}

fn write_single(text: &mut String, platform: &Platform) {
    let Platform {
        status, logs, traces, ..
    } = platform;
    let mut single = vec![
        (
            "isms_events_dropped_total",
            "counter",
            "Events that their receiver was too slow for.",
            status.events_dropped,
        ),
        (
            "isms_log_lines_dropped_total",
            "counter",
            "Log lines of Doees that were forgotten.",
            logs.dropped,
        ),
        (
            "isms_log_bytes",
            "gauge",
            "Log lines of Doees that are kept.",
            logs.len as u64,
        ),
        (
            "isms_trace_bytes",
            "gauge",
            "Traced calls that are kept.",
            traces.len as u64,
        ),
        (
            "isms_traces_evicted_total",
            "counter",
            "Traced calls that were forgotten to make room for others.",
            traces.evicted,
        ),
        (
            "isms_trace_spans_dropped_total",
            "counter",
            "Spans of traced calls that were lost.",
            traces.dropped,
        ),
    ];
    if let Some((sent, dropped)) = platform.exported {
        single.push((
            "isms_trace_exported_total",
            "counter",
            "Spans that the collector has taken.",
            sent,
        ));
        single.push((
            "isms_trace_export_dropped_total",
            "counter",
            "Spans that the collector has not taken.",
            dropped,
        ));
    }
    for (name, kind, help, value) in single {
        family(text, name, kind, help);
        line(text, name, &Labels::default(), value);
    }
}

fn write_loads(text: &mut String, measured: &[Measured]) {
    let loads: [Family<DoeeCalls>; 2] = [
        ("isms_calls_queued", "Calls of a Doee that wait.", |doee| {
            doee.queued
        }),
        ("isms_calls_running", "Calls of a Doee that run.", |doee| {
            doee.running
        }),
    ];
    for (name, help, value) in loads {
        family(text, name, "gauge", help);
        for one in measured {
            line(text, name, &one.labels(), value(&one.calls));
        }
    }
}

fn write_classes(text: &mut String, measured: &[Measured]) {
    let name = "isms_calls_total";
    family(
        text,
        name,
        "counter",
        "Calls of a Doee that have ended, by outcome.",
    );
    for (labels, class) in classes(measured) {
        for (outcome, count) in class.outcomes.named() {
            line(text, name, &labels.and("outcome", outcome), count);
        }
    }
    let name = "isms_call_deadlines_total";
    family(
        text,
        name,
        "counter",
        "Calls with a deadline, by whether and where they missed it.",
    );
    for (labels, class) in classes(measured) {
        let results = [
            ("met", class.deadlines_met),
            ("missed_queued", class.outcomes.expired),
            ("missed_running", class.deadlines_missed),
        ];
        for (result, count) in results {
            line(text, name, &labels.and("result", result), count);
        }
    }
    let times: [Times; 2] = [
        ("isms_call_wait_seconds", "Time in the queue.", |class| {
            &class.waited
        }),
        ("isms_call_run_seconds", "Time at the Doer.", |class| &class.ran),
    ];
    for (name, help, histogram) in times {
        family(text, name, "histogram", help);
        for (labels, class) in classes(measured) {
            write_histogram(text, name, &labels, histogram(class));
        }
    }
}

fn classes(measured: &[Measured]) -> impl Iterator<Item = (Labels, &ClassCalls)> {
    measured.iter().flat_map(|one| {
        let labels = one.labels();
        let classes = one.calls.classes.iter();
        classes.map(move |class| (labels.and("class", class.class.name()), class))
    })
}

fn write_histogram(text: &mut String, name: &str, labels: &Labels, histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    for (bound_us, count) in BUCKETS_US.iter().zip(&histogram.counts) {
        below += count;
        line(
            text,
            &bucket,
            &labels.and("le", &seconds(*bound_us).to_string()),
            below,
        );
    }
    let all: u64 = histogram.counts.iter().sum();
    line(text, &bucket, &labels.and("le", "+Inf"), all);
    line(text, &format!("{name}_sum"), labels, seconds(histogram.sum_us));
    line(text, &format!("{name}_count"), labels, all);
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl Measured {
    fn labels(&self) -> Labels {
        let version = self.calls.doee;
        let (project, doee, version) = match &self.names {
            Some(names) => (&*names.project, &*names.doee, version.to_string()),
            None if version.is_none() => ("", REST, String::new()),
            None => ("", "", version.to_string()),
        };
        let labels = Labels::default();
        labels
            .and("project", project)
            .and("doee", doee)
            .and("version", &version)
    }
}

/// Labels of a sample, as they are written.
#[derive(Clone, Default)]
struct Labels(String);

impl Labels {
    fn and(&self, name: &str, value: &str) -> Labels {
        let comma = if self.0.is_empty() { "" } else { "," };
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        Labels(format!("{}{comma}{name}=\"{value}\"", self.0))
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes everything");
}

fn line(text: &mut String, name: &str, labels: &Labels, value: impl Display) {
    let written = match &*labels.0 {
        "" => writeln!(text, "{name} {value}"),
        labels => writeln!(text, "{name}{{{labels}}} {value}"),
    };
    written.expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labels_value_cannot_end_its_quotes() {
        let labels = Labels::default().and("a", "x\"} 1\n\\").and("b", "");
        assert_eq!(labels.0, "a=\"x\\\"} 1\\n\\\\\",b=\"\"");
    }
}
