//! The host table: the functions that a Doee calls.
//!
//! An `isms_call` is a token: the host compares its address and never reads through it, so a stale or
//! invented one is refused. The worker's state belongs to the thread that runs the Doee; on any other
//! thread there is none, hence `WRONG_THREAD`. What a Doee points to is believed to be as long as it
//! says: it is the Doee's own process that crashes when it is not.
#![allow(unsafe_code)] // pointers of a C ABI

mod http;
mod invoke;

use std::cell::RefCell;
use std::ffi::c_void;
use std::time::{Duration, Instant};

use isms_doee_sys as sys;

use crate::log;
use crate::params::Params;
use crate::refusal::Refusal;
use crate::response;
use crate::session::Session;
use crate::sql::{self, Statement, Transaction, Value};

/// Tokens in rotation: a token is good again only after so many others.
const CALLS: usize = 256;

struct Calls([sys::Call; CALLS]);

// SAFETY: never written; holds the address of a static. Safe code cannot share raw pointers.
unsafe impl Sync for Calls {}

static TOKENS: Calls = Calls(
    [const {
        sys::Call {
            host: &raw const TABLE,
        }
    }; CALLS],
);

static TABLE: sys::Host = sys::Host {
    size: size_of::<sys::Host>(),
    abi: sys::ABI,
    reserved: 0,
    error,
    fail,
    log: log_lines,
    params,
    request,
    check,
    body,
    body_read,
    respond_begin,
    respond_write,
    sql_start,
    wait,
    sql_rows,
    release,
    http_start: http::start,
    http_answer: http::answer,
    http_read: http::read,
    invoke_start: invoke::start,
    invoke_answer: invoke::answer,
    invoke_read: invoke::read,
};

/// The state of this process's worker.
struct Worker {
    session: Session,
    params: Params,
    token: usize,
    running: bool,
}

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Makes this thread the one that runs the Doee.
pub(crate) fn install(session: Session, params: Params) {
    WORKER.set(Some(Worker {
        session,
        params,
        token: 0,
        running: false,
    }));
}

/// Works with the state between calls of the Doee.
///
/// # Panics
/// Before [`install`], on another thread, or from inside itself: bugs of the executor.
pub(crate) fn with<R>(work: impl FnOnce(&mut Session) -> R) -> R {
    WORKER
        .with_borrow_mut(|worker| work(&mut worker.as_mut().expect("the worker is installed first").session))
}

/// Runs a function of the Doee, which may call the host meanwhile.
pub(crate) fn run<R>(function: impl FnOnce(*mut sys::Call) -> R) -> R {
    let token = set_running(true);
    let result = function((&raw const TOKENS.0[token]).cast_mut());
    set_running(false);
    result
}

fn set_running(running: bool) -> usize {
    WORKER.with_borrow_mut(|worker| {
        let worker = worker.as_mut().expect("the worker is installed first");
        if running {
            worker.token = (worker.token + 1) % CALLS;
        }
        worker.running = running;
        worker.token
    })
}

/// Does the work of a host function, after the checks that all of them need.
fn enter(call: *mut sys::Call, work: impl FnOnce(&mut Worker) -> Result<(), Refusal>) -> sys::ResultCode {
    let entered = WORKER.try_with(|worker| {
        // Borrowed already: a signal handler of the Doee interrupted a host function.
        let Ok(mut worker) = worker.try_borrow_mut() else {
            return sys::INVALID;
        };
        let Some(worker) = worker.as_mut() else {
            return sys::WRONG_THREAD;
        };
        let known = worker.running && std::ptr::eq(call, &raw const TOKENS.0[worker.token]);
        let done = if known {
            work(worker)
        } else {
            Err(Refusal::invalid("this call has ended"))
        };
        match done {
            Ok(()) => {
                worker.session.last_error.clear();
                sys::OK
            }
            Err(refusal) => {
                worker.session.last_error = refusal.message;
                refusal.code
            }
        }
    });
    entered.unwrap_or(sys::WRONG_THREAD)
}

