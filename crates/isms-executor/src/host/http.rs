//! The host functions for requests to servers outside.
#![allow(unsafe_code)] // pointers of a C ABI

use std::ffi::c_void;

use isms_doee_sys as sys;

use super::{bytes, enter, pairs, put, sized, utf8};
use crate::http::{Request, check_headers};

pub(super) unsafe extern "C" fn start(
    call: *mut sys::Call,
    request: *const sys::HttpRequest,
    handle: *mut sys::Handle,
) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for results and arguments. Safe code cannot read what a C pointer points to.
        let request = unsafe {
            let request = sized(request)?;
            put(handle, 0)?;
            check_headers(request.header_count)?;
            Request {
                method: utf8(request.method, "the method")?,
                url: utf8(request.url, "the URL")?,
                headers: pairs(request.headers, request.header_count)?,
                body: bytes(request.body)?,
                timeout_ms: request.timeout_ms,
                redirects_max: request.redirects_max,
            }
        };
        let started = worker.session.http_start(&request)?;
        // SAFETY: as above.
        unsafe { put(handle, started) }
    })
}

pub(super) unsafe extern "C" fn answer(
    call: *mut sys::Call,
    handle: sys::Handle,
    answer: *mut *const sys::HttpAnswer,
) -> sys::ResultCode {
    enter(call, |worker| {
        let head = worker.session.host_call(handle)?.http_answer()?.as_ptr();
        // SAFETY: the ABI's rules for results.
        unsafe { put(answer, head) }
    })
}

pub(super) unsafe extern "C" fn read(
    call: *mut sys::Call,
    handle: sys::Handle,
    buffer: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> sys::ResultCode {
    enter(call, |worker| {
        // SAFETY: the ABI's rules for results and arguments.
        let buffer = unsafe { super::buffer(buffer, capacity, len) }?;
        let read = worker.session.http_read(handle, buffer)?;
        // SAFETY: as above.
        unsafe { put(len, read) }
    })
}
