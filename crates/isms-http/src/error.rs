//! Why an edge's server cannot serve.

/// Why [`crate::serve`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The inherited listener is not usable.
    #[error("cannot use the http listener")]
    Listener {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