/// Reads an array of the Doee's.
///
/// # Safety
/// `data` is null or points to `len` elements that nobody writes before the host function returns.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> Result<&'a [T], Refusal> {
    if len == 0 {
        return Ok(&[]);
    }
    let fits = len
        .checked_mul(size_of::<T>())
        .is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if data.is_null() || !data.is_aligned() || !fits {
        return Err(Refusal::invalid(
            "a pointer is NULL or not aligned, or its length makes no sense",
        ));
    }
    // SAFETY: not null, aligned, of a possible length; the rest is the caller's promise. Safe code
    // cannot read what a C pointer points to.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// As [`slice`], for the bytes of a text.
///
/// # Safety
/// As for [`slice`].
unsafe fn bytes<'a>(text: sys::Text) -> Result<&'a [u8], Refusal> {
    // SAFETY: the caller's promise.
    unsafe { slice(text.data.cast(), text.len) }
}

/// As [`bytes`], for UTF-8.
///
/// # Safety
/// As for [`slice`].
unsafe fn utf8<'a>(text: sys::Text, what: &str) -> Result<&'a str, Refusal> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(text) }?;
    str::from_utf8(bytes).map_err(|_| Refusal::invalid(format!("{what} is no UTF-8")))
}

/// Writes to where the Doee wants a result.
///
/// # Safety
/// `place` is null or points to a place for a `T`.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Refusal> {
    if place.is_null() || !place.is_aligned() {
        return Err(Refusal::invalid(
            "the pointer for the result is NULL or not aligned",
        ));
    }
    // SAFETY: not null, aligned; the rest is the caller's promise. Safe code cannot write through a C pointer.
    unsafe { place.write(value) };
    Ok(())
}

/// What a Doee asks for in a struct that begins with its size and may have grown since.
///
/// # Safety
/// `request` is null or points to as many bytes as the struct says that it has.
unsafe fn sized<T: Copy>(request: *const T) -> Result<T, Refusal> {
    if request.is_null() || !request.is_aligned() {
        return Err(Refusal::invalid("the request is NULL or not aligned"));
    }
    // SAFETY: not null, aligned; every version of the struct begins with its size, by the ABI's rules.
    if unsafe { request.cast::<usize>().read() } < size_of::<T>() {
        return Err(Refusal::invalid("the request's size is not set"));
    }
    // SAFETY: as above, and it is as long as it says. Safe code cannot read what a C pointer points to.
    Ok(unsafe { request.read() })
}

/// Name and value of a header field.
type Field<'a> = (&'a [u8], &'a [u8]);

/// Header fields, whose number was checked.
///
/// # Safety
/// As for [`slice`], for the array and for each text in it.
unsafe fn pairs<'a>(pairs: *const sys::Pair, count: usize) -> Result<Vec<Field<'a>>, Refusal> {
    // SAFETY: the caller's promise.
    let pairs = unsafe { slice(pairs, count) }?;
    // SAFETY: as above.
    let pair = |pair: &sys::Pair| unsafe { Ok((bytes(pair.name)?, bytes(pair.value)?)) };
    pairs.iter().map(pair).collect()
}

/// The buffer that a host function fills, and 0 where it tells how far.
///
/// # Safety
/// As for [`put`]; `data` is null or points to `capacity` bytes that nobody else touches before the host
/// function returns.
unsafe fn buffer<'a>(data: *mut c_void, capacity: usize, len: *mut usize) -> Result<&'a mut [u8], Refusal> {
    if data.is_null() || isize::try_from(capacity).is_err() {
        return Err(Refusal::invalid(
            "the buffer is NULL, or its capacity makes no sense",
        ));
    }
    // SAFETY: the caller's promise. The result's place is checked before anything is consumed.
    unsafe { put(len, 0) }?;
    // SAFETY: not null, of a possible length; the rest is the caller's promise. Bytes of any value are valid.
    Ok(unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), capacity) })
}

