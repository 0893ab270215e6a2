//! Why Control Gate ends in error.

/// Why [`crate::run`] failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The inherited listener has no address.
    #[error("cannot tell the listener's address")]
    Address {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP server cannot run.
    #[error("cannot serve the management api")]
    Serve {
        /// Why.
        #[source]
        source: isms_http::ServeError,
    },
    /// The task that reads the inbox ended in a panic.
    #[error("the reader of the inbox failed")]
    Inbox {
        /// Its end.
        #[source]
        source: tokio::task::JoinError,
    },
}
