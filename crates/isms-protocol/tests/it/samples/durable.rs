//! What is said of durable calls.

use isms_protocol::{DoeeVersion, ErrorCode, ProcessId, kernel};

use super::{Sample, project, sample, text, version};

pub(super) fn bodies() -> Vec<Sample> {
    let process = ProcessId::from_bytes([0x31; 16]);
    vec![
        sample("kernel/doee-retries", &retries()),
        sample(
            "kernel/resume",
            &kernel::Resume {
                calls: vec![kernel::ResumedCall { process, attempt: 3 }],
                more: true,
            },
        ),
        sample("kernel/resume-nothing", &kernel::Resume::default()),
        sample(
            "kernel/resumed",
            &kernel::Resumed {
                calls: vec![70_000, 0],
            },
        ),
        sample("kernel/dead-after", &kernel::DeadAfter { process, count: 100 }),
        sample(
            "kernel/dead-letters",
            &kernel::DeadLetters {
                letters: vec![letter()],
                more: true,
            },
        ),
        sample(
            "kernel/dead-question",
            &kernel::DeadQuestion {
                process,
                doee: version(),
            },
        ),
        sample(
            "kernel/dead-question-same-version",
            &kernel::DeadQuestion {
                process,
                doee: DoeeVersion::NONE,
            },
        ),
        sample("kernel/progress-dead", &kernel::Progress::Dead),
    ]
}

fn retries() -> kernel::DoeeRetries {
    kernel::DoeeRetries {
        doees: vec![kernel::DoeeRetry {
            doee: version(),
            durability: kernel::Durability::Durable(kernel::Retry {
                attempts: 7,
                backoff_ms: 500,
                backoff_max_ms: 60_000,
                within_s: 3_600,
            }),
        }],
    }
}

fn letter() -> kernel::DeadLetter {
    kernel::DeadLetter {
        process: ProcessId::from_bytes([0x31; 16]),
        project: project(),
        doee: version(),
        age_us: 90_000_000,
        dead_us: 30_000_000,
        kept_us: 600_000_000_000,
        failures: 5,
        request_len: 70_000,
        code: ErrorCode::DoeeFailed,
        reason: text("it said no"),
    }
}
