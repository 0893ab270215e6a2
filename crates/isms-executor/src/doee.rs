//! The loaded Doee: its binary, its table, its object.
#![allow(unsafe_code)] // dlopen, and calls of C functions

use std::ffi::{CStr, CString, c_void};
use std::os::fd::{AsRawFd, OwnedFd};

use isms_doee_sys as sys;
use isms_protocol::worker::Stage;

use crate::host;

/// Why a Doee cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StartError {
    pub(crate) stage: Stage,
    pub(crate) message: String,
}

impl StartError {
    fn new(stage: Stage, message: impl Into<String>) -> StartError {
        StartError {
            stage,
            message: message.into(),
        }
    }
}

/// A Doee's object and the functions that work on it, all of them there.
pub(crate) struct Doee {
    object: *mut c_void,
    destroy: unsafe extern "C" fn(*mut c_void),
    initialize: unsafe extern "C" fn(*mut c_void, *mut sys::Call) -> sys::ResultCode,
    execute: unsafe extern "C" fn(*mut c_void, *mut sys::Call) -> sys::ResultCode,
    terminate: unsafe extern "C" fn(*mut c_void, *mut sys::Call),
}

/// Loads the binary, creates the Doee and initializes it. The library stays loaded for ever.
pub(crate) fn start(binary: OwnedFd) -> Result<Doee, StartError> {
    let table = check_table(entry_point(load(binary)?)?)?;
    let doee = create(&table)?;
    host::with(|session| session.begin_function());
    // SAFETY: the object comes from this table's `create`.
    let code = host::run(|call| unsafe { (doee.initialize)(doee.object, call) });
    if code != sys::OK {
        return Err(StartError::new(
            Stage::Initialize,
            failure(format!("initialize failed with code {code}")),
        ));
    }
    Ok(doee)
}

impl Doee {
    /// Runs `execute`; the call is the session's running one.
    pub(crate) fn execute(&self) -> sys::ResultCode {
        // SAFETY: the object is initialized and lives.
        host::run(|call| unsafe { (self.execute)(self.object, call) })
    }

    /// Terminates and destroys the Doee.
    pub(crate) fn terminate(self) {
        host::with(|session| session.begin_function());
        // SAFETY: the object is initialized and lives.
        host::run(|call| unsafe { (self.terminate)(self.object, call) });
        // SAFETY: nothing uses the object after this.
        unsafe { (self.destroy)(self.object) };
    }
}

/// What the Doee said about its failure, or else `fallback`.
fn failure(fallback: String) -> String {
    host::with(|session| session.failure.take()).unwrap_or(fallback)
}

fn load(binary: OwnedFd) -> Result<*mut c_void, StartError> {
    let path = format!("/proc/self/fd/{}", binary.as_raw_fd());
    let c_path =
        CString::new(path.clone()).map_err(|_| StartError::new(Stage::Load, "a path has a zero byte"))?;
    // SAFETY: a path that ends with zero. Constructors run: the process is locked down for that.
    let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(StartError::new(
            Stage::Load,
            dl_error().replace(&path, "the binary"),
        ));
    }
    Ok(library)
}

fn entry_point(library: *mut c_void) -> Result<*const sys::DoeeTable, StartError> {
    // SAFETY: a live library, a name that ends with zero.
    let symbol = unsafe { libc::dlsym(library, sys::ENTRY_POINT.as_ptr()) };
    if symbol.is_null() {
        let name = sys::ENTRY_POINT.to_string_lossy();
        let message =
            format!("the binary does not export {name}: declare the Doee with ISMS_DOEE, or define it");
        return Err(StartError::new(Stage::Abi, message));
    }
    // SAFETY: by its name the symbol is the ABI's entry point; a binary that lies crashes its own worker.
    let entry_point = unsafe { std::mem::transmute::<*mut c_void, sys::EntryPoint>(symbol) };
    // SAFETY: as above.
    Ok(unsafe { entry_point() })
}

/// Takes the functions out of a table that says it is of this ABI and whole.
fn check_table(table: *const sys::DoeeTable) -> Result<sys::DoeeTable, StartError> {
    let wrong = |message: String| StartError::new(Stage::Abi, message);
    if table.is_null() || !table.is_aligned() {
        return Err(wrong("isms_doee_v1 returned no table".to_owned()));
    }
    // SAFETY: not null, aligned; every table, however old, begins with its size and its ABI.
    let (size, abi) = unsafe {
        (
            (&raw const (*table).size).read(),
            (&raw const (*table).abi).read(),
        )
    };
    if abi != sys::ABI {
        return Err(wrong(format!(
            "the Doee speaks ABI {abi}, this executor speaks {}: build it again",
            sys::ABI
        )));
    }
    if size < size_of::<sys::DoeeTable>() {
        return Err(wrong(format!(
            "the Doee's table has {size} bytes, at least {} are needed",
            size_of::<sys::DoeeTable>()
        )));
    }
    // SAFETY: by its own word the table is at least this large.
    Ok(unsafe { table.read() })
}

fn create(table: &sys::DoeeTable) -> Result<Doee, StartError> {
    let missing = |name| StartError::new(Stage::Abi, format!("the Doee's table has no {name}"));
    let create = table.create.ok_or_else(|| missing("create"))?;
    let destroy = table.destroy.ok_or_else(|| missing("destroy"))?;
    let initialize = table.initialize.ok_or_else(|| missing("initialize"))?;
    let execute = table.execute.ok_or_else(|| missing("execute"))?;
    let terminate = table.terminate.ok_or_else(|| missing("terminate"))?;
    host::with(|session| session.begin_function());
    // SAFETY: a function of the Doee's table, by its own word of this type.
    let object = host::run(|call| unsafe { create(call) });
    if object.is_null() {
        return Err(StartError::new(
            Stage::Create,
            failure("create returned NULL".to_owned()),
        ));
    }
    Ok(Doee {
        object,
        destroy,
        initialize,
        execute,
        terminate,
    })
}

fn dl_error() -> String {
    // SAFETY: returns null or a text that is good until the next call of a dl function on this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the binary cannot be loaded".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
