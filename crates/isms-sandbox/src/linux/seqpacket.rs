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

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;

    #[test]
    fn datagrams_keep_their_bounds_and_carry_descriptors_that_are_closed_at_exec() {
        let (one, other) = pair().unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        send(one.as_fd(), b"first", &[file.as_fd(), file.as_fd()]).unwrap();
        send(one.as_fd(), b"second", &[]).unwrap();
        let mut buffer = [0; 16];
        let mut received = receive(other.as_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..received.len], received.descriptors.len()),
            (&b"first"[..], 2)
        );
        let passed = received.descriptors.pop().unwrap();
        // SAFETY: fcntl on a descriptor that we own.
        let flags = unsafe { libc::fcntl(passed.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        assert!(File::from(passed).read(&mut [0; 1]).is_ok());
        let received = receive(other.as_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..received.len], received.descriptors.len()),
            (&b"second"[..], 0)
        );
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_refused_and_its_descriptors_are_closed() {
        let (one, other) = pair().unwrap();
        let (reader, writer) = descriptor::pipe().unwrap();
        send(one.as_fd(), b"too long", &[writer.as_fd()]).unwrap();
        drop(writer);
        let refused = receive(other.as_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        // The end of the pipe proves that no writer is left.
        assert_eq!(File::from(reader).read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn the_end_of_the_peer_is_an_empty_datagram_and_sending_to_it_an_error() {
        let (one, other) = pair().unwrap();
        drop(other);
        assert_eq!(receive(one.as_fd(), &mut [0; 4]).unwrap().len, 0);
        assert_eq!(
            send(one.as_fd(), b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn empty_datagrams_and_too_many_descriptors_are_refused() {
        let (one, _other) = pair().unwrap();
        assert_eq!(
            send(one.as_fd(), b"", &[]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let many = [one.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(
            send(one.as_fd(), b"x", &many).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        send(one.as_fd(), b"x", &many[1..]).unwrap();
    }
}
