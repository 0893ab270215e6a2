//! Every limit that two processes must agree on, in one place. What only one process cares about
//! lives in that process's configuration, but starts from the numbers here.

use std::time::Duration;

/// A whole message: header, body and raw bytes. Larger payloads are streams.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Frames of a message.
pub const MESSAGE_FRAMES_MAX: usize = 3;
/// The raw bytes that always fit beside a header and a body of up to 15 KiB.
pub const INLINE_LEN_MAX: usize = 48 * 1024;
/// Payload of one stream chunk.
pub const CHUNK_LEN_MAX: usize = 32 * 1024;
/// The most credit that a stream's receiver keeps open: bytes in flight of one stream.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of one stream.
pub const STREAM_LEN_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Text of a wire error.
pub const ERROR_MESSAGE_LEN_MAX: usize = 4 * 1024;

/// Bytes read from a connection and not yet consumed.
pub const CONNECTION_UNREAD_MAX: usize = 256 * 1024;
/// Bytes written to a connection that its peer does not read; more, and the peer is given up.
pub const CONNECTION_UNSENT_MAX: usize = 16 * 1024 * 1024;
/// From accept to the end of the ZMTP handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// From the end of the handshake to the `register` message.
pub const REGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections to the Kernel that have not registered yet.
pub const UNREGISTERED_CONNECTIONS_MAX: usize = 32;
/// How often each side says that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which a peer is dead.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Requests that one service may have outstanding at the Kernel.
pub const REQUEST_CREDIT_MAX: u32 = 16 * 1024;
/// Calls that wait in one queue.
pub const QUEUE_LEN_MAX: usize = 10_000;
/// Calls that wait in all queues.
pub const QUEUE_TOTAL_MAX: usize = 100_000;
/// Bytes of the calls that wait in all queues.
pub const QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A batch call that has waited this long runs next.
pub const AGING_MAX: Duration = Duration::from_secs(30);
/// Between a cancel and the kill of what was asked to stop.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// Depth of a chain of calls from call to call.
pub const CALL_DEPTH_MAX: u32 = 16;
/// Children that one process may have in flight.
pub const CHILDREN_MAX: u32 = 64;

/// Projects of the platform: all of them fit one message.
pub const PROJECTS_MAX: usize = 500;
/// Weight of a project of which nothing else was said.
pub const WEIGHT_DEFAULT: u32 = 100;
/// The most that a project may weigh.
pub const WEIGHT_MAX: u32 = 10_000;
/// The highest rate that a limit may have, in calls per second.
pub const RATE_MAX: u32 = 1_000_000;

/// Doees of one project.
pub const DOEES_MAX: usize = 128;
/// The highest limit of calls that run at the same time: as many as a service may have outstanding.
pub const CONCURRENCY_MAX: u32 = REQUEST_CREDIT_MAX;
/// Doees of which the Kernel keeps how their calls went, each on its own; the rest is summed.
pub const MEASURED_DOEES_MAX: usize = 1024;
/// Classes of Doees in one part of the list of how calls went.
pub const CALLS_LISTED_MAX: usize = 96;
/// Versions of Doees whose names can be asked for at once.
pub const NAMED_DOEES_MAX: usize = 256;
/// The body of an asynchronous call, and the body of its result.
pub const ASYNC_BODY_LEN_MAX: usize = 1024 * 1024;
/// Asynchronous calls that have not ended and results that are kept.
pub const RESULTS_MAX: usize = 250_000;
/// Bytes of them all, as the Kernel counts them: bodies, and [`RESULT_COST`] for each.
pub const RESULTS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Of both bounds one project may use one part in so many.
pub const RESULTS_SHARE: usize = 4;
/// What the record of an asynchronous call counts beside its bodies, from its acceptance until it is forgotten; a test
/// of the Kernel adds up what a record takes at most; 100,000 to 250,000 of them grow a process by 611 to 646 bytes each.
pub const RESULT_COST: usize = 768;
/// How long a result is kept, unless the administrator says otherwise, in s.
pub const RESULT_KEEP_S_DEFAULT: u32 = 300;
/// How long an administrator may have results kept, in s.
pub const RESULT_KEEP_S_MAX: u32 = 24 * 60 * 60;
/// Attempts of a durable call.
pub const ATTEMPTS_MAX: u32 = 100;
/// The longest pause between two attempts of a durable call, in ms.
pub const BACKOFF_MS_MAX: u32 = 60 * 60 * 1000;
/// How long after it was accepted a durable call may begin to run, in s.
pub const RETRY_WITHIN_S_MAX: u32 = 7 * 24 * 60 * 60;
/// How long a call that was given up is kept, unless the administrator says otherwise, in s.
pub const DEAD_KEEP_S_DEFAULT: u32 = 7 * 24 * 60 * 60;
/// How long an administrator may have such calls kept, in s.
pub const DEAD_KEEP_S_MAX: u32 = 14 * 24 * 60 * 60;
/// How long after it was accepted a durable call may be run again, in s. What is remembered of its effects lasts longer.
pub const DURABLE_LIFE_S_MAX: u32 = 28 * 24 * 60 * 60;
/// How far ahead the time may lie at which a durable call shall run, in s.
pub const LATER_S_MAX: u32 = 400 * 24 * 60 * 60;
/// Bytes that stand for an idempotency key.
pub const KEY_LEN: usize = 32;
/// Dead letters in one answer.
pub const DEAD_LISTED_MAX: usize = 100;
/// Bytes of the reason of a dead letter that are told in a list.
pub const DEAD_REASON_LEN_MAX: usize = 256;
/// Calls in one list of what a Doer still has.
pub const RESUMED_MAX: usize = 1_000;
/// How long one question waits for the end of an asynchronous call.
pub const RESULT_WAIT_MAX: Duration = Duration::from_secs(60);

