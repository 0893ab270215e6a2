//! A Kernel in the test's own hands: it accepts and registers links, the test says the rest.

use std::{path::PathBuf, time::Duration};

use isms_ipc::{Connection, Inbound, InboundRequest, Inbox, Link, LinkOptions, Receiver, Sender, Side};
use isms_protocol::{
    Header, Incarnation, Kind, Message, Secret, Service,
    kernel::{Register, Registered},
};
use tempfile::TempDir;
use tokio::{net::UnixListener, time::timeout};

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for something that must come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future)
        .await
        .expect("it comes within the deadline")
}

pub(crate) struct FakeKernel {
    pub(crate) listener: UnixListener,
    pub(crate) socket: PathBuf,
    pub(crate) directory: TempDir,
}

/// The test's end of one connection.
pub(crate) struct Peer {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

impl FakeKernel {
    pub(crate) fn start() -> FakeKernel {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kernel.sock");
        FakeKernel {
            listener: UnixListener::bind(&socket).unwrap(),
            socket,
            directory,
        }
    }

    /// Dies and comes back: the listener with all that waits on it is another one.
    pub(crate) fn restart(self) -> FakeKernel {
        drop(self.listener);
        std::fs::remove_file(&self.socket).unwrap();
        let listener = UnixListener::bind(&self.socket).unwrap();
        FakeKernel {
            listener,
            socket: self.socket,
            directory: self.directory,
        }
    }

    pub(crate) fn options(&self, service: Service) -> LinkOptions {
        LinkOptions {
            socket: self.socket.clone(),
            service,
            incarnation: Incarnation(7),
            secret: Secret([3; 32]),
            concurrency: 16,
        }
    }

    /// Accepts a connection up to its register message.
    pub(crate) async fn accept(&self) -> (Peer, Register) {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        let (sender, receiver) = Connection::establish(stream, Side::Bind).await.unwrap();
        let mut peer = Peer { sender, receiver };
        let message = peer.next().await;
        assert_eq!(message.header.kind, Kind::Register);
        (peer, message.decode_body().unwrap())
    }

    /// Accepts a connection and registers it.
    pub(crate) async fn register(&self, request_credit: u32) -> Peer {
        let (peer, register) = self.accept().await;
        peer.confirm(&register, request_credit);
        peer
    }

    /// A registered link, its inbox, and the Kernel's end.
    pub(crate) async fn link(&self, service: Service, request_credit: u32) -> (Link, Inbox, Peer) {
        let (link, mut inbox) = Link::open(self.options(service));
        let peer = self.register(request_credit).await;
        let registered = soon(inbox.next()).await.unwrap();
        assert!(
            matches!(registered, Inbound::Registered(Incarnation(7))),
            "{registered:?}"
        );
        (link, inbox, peer)
    }
}

impl Peer {
    pub(crate) fn confirm(&self, register: &Register, request_credit: u32) {
        let header = Header::new(Kind::Register, Service::Kernel, register.service);
        let body = Registered {
            generation: register.incarnation,
            request_credit,
        };
        self.sender.send(&Message::with_body(header, &body)).unwrap();
    }

    pub(crate) fn send(&self, message: &Message) {
        self.sender.send(message).unwrap();
    }

    /// The next message apart from heartbeats; `None` at the end.
    pub(crate) async fn next_or_end(&mut self) -> Option<Message> {
        loop {
            match soon(self.receiver.next()).await {
                Ok(Some(message)) if message.header.kind == Kind::Heartbeat => {}
                Ok(message) => return message,
                Err(_) => return None,
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Message {
        self.next_or_end().await.expect("the link is there")
    }
}

pub(crate) fn request(target: Service) -> Message {
    let mut header = Header::new(Kind::Request, Service::Worker, target);
    header.operation = 2;
    Message::bare(header)
}

/// The request in the inbox's next place.
pub(crate) async fn next_request(inbox: &mut Inbox) -> InboundRequest {
    match soon(inbox.next()).await {
        Some(Inbound::Request(request)) => request,
        other => panic!("expected a request, got {other:?}"),
    }
}
