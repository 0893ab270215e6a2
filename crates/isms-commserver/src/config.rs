//! Settings of CommServer.

use isms_http::HttpLimits;
use serde::{Deserialize, Serialize};

use crate::egress::EgressConfig;

/// Settings of CommServer, as the supervisor hands them over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Limits of the HTTP server.
    pub http: HttpLimits,
    /// Requests of Doees to servers outside.
    pub egress: EgressConfig,
}
