//! Limits of one edge's HTTP server: the protocol's numbers at first, settable within maxima.

use std::time::Duration;

use isms_protocol::limits::{DRAIN_TIMEOUT, HTTP_CONNECTIONS_MAX, HTTP_HEAD_LEN_MAX};
use serde::{Deserialize, Serialize};

/// Header fields of one request.
pub(crate) const HEADERS_MAX: usize = 100;
/// What hyper buffers of one connection in each direction.
pub(crate) const CONNECTION_BUFFER_LEN_MAX: usize = 64 * 1024;
/// A request's target; a longer one is answered with 414.
pub(crate) const TARGET_LEN_MAX: usize = 8 * 1024;
/// How long the listener rests when no descriptor is left.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of one edge's HTTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpLimits {
    /// Open connections; one more is answered with 503 and closed.
    pub connections_max: usize,
    /// Request line and header fields together; longer is answered with 431.
    pub head_len_max: usize,
    /// From the first byte of a request to the end of its head.
    pub head_timeout_ms: u64,
    /// Silence of a connection between two requests, and before the first.
    pub idle_timeout_ms: u64,
    /// How long a client may leave a response unread.
    pub write_timeout_ms: u64,
    /// How long running requests may go on when the server is told to stop.
    pub drain_timeout_ms: u64,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            connections_max: HTTP_CONNECTIONS_MAX,
            head_len_max: HTTP_HEAD_LEN_MAX,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            write_timeout_ms: 30_000,
            drain_timeout_ms: DRAIN_TIMEOUT.as_millis() as u64,
        }
    }
}

impl HttpLimits {
    pub(crate) fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}
