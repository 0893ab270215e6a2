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
    /// The collector of traces cannot be used.
    #[error("cannot pass on traces")]
    Otlp {
        /// Why.
        #[source]
        source: crate::OtlpError,
    },
    /// The task that reads the inbox ended in a panic.
    #[error("the reader of the inbox failed, or what passes on what it reads")]
    Inbox {
        /// Its end.
        #[source]
        source: tokio::task::JoinError,
    },
}
