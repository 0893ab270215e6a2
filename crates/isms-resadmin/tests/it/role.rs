//! Resadmin as a role, over a real socket, with the test in the place of the Kernel and all others.

use std::time::Duration;

use isms_ipc::{Connection, LinkOptions, Receiver, Sender, Side};
use isms_protocol::{
    Flags, Header, Incarnation, Kind, Message, PrincipalId, Secret, Service as Role,
    doer::BuildReply,
    kernel::{Register, Registered, StreamCredit},
    resadmin::{Authenticate, Deploy, DeployEvent, Operation, Principal},
};
use isms_resadmin::{Config, run};
use tokio::{net::UnixListener, sync::watch};

use crate::harness::{ADMIN, header, shared_object, tar};

const MANIFEST: &[u8] = b"[project]\nname = \"a\"\n[doee.b]\nlanguage = \"c\"\nsource = \"b\"\n";

/// The Kernel's end of the role's connection; it grants every stream all that it asks.
struct Kernel {
    sender: Sender,
    receiver: Receiver,
}

impl Kernel {
    fn send(&self, message: Message) {
        self.sender.send(&message).expect("sent");
    }

    async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), self.receiver.next());
            let message = next
                .await
                .expect("in time")
                .expect("no error")
                .expect("not closed");
            if !matches!(message.header.kind, Kind::Heartbeat | Kind::Credit) {
                return message;
            }
        }
    }

    async fn authenticate(&mut self) -> PrincipalId {
        let mut header = header(Role::Gate, Operation::Authenticate);
        header.call = 1;
        self.send(Message::with_body(header, &Authenticate { token: ADMIN }));
        self.next().await.decode_body::<Principal>().expect("is known").id
    }

    /// Answers what a deployment asks the other services, and collects its events.
    async fn attend_deployment(&mut self) -> Vec<DeployEvent> {
        let mut lines = Vec::new();
        loop {
            let message = self.next().await;
            match (message.header.kind, message.header.target) {
                (Kind::Request, Role::Doer) => {
                    let reply = BuildReply {
                        built: true,
                        log: "a warning".into(),
                        duration_ms: 1,
                    };
                    let answer = Message::with_body(message.header.answer(Kind::Reply), &reply);
                    self.send(answer.with_raw(shared_object(b"")));
                }
                (Kind::Request, _) => self.send(Message::bare(message.header.answer(Kind::Reply))),
                (Kind::Reply, _) => {
                    assert!(message.header.flags.contains(Flags::STREAM));
                    let mut credit = message.header.answer(Kind::Credit);
                    credit.flags = Flags::NONE;
                    self.send(Message::with_body(credit, &StreamCredit { bytes: 64 * 1024 }));
                }
                (Kind::StreamChunk, _) => lines.extend_from_slice(&message.raw),
                (Kind::StreamEnd, _) => break,
                other => panic!("nobody sends {other:?}"),
            }
        }
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).expect("is an event"))
            .collect()
    }
}

#[tokio::test]
async fn the_role_deploys_with_the_others_and_streams_its_events() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kernel.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, shutdown) = watch::channel(false);
    let (service, incarnation, secret) = (Role::Resadmin, Incarnation(1), Secret([5; 32]));
    let options = LinkOptions {
        socket,
        service,
        incarnation,
        secret,
        concurrency: 0,
    };
    let role = tokio::spawn(run(
        Config::new(directory.path().join("resadmin"), ADMIN),
        options,
        shutdown,
    ));
    let (stream, _) = listener.accept().await.unwrap();
    let (sender, receiver) = Connection::establish(stream, Side::Bind).await.unwrap();
    let mut kernel = Kernel { sender, receiver };
    let register = kernel.next().await;
    assert_eq!(
        register.decode_body::<Register>().unwrap().service,
        Role::Resadmin
    );
    let registered = Registered {
        generation: incarnation,
        request_credit: 16,
    };
    kernel.send(Message::with_body(
        register.header.answer(Kind::Register),
        &registered,
    ));

    let principal = kernel.authenticate().await;
    let archive = tar(&[("project.toml", MANIFEST), ("b/b.c", b"int b;")]);
    let header = Header {
        principal,
        call: 2,
        ..header(Role::Gate, Operation::Deploy)
    };
    kernel.send(Message::with_body(header, &Deploy { only: None }).with_raw(archive));
    let mut events = kernel.attend_deployment().await;
    if let Some(DeployEvent::Built { duration_ms, .. }) = events.get_mut(1) {
        *duration_ms = 0;
    }
    assert_eq!(
        events,
        [
            DeployEvent::Building { doee: "b".into() },
            DeployEvent::Built {
                doee: "b".into(),
                cached: false,
                duration_ms: 0,
                log: "a warning".into()
            },
            DeployEvent::Deployed {
                project: "a".into(),
                revision: 1,
                routes: vec![]
            },
        ],
    );
    stop.send(true).unwrap();
    role.await.unwrap().expect("ends in order");
}
