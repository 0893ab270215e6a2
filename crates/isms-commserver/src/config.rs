//! Settings of CommServer.

use isms_http::HttpLimits;
use serde::{Deserialize, Serialize};

/// Settings of CommServer, as the supervisor hands them over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Limits of the HTTP server.
    pub http: HttpLimits,
}
