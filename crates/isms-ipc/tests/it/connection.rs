//! One connection.

use std::{io::Write, net::Shutdown, os::unix::net::UnixStream as StdStream, time::Duration};

use bytes::Bytes;
use isms_ipc::{Connection, ConnectionError, Receiver, SendError, Sender, Side};
use isms_protocol::{
    Header, Kind, Message, Service,
    limits::{CONNECTION_UNSENT_MAX, HANDSHAKE_TIMEOUT, MESSAGE_LEN_MAX},
};
use tokio::{net::UnixStream, time::Instant};

use crate::kernel::soon;

type Ends = (Sender, Receiver);

async fn pair() -> (Ends, Ends) {
    let (bound, connected) = UnixStream::pair().unwrap();
    let (bound, connected) = tokio::join!(
        Connection::establish(bound, Side::Bind),
        Connection::establish(connected, Side::Connect)
    );
    (bound.unwrap(), connected.unwrap())
}

fn message(kind: Kind, call: u64, raw: usize) -> Message {
    let mut header = Header::new(kind, Service::Kernel, Service::Doer);
    header.call = call;
    Message::bare(header).with_raw(Bytes::from(vec![9; raw]))
}

#[tokio::test]
async fn messages_arrive_in_order_and_whole() {
    let ((sender, _keep), (_other, mut receiver)) = pair().await;
    let sent: Vec<_> = (0..500)
        .map(|call| message(Kind::Event, call, call as usize * 100))
        .collect();
    for message in &sent {
        sender.send(message).unwrap();
    }
    for message in sent {
        assert_eq!(soon(receiver.next()).await.unwrap(), Some(message));
    }
}

#[tokio::test]
async fn what_came_with_one_read_is_there_without_waiting() {
    let ((sender, _keep), (_other, mut receiver)) = pair().await;
    (0..3).for_each(|call| sender.send(&message(Kind::Event, call, 0)).unwrap());
    assert_eq!(soon(receiver.next()).await.unwrap().unwrap().header.call, 0);
    assert_eq!(receiver.try_next().unwrap().unwrap().header.call, 1);
    assert_eq!(receiver.try_next().unwrap().unwrap().header.call, 2);
    assert_eq!(receiver.try_next().unwrap(), None);
}

#[tokio::test]
async fn a_small_message_overtakes_the_chunks_of_streams() {
    let ((sender, _keep), (_other, mut receiver)) = pair().await;
    (0..100).for_each(|call| sender.send(&message(Kind::StreamChunk, call, 32 * 1024)).unwrap());
    // Some are on their way by now.
    assert_eq!(
        soon(receiver.next()).await.unwrap().unwrap().header.kind,
        Kind::StreamChunk
    );
    sender.send(&message(Kind::Reply, 0, 0)).unwrap();
    let mut chunks = 1;
    while soon(receiver.next()).await.unwrap().unwrap().header.kind == Kind::StreamChunk {
        chunks += 1;
    }
    // Those in the socket's buffer (208 KiB), in the reader's and in the write under way.
    assert!(chunks <= 14, "{chunks} chunks went before it");
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_the_connection_goes_on() {
    let ((sender, _keep), (_other, mut receiver)) = pair().await;
    let error = sender.send(&message(Kind::Event, 1, MESSAGE_LEN_MAX));
    assert_eq!(
        error,
        Err(SendError::TooLarge {
            len: MESSAGE_LEN_MAX + 160
        })
    );
    sender
        .send(&message(Kind::Event, 2, MESSAGE_LEN_MAX - 160))
        .unwrap();
    assert_eq!(soon(receiver.next()).await.unwrap().unwrap().header.call, 2);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let ((sender, mut receiver), (_other, _unread)) = pair().await;
    let big = message(Kind::Event, 0, 60_000);
    let sent = (0..1000).take_while(|_| sender.send(&big).is_ok()).count();
    assert_eq!(sent, CONNECTION_UNSENT_MAX / big.len());
    assert_eq!(sender.send(&big), Err(SendError::Closed));
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(matches!(error, ConnectionError::PeerTooSlow), "{error:?}");
}

#[tokio::test]
async fn what_was_sent_before_a_close_arrives_before_the_end() {
    let ((sender, mut receiver), (_other, mut peer)) = pair().await;
    sender.send(&message(Kind::Event, 5, 50_000)).unwrap();
    sender.close();
    assert_eq!(sender.send(&message(Kind::Event, 6, 0)), Err(SendError::Closed));
    assert_eq!(soon(receiver.next()).await.unwrap(), None);
    receiver.shut_down().await;
    assert_eq!(soon(peer.next()).await.unwrap().unwrap().header.call, 5);
    assert_eq!(soon(peer.next()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_long_for_a_peer_that_does_not_read() {
    let ((sender, receiver), (_other, _unread)) = pair().await;
    (0..100).for_each(|call| sender.send(&message(Kind::Event, call, 60_000)).unwrap());
    let before = Instant::now();
    receiver.shut_down().await;
    assert!(before.elapsed() <= Duration::from_millis(1_100));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_more_but_stays_is_given_up() {
    let (ours, theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let deaf = theirs.try_clone().unwrap();
    let (ours, theirs) = tokio::join!(
        Connection::establish(UnixStream::from_std(ours).unwrap(), Side::Bind),
        Connection::establish(UnixStream::from_std(theirs).unwrap(), Side::Connect)
    );
    let ((sender, mut receiver), _stays) = (ours.unwrap(), theirs.unwrap());
    deaf.shutdown(Shutdown::Read).unwrap();
    let before = Instant::now();
    sender.send(&message(Kind::Event, 0, 0)).unwrap();
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Write(_)), "{error:?}");
    assert!(before.elapsed() <= Duration::from_millis(1_100));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up_after_the_handshake_timeout() {
    let (ours, _silent) = UnixStream::pair().unwrap();
    let before = Instant::now();
    let error = Connection::establish(ours, Side::Bind).await.unwrap_err();
    assert!(matches!(error, ConnectionError::HandshakeTimeout), "{error:?}");
    assert_eq!(before.elapsed().as_millis(), HANDSHAKE_TIMEOUT.as_millis());
}

#[tokio::test]
async fn a_peer_that_closes_or_talks_http_fails_the_handshake() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = soon(Connection::establish(ours, Side::Bind)).await.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectionError::HandshakeClosed | ConnectionError::Write(_)
        ),
        "{error:?}"
    );
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut theirs = theirs.into_std().unwrap();
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let error = soon(Connection::establish(ours, Side::Bind)).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Zmtp(_)), "{error:?}");
}
