//! The Doee ABI in Rust: the `repr(C)` twin of `isms_doee.h`, `isms_doee_http.h` and
//! `isms_doee_call.h`.
//!
//! The headers are the source of truth and hold the rules; `tests/layout.rs` compiles it and compares
//! sizes, offsets and numbers. Nothing here is a safe interface: these are the shapes alone.

use std::ffi::{c_char, c_void};

/// The ABI that this crate describes.
pub const ABI: u32 = 1;
/// The function that a Doee exports, of type [`EntryPoint`].
pub const ENTRY_POINT: &std::ffi::CStr = c"isms_doee_v1";
/// A body's length that nobody has said.
pub const LEN_UNKNOWN: u64 = u64::MAX;
/// Any number of rows will do.
pub const ROWS_ANY: i64 = -1;

/// The answer of a function of either table.
pub type ResultCode = i32;
/// It worked.
pub const OK: ResultCode = 0;
/// The caller no longer wants the answer.
pub const CANCELLED: ResultCode = 1;
/// The call's time is over.
pub const DEADLINE: ResultCode = 2;
/// Not the thread that runs `execute`.
pub const WRONG_THREAD: ResultCode = 3;
/// The manifest does not allow it.
pub const FORBIDDEN: ResultCode = 4;
/// A demanded row count did not hold.
pub const CONDITION_FAILED: ResultCode = 5;
/// Over a limit.
pub const LIMIT: ResultCode = 6;
/// The database refused a statement.
pub const DATABASE: ResultCode = 7;
/// An argument makes no sense, or the call or handle has ended.
pub const INVALID: ResultCode = 8;
/// Whoever should answer is not there, or broke off.
pub const UNAVAILABLE: ResultCode = 9;
/// There is no such thing.
pub const NOT_FOUND: ResultCode = 10;
/// The timeout given to `isms_wait` passed.
pub const TIMEOUT: ResultCode = 11;
/// The Doee's own failure.
pub const FAILED: ResultCode = 12;
/// A bug in the platform.
pub const INTERNAL: ResultCode = 13;

/// Kind of a value: NULL.
pub const KIND_NULL: u32 = 0;
/// Kind of a value: a whole number.
pub const KIND_INTEGER: u32 = 1;
/// Kind of a value: a number with a fraction.
pub const KIND_REAL: u32 = 2;
/// Kind of a value: text.
pub const KIND_TEXT: u32 = 3;
/// Kind of a value: bytes.
pub const KIND_BLOB: u32 = 4;
/// Kind of a value: true or false, in `integer`.
pub const KIND_BOOLEAN: u32 = 5;

/// The trigger was an HTTP request.
pub const TRIGGER_HTTP: u32 = 1;
/// The trigger was a direct call.
pub const TRIGGER_DIRECT: u32 = 2;
/// A schedule of the manifest.
pub const TRIGGER_SCHEDULE: u32 = 3;
/// Another Doee of the project.
pub const TRIGGER_CALL: u32 = 4;

/// Class of a call: as it is.
pub const CLASS_SAME: u32 = 0;
/// Class of a call: realtime at most.
pub const CLASS_REALTIME: u32 = 1;
/// Class of a call: high at most.
pub const CLASS_HIGH: u32 = 2;
/// Class of a call: normal at most.
pub const CLASS_NORMAL: u32 = 3;
/// Class of a call: batch.
pub const CLASS_BATCH: u32 = 4;
/// Of a call's flags: it runs by itself.
pub const INVOKE_ASYNC: u32 = 1;

/// Log level: for the developer.
pub const LOG_DEBUG: u32 = 0;
/// Log level: life.
pub const LOG_INFO: u32 = 1;
/// Log level: handled, but look.
pub const LOG_WARN: u32 = 2;
/// Log level: a person must act.
pub const LOG_ERROR: u32 = 3;

/// Bytes with a length; not terminated.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    /// The first byte; may be null when `len` is 0.
    pub data: *const c_char,
    /// How many.
    pub len: usize,
}

impl Text {
    /// Points to bytes that must outlive every use.
    pub const fn of(bytes: &[u8]) -> Text {
        Text {
            data: bytes.as_ptr().cast(),
            len: bytes.len(),
        }
    }
}

/// A name and a value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Pair {
    /// The name.
    pub name: Text,
    /// The value.
    pub value: Text,
}