unsafe extern "C" fn error(call: *mut sys::Call) -> sys::Text {
    let text = WORKER.try_with(|worker| {
        let Ok(worker) = worker.try_borrow() else {
            return sys::Text::of(b"the host was called from a signal handler");
        };
        let Some(worker) = worker.as_ref() else {
            return sys::Text::of(b"only the thread that runs execute may call the host");
        };
        if !worker.running || !std::ptr::eq(call, &raw const TOKENS.0[worker.token]) {
            return sys::Text::of(b"this call has ended");
        }
        sys::Text::of(worker.session.last_error.as_bytes())
    });
    text.unwrap_or(sys::Text::of(b""))
}

unsafe extern "C" fn fail(call: *mut sys::Call, message: sys::Text) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for arguments.
        let message = unsafe { bytes(message) }?;
        let message = &message[..message.len().min(isms_protocol::limits::ERROR_MESSAGE_LEN_MAX)];
        worker.session.failure = Some(String::from_utf8_lossy(message).into_owned());
        Ok(())
    })
}

unsafe extern "C" fn log_lines(call: *mut sys::Call, level: u32, line: sys::Text) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for arguments.
        let text = unsafe { bytes(line) }?;
        worker.session.log(log::level(level)?, text);
        Ok(())
    })
}

unsafe extern "C" fn params(
    call: *mut sys::Call,
    params: *mut *const sys::Param,
    count: *mut usize,
) -> sys::ResultCode {
    enter(call, |worker| {
        let entries = worker.params.entries();
        // SAFETY: the ABI's rules for results.
        unsafe {
            put(params, entries.as_ptr())?;
            put(count, entries.len())
        }
    })
}

unsafe extern "C" fn request(call: *mut sys::Call, request: *mut *const sys::Request) -> sys::ResultCode {
    enter(call, |worker| {
        let view = worker.session.running()?.request.as_ptr();
        // SAFETY: the ABI's rules for results.
        unsafe { put(request, view) }
    })
}

unsafe extern "C" fn check(call: *mut sys::Call) -> sys::ResultCode {
    enter(call, |worker| worker.session.check())
}

unsafe extern "C" fn body(call: *mut sys::Call, body: *mut sys::Text) -> sys::ResultCode {
    enter(call, |worker| {
        let whole = worker
            .session
            .running()?
            .body
            .whole()
            .map(|bytes| sys::Text::of(bytes));
        let whole = whole
            .ok_or_else(|| Refusal::limit("the body is too large to be held whole: read it in pieces"))?;
        // SAFETY: the ABI's rules for results.
        unsafe { put(body, whole) }
    })
}

unsafe extern "C" fn body_read(
    call: *mut sys::Call,
    buffer: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for results and arguments.
        let buffer = unsafe { self::buffer(buffer, capacity, len) }?;
        let read = worker.session.body_read(buffer)?;
        // SAFETY: as above.
        unsafe { put(len, read) }
    })
}

unsafe extern "C" fn respond_begin(
    call: *mut sys::Call,
    status: u32,
    headers: *const sys::Pair,
    count: usize,
    body_len: u64,
) -> sys::ResultCode {
    enter(call, |worker| {
        let running = worker.session.running()?;
        // SAFETY: the ABI's rules for arguments.
        let pairs = unsafe { slice(headers, count) }?;
        let mut fields = Vec::with_capacity(pairs.len().min(crate::limits::RESPONSE_HEADERS_MAX + 1));
        for pair in pairs.iter().take(crate::limits::RESPONSE_HEADERS_MAX + 1) {
            // SAFETY: the ABI's rules for arguments.
            fields.push(unsafe { (bytes(pair.name)?, bytes(pair.value)?) });
        }
        let payload_len = (body_len != sys::LEN_UNKNOWN).then_some(body_len);
        running
            .response
            .begin(response::head(status, fields.into_iter(), payload_len)?)
    })
}

