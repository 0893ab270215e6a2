//! The executor's driver against the roles'.

use std::{
    future::poll_fn,
    os::unix::net::UnixStream as StdStream,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use isms_ipc::{Connection, ConnectionError, Receiver, Sender, Side, blocking};
use isms_protocol::{Header, Kind, Message, Service};
use tokio::net::UnixStream;

use crate::kernel::soon;

fn message(call: u64, raw: usize) -> Message {
    let mut header = Header::new(Kind::Event, Service::Worker, Service::Doer);
    header.call = call;
    Message::bare(header).with_raw(Bytes::from(vec![9; raw]))
}

/// Runs `executor` with its end on a thread of its own; returns the Doer's end.
async fn pair<T: Send + 'static>(
    executor: impl FnOnce(blocking::Connection) -> T + Send + 'static,
) -> (Sender, Receiver, thread::JoinHandle<T>) {
    let (ours, theirs) = StdStream::pair().unwrap();
    let thread =
        thread::spawn(move || executor(blocking::Connection::establish(theirs, Side::Connect).unwrap()));
    ours.set_nonblocking(true).unwrap();
    let stream = UnixStream::from_std(ours).unwrap();
    let (sender, receiver) = Connection::establish(stream, Side::Bind).await.unwrap();
    (sender, receiver, thread)
}

#[tokio::test]
async fn messages_of_all_sizes_are_echoed_until_the_peer_closes() {
    let (sender, mut receiver, thread) = pair(|mut connection| {
        let mut echoed = 0;
        while let Some(message) = connection.receive(None).unwrap() {
            connection.send(&message).unwrap();
            echoed += 1;
        }
        assert!(connection.is_closed());
        echoed
    })
    .await;
    for raw in [0, 1, 255, 256, 8191, 60_000] {
        sender.send(&message(raw as u64, raw)).unwrap();
        assert_eq!(
            soon(receiver.next()).await.unwrap(),
            Some(message(raw as u64, raw))
        );
    }
    receiver.shut_down().await;
    assert_eq!(thread.join().unwrap(), 6);
}

#[tokio::test]
async fn the_last_words_of_a_peer_are_heard_although_a_write_to_it_failed_before() {
    let (sender, mut receiver, thread) = pair(|connection| connection).await;
    let mut peer = thread.join().unwrap();
    // The receiver finds nothing and waits; as a task like the writer's it runs again right after it,
    // before the runtime has looked at the socket.
    let waits = poll_fn(|context| Poll::Ready(receiver.poll_next(context).is_pending())).await;
    assert!(waits);
    let heard = tokio::spawn(async move { (receiver.next().await, receiver.next().await) });
    tokio::task::yield_now().await;
    peer.send(&message(1, 60_000)).unwrap();
    drop(peer);
    sender.send(&message(2, 0)).unwrap();
    let (last_words, end) = soon(heard).await.unwrap();
    assert_eq!(last_words.unwrap(), Some(message(1, 60_000)));
    assert_eq!(end.unwrap(), None);
}

#[tokio::test]
async fn what_is_queued_is_sent_with_one_flush_and_buffered_tells_of_the_rest() {
    let (sender, mut receiver, thread) = pair(|mut connection| {
        connection.queue(&message(1, 0)).unwrap();
        connection.send(&message(2, 0)).unwrap();
        let first = connection.receive(None).unwrap().unwrap().header.call;
        let buffered = connection.buffered();
        let second = connection
            .receive(Some(Duration::ZERO))
            .unwrap()
            .unwrap()
            .header
            .call;
        let third = connection.receive(Some(Duration::ZERO)).unwrap();
        (first, buffered, second, third, connection.buffered())
    })
    .await;
    assert_eq!(soon(receiver.next()).await.unwrap().unwrap().header.call, 1);
    assert_eq!(receiver.try_next().unwrap().unwrap().header.call, 2);
    sender.send(&message(3, 0)).unwrap();
    sender.send(&message(4, 0)).unwrap();
    // The writer's turn comes while this task waits for the peer's end.
    assert_eq!(soon(receiver.next()).await.unwrap(), None);
    assert_eq!(thread.join().unwrap(), (3, true, 4, None, false));
}

#[tokio::test]
async fn a_timeout_passes_without_a_message() {
    let (_sender, mut receiver, thread) = pair(|mut connection| {
        let before = Instant::now();
        let received = connection.receive(Some(Duration::from_millis(30))).unwrap();
        (
            received,
            before.elapsed() >= Duration::from_millis(30),
            connection.is_closed(),
        )
    })
    .await;
    assert_eq!(soon(receiver.next()).await.unwrap(), None);
    assert_eq!(thread.join().unwrap(), (None, true, false));
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let (ours, _silent) = StdStream::pair().unwrap();
    let error = blocking::Connection::establish(ours, Side::Connect).unwrap_err();
    assert!(matches!(error, ConnectionError::HandshakeTimeout), "{error:?}");
}

#[test]
fn a_peer_that_closes_fails_the_handshake() {
    let (ours, theirs) = StdStream::pair().unwrap();
    drop(theirs);
    let error = blocking::Connection::establish(ours, Side::Connect).unwrap_err();
    assert!(
        matches!(
            error,
            ConnectionError::HandshakeClosed | ConnectionError::Write(_)
        ),
        "{error:?}"
    );
}
