//! Limits that only the executor and the builder care about.

use std::time::Duration;

/// Calls that the Doer may send ahead of the running one.
pub(crate) const WAITING_CALLS_MAX: usize = 64;
/// Ended calls whose request body is still being thrown away.
pub(crate) const DRAINING_MAX: usize = 64;
/// Host calls of one call that are held, ended ones included.
pub(crate) const HOST_CALLS_HELD_MAX: usize = 1024;
/// Bytes of one transaction's statements and parameters, encoded.
pub(crate) const SQL_TRANSACTION_LEN_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one transaction's results, encoded: the rows' own limit and what MessagePack adds.
pub(crate) const SQL_ANSWER_LEN_MAX: usize = isms_protocol::limits::SQL_RESULT_LEN_MAX * 2;
/// Names and values of a response's header fields together: what fits a message beside an inline body.
pub(crate) const RESPONSE_HEADERS_LEN_MAX: usize = 12 * 1024;
/// Header fields of a response.
pub(crate) const RESPONSE_HEADERS_MAX: usize = 256;
/// What a log line costs of the budget besides its text.
pub(crate) const LOG_LINE_COST: usize = 16;
/// Text of a failed start.
pub(crate) const FAILURE_LEN_MAX: usize = 4 * 1024;

/// Files of a source tree.
pub(crate) const SOURCE_FILES_MAX: usize = 2_000;
/// A path within it.
pub(crate) const SOURCE_PATH_LEN_MAX: usize = 240;
/// Folders within folders.
pub(crate) const SOURCE_DEPTH_MAX: usize = 16;
/// What is kept of the compiler's words.
pub(crate) const BUILD_LOG_LEN_MAX: usize = 32 * 1024;
/// A build, unless the caller says otherwise.
pub(crate) const BUILD_TIMEOUT: Duration = Duration::from_secs(60);
