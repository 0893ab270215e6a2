//! Stock libzmq (by pyzmq) as the peer, in both directions. Skips aloud without pyzmq.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use isms_ipc::{Connection, Receiver, Sender, Side};
use isms_protocol::{Header, Kind, Message, Service};
use tokio::net::{UnixListener, UnixStream};

use crate::kernel::soon;

const LENGTHS: [usize; 5] = [0, 1, 255, 256, 60_000];

/// Sends messages of one, two and three frames, expects each back, and again after its heartbeats
/// have been answered for a while.
const DEALER: &str = r"
import sys, zmq
path, header = sys.argv[1], bytes.fromhex(sys.argv[2])
lengths = [int(length) for length in sys.argv[3:]]
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, b'kernel')
socket.setsockopt(zmq.HEARTBEAT_IVL, 20)
socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 100)
socket.setsockopt(zmq.RCVTIMEO, 10000)
socket.setsockopt(zmq.LINGER, 0)
socket.connect('ipc://' + path)
def echo():
    sent = [[header]] + [[header, b'b' * n] for n in lengths if n] + [[header, b'b' * n, b'raw'] for n in lengths]
    for frames in sent:
        socket.send_multipart(frames)
    for frames in sent:
        received = socket.recv_multipart()
        assert received == frames, (len(received), len(frames))
echo()
assert socket.poll(300) == 0
echo()
";

/// Binds, says so, returns every message to its sender until told to stop.
const ROUTER: &str = r"
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.setsockopt(zmq.RCVTIMEO, 10000)
socket.setsockopt(zmq.LINGER, 1000)
socket.bind('ipc://' + sys.argv[1])
print('bound', flush=True)
for _ in range(int(sys.argv[2])):
    socket.send_multipart(socket.recv_multipart())
";

/// A Python that has pyzmq, or `None` after saying so.
fn python() -> Option<String> {
    let python = env::var("ISMS_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python)
        .args(["-c", "import zmq"])
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    eprintln!("SKIPPED: {python} cannot import zmq; interoperation with libzmq was not tested");
    None
}

fn spawn(python: &str, script: &str, arguments: &[String]) -> Child {
    let mut command = Command::new(python);
    command
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn argument(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn header() -> Header {
    Header::new(Kind::Event, Service::Worker, Service::Doer)
}

async fn echo_to_the_end(sender: Sender, mut receiver: Receiver) -> usize {
    let mut count = 0;
    while let Some(message) = soon(receiver.next()).await.unwrap() {
        sender.send(&message).unwrap();
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_libzmq_dealer_talks_to_the_bound_end_and_its_pings_are_answered() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bound.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let header: String = header()
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let arguments = [argument(&path), header]
        .into_iter()
        .chain(LENGTHS.map(|length| length.to_string()));
    let mut child = spawn(&python, DEALER, &arguments.collect::<Vec<_>>());
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let (sender, receiver) = Connection::establish(stream, Side::Bind).await.unwrap();
    let count = echo_to_the_end(sender, receiver).await;
    assert!(child.wait().unwrap().success());
    // A second connection would show that libzmq gave up the first for want of a PONG.
    assert_eq!(count, 2 * (1 + (LENGTHS.len() - 1) + LENGTHS.len()));
}

#[tokio::test]
async fn the_connecting_end_talks_to_a_libzmq_router() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("router.sock");
    let arguments = [argument(&path), (LENGTHS.len() * 2).to_string()];
    let mut child = spawn(&python, ROUTER, &arguments);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "bound\n");
    let stream = UnixStream::connect(&path).await.unwrap();
    let (sender, mut receiver) = Connection::establish(stream, Side::Connect).await.unwrap();
    for raw in [&b""[..], b"raw"] {
        for length in LENGTHS {
            let body = Bytes::from(vec![1; length]);
            let message = Message {
                header: header(),
                body,
                raw: Bytes::copy_from_slice(raw),
            };
            sender.send(&message).unwrap();
            assert_eq!(soon(receiver.next()).await.unwrap(), Some(message));
        }
    }
    assert_eq!(soon(receiver.next()).await.unwrap(), None);
    assert!(child.wait().unwrap().success());
}