/// What a [`Value`] holds, by its kind.
#[derive(Clone, Copy)]
#[repr(C)]
pub union ValueAs {
    /// An integer or a boolean.
    pub integer: i64,
    /// A real.
    pub real: f64,
    /// A text or a blob.
    pub text: Text,
}

/// A value of a parameter or a column.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Value {
    /// One of the `KIND_` numbers.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The value itself.
    pub value: ValueAs,
}

/// An entry of the manifest's `params`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Param {
    /// Its name.
    pub name: Text,
    /// Its value.
    pub value: Value,
}

/// What triggered an `execute`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Request {
    /// Bytes of this struct that the host knows.
    pub size: usize,
    /// One of the `TRIGGER_` numbers.
    pub trigger: u32,
    /// From 1.
    pub attempt: u32,
    /// The same in every attempt.
    pub invocation_id: Text,
    /// HTTP method.
    pub method: Text,
    /// HTTP path below the project.
    pub path: Text,
    /// The pattern that matched.
    pub route: Text,
    /// HTTP query string.
    pub query: Text,
    /// Who asks.
    pub principal: Text,
    /// W3C traceparent.
    pub trace: Text,
    /// On CLOCK_MONOTONIC; 0 for none.
    pub deadline_us: u64,
    /// Length of the body, or [`LEN_UNKNOWN`].
    pub body_len: u64,
    /// Values of the pattern's parameters.
    pub parameters: *const Pair,
    /// How many.
    pub parameter_count: usize,
    /// HTTP header fields.
    pub headers: *const Pair,
    /// How many.
    pub header_count: usize,
}

/// One SQL statement.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Statement {
    /// Its text.
    pub sql: Text,
    /// Values of its parameters.
    pub parameters: *const Value,
    /// How many.
    pub parameter_count: usize,
    /// Rows that it must return or change; negative for any number.
    pub rows_demanded: i64,
}

/// What a statement returned.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rows {
    /// Rows inserted, updated or deleted.
    pub rows_changed: u64,
    /// Rows returned.
    pub row_count: usize,
    /// Columns of each.
    pub column_count: usize,
    /// Names of the columns.
    pub columns: *const Text,
    /// The values, row after row.
    pub values: *const Value,
}

/// An HTTP request to a server outside.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HttpRequest {
    /// Bytes of this struct that the Doee knows.
    pub size: usize,
    /// HTTP method.
    pub method: Text,
    /// Absolute URL.
    pub url: Text,
    /// HTTP header fields.
    pub headers: *const Pair,
    /// How many.
    pub header_count: usize,
    /// The body.
    pub body: Text,
    /// Until the answer is there; 0 for as long as the call has.
    pub timeout_ms: u32,
    /// Redirects that are followed.
    pub redirects_max: u32,
}

/// The head of a server's answer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HttpAnswer {
    /// Bytes of this struct that the host knows.
    pub size: usize,
    /// HTTP status.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// The URL that answered.
    pub url: Text,
    /// Length of the body, or [`LEN_UNKNOWN`].
    pub body_len: u64,
    /// HTTP header fields.
    pub headers: *const Pair,
    /// How many.
    pub header_count: usize,
}

/// A call of another Doee.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct InvokeRequest {
    /// Bytes of this struct that the Doee knows.
    pub size: usize,
    /// Its name.
    pub doee: Text,
    /// Header fields.
    pub headers: *const Pair,
    /// How many.
    pub header_count: usize,
    /// The body.
    pub body: Text,
    /// One of the `CLASS_` numbers.
    pub class_max: u32,
    /// Waiting included; 0 for the callee's own.
    pub deadline_ms: u32,
    /// [`INVOKE_ASYNC`] or nothing.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// The head of its answer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct InvokeAnswer {
    /// Bytes of this struct that the host knows.
    pub size: usize,
    /// What the callee says.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Id of an asynchronous call.
    pub process: Text,
    /// Length of the body, or [`LEN_UNKNOWN`].
    pub body_len: u64,
    /// Header fields.
    pub headers: *const Pair,
    /// How many.
    pub header_count: usize,
}

/// A host call; 0 is none.
pub type Handle = u64;

/// One run of a function of the Doee's table.
#[derive(Debug)]
#[repr(C)]
pub struct Call {
    /// What the host offers.
    pub host: *const Host,
}

