//! Settings of Control Gate.

use std::time::Duration;

use isms_http::HttpLimits;
use isms_protocol::limits::ARTIFACT_LEN_MAX;
use serde::{Deserialize, Serialize};

use crate::otlp::OtlpConfig;

/// Settings of Control Gate, as the supervisor hands them over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Limits of the HTTP server.
    pub http: HttpLimits,
    /// Host names under which Gate is reached besides loopback, such as `isms.example.com`; one
    /// without a port means the listener's.
    pub hosts: Vec<String>,
    /// Bytes of an uploaded project folder.
    pub deploy_len_max: u64,
    /// Bytes of an uploaded image.
    pub image_len_max: u64,
    /// How long the upload of an image may take; what has arrived by then is kept.
    pub image_timeout_s: u64,
    /// How long a deployment may take, builds included.
    pub deploy_timeout_s: u64,
    /// Limits of the log memory.
    pub logs: LogLimits,
    /// Limits of the memory of traces.
    pub traces: TraceLimits,
    /// Where traces are passed on to.
    pub otlp: Option<OtlpConfig>,
}

/// Limits of the memory of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceLimits {
    /// Bytes in all.
    pub len_max: usize,
}

impl Default for TraceLimits {
    fn default() -> TraceLimits {
        TraceLimits { len_max: 16 << 20 }
    }
}

/// Limits of the log memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    /// Bytes in all.
    pub len_max: usize,
    /// Bytes of one Doee.
    pub doee_len_max: usize,
    /// Doees that have lines.
    pub doees_max: usize,
    /// Clients that follow a log at the same time.
    pub followers_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            http: HttpLimits::default(),
            hosts: Vec::new(),
            deploy_len_max: 4 * ARTIFACT_LEN_MAX,
            image_len_max: 2 << 30,
            image_timeout_s: 3600,
            deploy_timeout_s: 900,
            logs: LogLimits::default(),
            traces: TraceLimits::default(),
            otlp: None,
        }
    }
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            len_max: 8 << 20,
            doee_len_max: 1 << 20,
            doees_max: 4096,
            followers_max: 64,
        }
    }
}

impl Config {
    pub(crate) fn image_timeout(&self) -> Duration {
        Duration::from_secs(self.image_timeout_s)
    }

    pub(crate) fn deploy_timeout(&self) -> Duration {
        Duration::from_secs(self.deploy_timeout_s)
    }
}