unsafe extern "C" fn respond_write(call: *mut sys::Call, data: *const c_void, len: usize) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for arguments.
        let data = unsafe { slice(data.cast::<u8>(), len) }?;
        worker.session.respond_write(data)
    })
}

unsafe extern "C" fn sql_start(
    call: *mut sys::Call,
    database: sys::Text,
    statements: *const sys::Statement,
    count: usize,
    handle: *mut sys::Handle,
) -> sys::ResultCode {
    enter(call, |worker| {
        sql::check_statements(count)?;
        // SAFETY: the ABI's rules for results and arguments.
        let transaction = unsafe {
            put(handle, 0)?;
            Transaction {
                database: utf8(database, "the database's name")?,
                statements: slice(statements, count)?
                    .iter()
                    .map(|it| statement(it))
                    .collect::<Result<_, _>>()?,
            }
        };
        let started = worker.session.sql_start(&transaction)?;
        // SAFETY: as above.
        unsafe { put(handle, started) }
    })
}

/// Reads a statement of the Doee's.
///
/// # Safety
/// As for [`slice`], for all that the statement points to.
unsafe fn statement<'a>(statement: &sys::Statement) -> Result<Statement<'a>, Refusal> {
    sql::check_parameters(statement.parameter_count)?;
    // SAFETY: the caller's promise.
    unsafe {
        let parameters = slice(statement.parameters, statement.parameter_count)?;
        Ok(Statement {
            sql: utf8(statement.sql, "a statement")?,
            parameters: parameters.iter().map(|it| value(it)).collect::<Result<_, _>>()?,
            rows_demanded: u64::try_from(statement.rows_demanded).ok(),
        })
    }
}

/// Reads a value of the Doee's.
///
/// # Safety
/// As for [`slice`], for what the value points to.
unsafe fn value<'a>(value: &sys::Value) -> Result<Value<'a>, Refusal> {
    // SAFETY: the kind says which part of the union was written, by the ABI's rules; all of them are
    // plain data of which any bits are valid, and pointers are only followed as the caller promises.
    unsafe {
        match value.kind {
            sys::KIND_NULL => Ok(Value::Null),
            sys::KIND_INTEGER | sys::KIND_BOOLEAN => Ok(Value::Integer(value.value.integer)),
            sys::KIND_REAL => Ok(Value::Real(value.value.real)),
            sys::KIND_TEXT => utf8(value.value.text, "a text parameter").map(Value::Text),
            sys::KIND_BLOB => bytes(value.value.text).map(Value::Blob),
            kind => Err(Refusal::invalid(format!("{kind} is no kind of value"))),
        }
    }
}

unsafe extern "C" fn wait(
    call: *mut sys::Call,
    handles: *const sys::Handle,
    count: usize,
    timeout_us: i64,
    ready: *mut usize,
) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for results and arguments.
        let handles = unsafe {
            put(ready, 0)?;
            slice(handles, count)
        }?;
        let timeout = u64::try_from(timeout_us).ok().map(Duration::from_micros);
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let index = worker.session.wait(handles, until)?;
        // SAFETY: as above.
        unsafe { put(ready, index) }
    })
}

unsafe extern "C" fn sql_rows(
    call: *mut sys::Call,
    handle: sys::Handle,
    statement: usize,
    rows: *mut sys::Rows,
) -> sys::ResultCode {
    enter(call, |worker| {
        let found = worker.session.host_call(handle)?.results()?.rows(statement);
        let found =
            found.ok_or_else(|| Refusal::invalid(format!("the transaction has no statement {statement}")))?;
        // SAFETY: the ABI's rules for results.
        unsafe { put(rows, found) }
    })
}

unsafe extern "C" fn release(call: *mut sys::Call, handle: sys::Handle) -> sys::ResultCode {
    enter(call, |worker| worker.session.release(handle))
}