/// Spans, or runs, in one event: some 200 bytes each.
pub const SPANS_MAX: usize = 200;
/// Processes on behalf of one traced call that are traced as well.
pub const SPANS_PER_CALL_MAX: u32 = 256;
/// Calls that are traced in a second, unless the administrator says otherwise.
pub const TRACES_PER_S_DEFAULT: u32 = 200;
/// The most of them that he may ask for.
pub const TRACES_PER_S_MAX: u32 = 10_000;
/// How long a call takes that is slow, unless the administrator says otherwise, in ms.
pub const SLOW_MS_DEFAULT: u32 = 1_000;
/// The longest that he may allow, in ms.
pub const SLOW_MS_MAX: u32 = 60 * 60 * 1000;

/// Workers of one Doer, unless its administrator says otherwise.
pub const WORKERS_DEFAULT: usize = 256;
/// The most workers of one Doer that an administrator may allow.
pub const WORKERS_MAX: usize = 2048;
/// Workers in one part of their list.
pub const WORKERS_LISTED_MAX: usize = 128;
/// Log bytes kept of one invocation.
pub const LOG_LEN_MAX: usize = 64 * 1024;
/// One line of a log.
pub const LOG_LINE_LEN_MAX: usize = 4 * 1024;

/// An HTTP request's head.
pub const HTTP_HEAD_LEN_MAX: usize = 32 * 1024;
/// An HTTP body where the route does not say otherwise.
pub const HTTP_BODY_LEN_DEFAULT: u64 = 16 * 1024 * 1024;
/// Connections of one edge.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// How long an edge lets calls end when it is told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Body of an HTTP request to a server outside, and of its answer.
pub const FETCH_BODY_LEN_MAX: u64 = 16 * 1024 * 1024;
/// Its URL, names and values of its header fields together, and the same of its answer: what fits a message beside
/// an inline body.
pub const FETCH_HEAD_LEN_MAX: usize = 12 * 1024;
/// Its header fields, and those of its answer.
pub const FETCH_HEADERS_MAX: usize = 128;
/// Redirects that it follows.
pub const FETCH_REDIRECTS_MAX: u32 = 5;

/// Body of a Doee's call of another one.
pub const CALL_BODY_LEN_MAX: u64 = 16 * 1024 * 1024;
/// Names and values of its header fields together: what fits a message beside an inline body.
pub const CALL_HEAD_LEN_MAX: usize = 12 * 1024;
/// Its header fields.
pub const CALL_HEADERS_MAX: usize = 128;

/// Length of a project's, Doee's or database's name: `[a-z][a-z0-9-]*`.
pub const NAME_LEN_MAX: usize = 63;
/// Bytes of a Doee's source tree, and of a prebuilt binary.
pub const ARTIFACT_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Device nodes of a worker, and directories: as many as the administrator can list.
pub const OPENINGS_MAX: usize = 64;

/// Statements of one transaction.
pub const SQL_STATEMENTS_MAX: usize = 256;
/// Parameters of one statement.
pub const SQL_PARAMETERS_MAX: usize = 999;
/// How long it is remembered which transactions of a durable call took effect, from the beginning of the call.
/// No durable call lives as long.
pub const INBOX_KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Rows that one transaction returns.
pub const SQL_ROWS_MAX: usize = 10_000;
/// Bytes of rows that one transaction returns.
pub const SQL_RESULT_LEN_MAX: usize = 8 * 1024 * 1024;