/// What the host offers to the Doee.
#[repr(C)]
pub struct Host {
    /// Bytes of this table that the host fills.
    pub size: usize,
    /// [`ABI`].
    pub abi: u32,
    /// Zero.
    pub reserved: u32,
    /// Why the last host call failed.
    pub error: unsafe extern "C" fn(*mut Call) -> Text,
    /// Says why the running function is about to fail.
    pub fail: unsafe extern "C" fn(*mut Call, Text) -> ResultCode,
    /// Logs.
    pub log: unsafe extern "C" fn(*mut Call, u32, Text) -> ResultCode,
    /// The manifest's `params`.
    pub params: unsafe extern "C" fn(*mut Call, *mut *const Param, *mut usize) -> ResultCode,
    /// What triggered the call.
    pub request: unsafe extern "C" fn(*mut Call, *mut *const Request) -> ResultCode,
    /// Whether it is time to stop.
    pub check: unsafe extern "C" fn(*mut Call) -> ResultCode,
    /// The whole body, when it is small.
    pub body: unsafe extern "C" fn(*mut Call, *mut Text) -> ResultCode,
    /// Reads on in the body.
    pub body_read: unsafe extern "C" fn(*mut Call, *mut c_void, usize, *mut usize) -> ResultCode,
    /// Begins the answer.
    pub respond_begin: unsafe extern "C" fn(*mut Call, u32, *const Pair, usize, u64) -> ResultCode,
    /// Goes on with it.
    pub respond_write: unsafe extern "C" fn(*mut Call, *const c_void, usize) -> ResultCode,
    /// Starts a transaction.
    pub sql_start: unsafe extern "C" fn(*mut Call, Text, *const Statement, usize, *mut Handle) -> ResultCode,
    /// Waits until a host call has ended.
    pub wait: unsafe extern "C" fn(*mut Call, *const Handle, usize, i64, *mut usize) -> ResultCode,
    /// What a statement returned.
    pub sql_rows: unsafe extern "C" fn(*mut Call, Handle, usize, *mut Rows) -> ResultCode,
    /// Lets go of a host call.
    pub release: unsafe extern "C" fn(*mut Call, Handle) -> ResultCode,
    /// Starts a request to a server outside.
    pub http_start: unsafe extern "C" fn(*mut Call, *const HttpRequest, *mut Handle) -> ResultCode,
    /// The head of its answer.
    pub http_answer: unsafe extern "C" fn(*mut Call, Handle, *mut *const HttpAnswer) -> ResultCode,
    /// Reads on in its body.
    pub http_read: unsafe extern "C" fn(*mut Call, Handle, *mut c_void, usize, *mut usize) -> ResultCode,
    /// Starts a call of another Doee.
    pub invoke_start: unsafe extern "C" fn(*mut Call, *const InvokeRequest, *mut Handle) -> ResultCode,
    /// The head of its answer.
    pub invoke_answer: unsafe extern "C" fn(*mut Call, Handle, *mut *const InvokeAnswer) -> ResultCode,
    /// Reads on in its body.
    pub invoke_read: unsafe extern "C" fn(*mut Call, Handle, *mut c_void, usize, *mut usize) -> ResultCode,
}

/// What the Doee offers. A function may be missing in a table that a stranger wrote.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DoeeTable {
    /// Bytes of this table that the Doee fills.
    pub size: usize,
    /// The ABI that it speaks.
    pub abi: u32,
    /// Zero.
    pub reserved: u32,
    /// Makes the Doee; null when it cannot.
    pub create: Option<unsafe extern "C" fn(*mut Call) -> *mut c_void>,
    /// Deletes it.
    pub destroy: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Once per worker, before the first `execute`.
    pub initialize: Option<unsafe extern "C" fn(*mut c_void, *mut Call) -> ResultCode>,
    /// Once per trigger.
    pub execute: Option<unsafe extern "C" fn(*mut c_void, *mut Call) -> ResultCode>,
    /// Once per worker, after the last `execute`.
    pub terminate: Option<unsafe extern "C" fn(*mut c_void, *mut Call)>,
}

/// The type of [`ENTRY_POINT`].
pub type EntryPoint = unsafe extern "C" fn() -> *const DoeeTable;
