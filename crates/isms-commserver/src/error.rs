//! Why CommServer ends in error.

/// Why [`crate::run`] failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings of the way out cannot be used.
    #[error("cannot serve requests to servers outside: the certificates of [egress] ca_file cannot be used")]
    Egress {
        /// Why.
        #[source]
        source: isms_http::CaError,
    },
    /// The HTTP server cannot run.
    #[error("cannot serve projects over http")]
    Serve {
        /// Why.
        #[source]
        source: isms_http::ServeError,
    },
    /// The task that keeps the routes ended in a panic.
    #[error("the keeper of routes failed")]
    Keeper {
        /// Its end.
        #[source]
        source: tokio::task::JoinError,
    },
}
