//! SEQPACKET sockets: datagrams in order, with an end, that can carry descriptors.
//!
//! Receiving is bounded: a datagram longer than the buffer or with more than [`DESCRIPTORS_MAX`]
//! descriptors is an error, and descriptors that came with it are closed, never leaked.
#![allow(unsafe_code)] // sendmsg and recvmsg with control messages

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::descriptor;

/// Descriptors that one datagram may carry.
pub const DESCRIPTORS_MAX: usize = 8;

/// Room for the control message of [`DESCRIPTORS_MAX`] descriptors, aligned for its header.
#[repr(C, align(8))]
struct ControlBuffer([MaybeUninit<u8>; 64]);

const CONTROL_ROOM: usize = size_of::<ControlBuffer>();

/// A received datagram.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the buffer that it fills; 0 when the peer has closed its end.
    pub len: usize,
    /// Descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Makes a pair of connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    descriptor::socket_pair(libc::SOCK_SEQPACKET)
}

/// Sends one datagram with descriptors. Never raises SIGPIPE; a full queue of a non-blocking socket is
/// `WouldBlock`.
pub fn send(socket: BorrowedFd<'_>, datagram: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX || datagram.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a datagram has 1 byte or more and at most 8 descriptors",
        ));
    }
    let mut slice = libc::iovec {
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    let mut control = ControlBuffer([MaybeUninit::uninit(); 64]);
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        attach(&mut message, &mut control, descriptors);
    }
    loop {
        // SAFETY: `message` points to `datagram` and `control`, which outlive the call; the kernel only reads.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn attach(message: &mut libc::msghdr, control: &mut ControlBuffer, descriptors: &[BorrowedFd<'_>]) {
    let payload_len = size_of_val(descriptors) as u32; // ≤ 8 descriptors
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes; the header lies in `control`, which has room for the maximum
    // (asserted below), is aligned, and gets fully written before the kernel reads it. BorrowedFd is a
    // transparent RawFd.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(payload_len) as _;
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(payload_len) as _;
        ptr::copy_nonoverlapping(
            descriptors.as_ptr().cast::<u8>(),
            libc::CMSG_DATA(header),
            payload_len as usize,
        );
    }
}

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize <= CONTROL_ROOM
);

/// Receives one datagram into `buffer`. Fails with `InvalidData` when it does not fit, with `WouldBlock` when a
/// non-blocking socket has none.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = ControlBuffer([MaybeUninit::uninit(); 64]);
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_ROOM as _;
    let len = loop {
        // SAFETY: `message` points to `buffer` and `control`, writable for the lengths given.
        let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if let Ok(len) = usize::try_from(len) {
            break len;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let descriptors = detach(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the datagram or its descriptors are too many",
        ));
    }
    Ok(Received { len, descriptors })
}

/// Takes over every descriptor that came with a message, whatever else is wrong with it.
fn detach(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: recvmsg filled `message`; the CMSG macros walk within msg_controllen. Descriptors in an
    // SCM_RIGHTS message were installed for us by the kernel, so each is open and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let payload_len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..payload_len / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(ptr::read_unaligned(numbers.add(index))));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    descriptors
}
