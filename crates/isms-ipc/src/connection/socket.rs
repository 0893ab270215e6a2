//! A stream socket in two halves that wake for what is to be read, and for room to write only while
//! there is none.
//!
//! tokio's own halves ask for both kinds of readiness at all times. The kernel then reports room each
//! time the peer has read, so every message would wake its sender once more, for nothing.
#![allow(unsafe_code)] // AsyncFd asks for a promise about its descriptor

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

/// The half that is read.
#[derive(Debug)]
pub(super) struct ReadHalf {
    socket: AsyncFd<Arc<StdStream>>,
}

/// The half that is written. Dropped, it closes its direction.
#[derive(Debug)]
pub(super) struct WriteHalf {
    socket: Arc<StdStream>,
    /// The same socket, watched for room; there while the peer's buffer is full.
    room: Option<AsyncFd<OwnedFd>>,
}

/// Splits a connected stream.
pub(super) fn split(stream: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let socket = Arc::new(stream.into_std()?);
    // SAFETY: the shared stream owns its one descriptor as long as it lives, and never changes it.
    let readable = unsafe { AsyncFd::register_with_interest(Arc::clone(&socket), Interest::READABLE)? };
    Ok((ReadHalf { socket: readable }, WriteHalf { socket, room: None }))
}

impl ReadHalf {
    /// Reads once into the buffer, which is not empty; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.socket.poll_read_ready(context))?;
            match self.socket.get_ref().as_ref().read(buffer) {
                Ok(len) => {
                    // Less than asked for is all there was: the next attempt need not find that out.
                    if (1..buffer.len()).contains(&len) {
                        readiness.clear_ready();
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => readiness.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl WriteHalf {
    /// Writes as much as there is room for.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let readiness = match &self.room {
                Some(room) => Some(ready!(room.poll_write_ready(context))?),
                None => None,
            };
            match self.try_write(bytes) {
                Ok(len) => {
                    if len == bytes.len() {
                        self.room = None;
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => match readiness {
                    Some(mut readiness) => readiness.clear_ready(),
                    None => self.room = Some(self.watch()?),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what there is room for at this moment.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.as_ref().write(bytes)
    }

    /// By a descriptor of its own, since one can be watched once.
    fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` owns one descriptor as long as it lives.
        Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE)? })
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // A peer that has closed already needs no news.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, time::Duration};

    use tokio::time::timeout;

    use super::*;

    async fn write_all(half: &mut WriteHalf, bytes: &[u8]) {
        let mut written = 0;
        while written < bytes.len() {
            written += poll_fn(|context| half.poll_write(context, &bytes[written..]))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_larger_than_the_socket_s_buffer_arrives_whole_and_the_watch_for_room_ends() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_ours_read, mut write) = split(ours).unwrap();
        let (mut read, _theirs_write) = split(theirs).unwrap();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|index| (index % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            write_all(&mut write, &sent).await;
            assert!(write.room.is_none());
        });
        let mut received = Vec::new();
        let mut buffer = vec![0; 100_000];
        loop {
            let len = poll_fn(|context| read.poll_read(context, &mut buffer))
                .await
                .unwrap();
            if len == 0 {
                break;
            }
            received.extend_from_slice(&buffer[..len]);
        }
        writer.await.unwrap();
        assert!(received == expected);
    }

    #[tokio::test]
    async fn a_write_waits_while_the_peer_does_not_read_and_goes_on_when_it_does() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, mut write) = split(ours).unwrap();
        let theirs = theirs.into_std().unwrap();
        let chunk = vec![7; 64 * 1024];
        while write.try_write(&chunk).is_ok() {}
        {
            let mut blocked = pin!(poll_fn(|context| write.poll_write(context, &chunk)));
            let waited = timeout(Duration::from_millis(20), &mut blocked).await;
            assert!(waited.is_err(), "there was no room");
            let mut buffer = vec![0; 1024 * 1024];
            while (&theirs).read(&mut buffer).is_ok() {}
            let len = timeout(Duration::from_secs(5), blocked).await.unwrap().unwrap();
            assert_eq!(len, chunk.len());
        }
        assert!(write.room.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_writing_half_is_the_end_for_the_reader() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_ours_read, write) = split(ours).unwrap();
        let (mut read, _theirs_write) = split(theirs).unwrap();
        drop(write);
        let mut buffer = [0; 8];
        let len = poll_fn(|context| read.poll_read(context, &mut buffer)).await;
        assert_eq!(len.unwrap(), 0);
    }
}
