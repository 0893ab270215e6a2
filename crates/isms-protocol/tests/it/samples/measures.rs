//! How calls of Doees went, how many are accepted, and what Doees are called.

use isms_protocol::{Class, kernel, resadmin};

use super::{Sample, project, sample, text, version};

pub(super) fn bodies() -> Vec<Sample> {
    vec![
        sample("kernel/calls-after", &kernel::CallsAfter { row: 7 }),
        sample("kernel/calls", &calls()),
        sample(
            "kernel/doee-rates",
            &kernel::DoeeRates {
                doees: vec![kernel::DoeeRate {
                    doee: version(),
                    rate: kernel::CallRate { per_s: 5, burst: 9 },
                }],
            },
        ),
        sample(
            "resadmin/name-doees",
            &resadmin::NameDoees {
                versions: vec![version()],
            },
        ),
        sample(
            "resadmin/kept",
            &resadmin::Kept {
                versions: vec![version()],
            },
        ),
        sample(
            "resadmin/named-doees",
            &resadmin::NamedDoees {
                doees: vec![resadmin::NamedDoee {
                    version: version(),
                    project: text("demo"),
                    doee: text("echo"),
                }],
            },
        ),
    ]
}

fn calls() -> kernel::Calls {
    let histogram = |first: u64| kernel::Histogram {
        counts: (first..).take(kernel::BUCKETS_US.len() + 1).collect(),
        sum_us: 70_000,
    };
    let class = kernel::ClassCalls {
        class: Class::Batch,
        outcomes: kernel::Outcomes {
            done: 1,
            failed: 2,
            crashed: 3,
            unavailable: 4,
            refused: 5,
            rate_limited: 6,
            cancelled: 7,
            expired: 8,
            timed_out: 9,
        },
        deadlines_met: 10,
        deadlines_missed: 11,
        waited: histogram(20),
        ran: histogram(40),
    };
    let doee = kernel::DoeeCalls {
        doee: version(),
        project: project(),
        queued: 12,
        running: 13,
        classes: vec![class],
    };
    kernel::Calls {
        doees: vec![doee],
        next: 14,
    }
}
