//! DBriver as a role, over a real socket, with the test in the place of the Kernel.

use std::time::Duration;

use isms_dbriver::{Config, run};
use isms_ipc::{Connection, LinkOptions, Receiver, Sender, Side};
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Incarnation, Kind, Message, ProjectId, Secret, Service as Role,
    WireError,
    dbriver::{Grants, Operation, Prepare, Results, Transaction, Value},
    decode, encode,
    kernel::{Register, Registered},
    resadmin,
};
use tokio::{net::UnixListener, sync::watch};

use crate::harness::sql_of;

/// The Kernel's end of the role's connection.
pub(crate) struct Kernel {
    sender: Sender,
    receiver: Receiver,
}

impl Kernel {
    pub(crate) async fn accept(listener: &UnixListener) -> Kernel {
        let (stream, _) = listener.accept().await.expect("the role connects");
        let (sender, receiver) = Connection::establish(stream, Side::Bind)
            .await
            .expect("handshake");
        let mut kernel = Kernel { sender, receiver };
        let register = kernel.next().await;
        assert_eq!(register.header.kind, Kind::Register);
        let body: Register = register.decode_body().expect("decodes");
        assert_eq!((body.service, body.concurrency), (Role::Dbriver, 64));
        let registered = Registered {
            generation: Incarnation(1),
            request_credit: 16,
        };
        kernel.send(Message::with_body(
            register.header.answer(Kind::Register),
            &registered,
        ));
        kernel
    }

    pub(crate) fn send(&self, message: Message) {
        self.sender.send(&message).expect("sent");
    }

    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), self.receiver.next());
            let message = next
                .await
                .expect("in time")
                .expect("no error")
                .expect("not closed");
            if message.header.kind != Kind::Heartbeat {
                return message;
            }
        }
    }
}

pub(crate) fn request(sender: Role, operation: Operation, call: u64) -> Header {
    let mut header = Header::new(Kind::Request, sender, Role::Dbriver);
    header.operation = operation as u16;
    header.call = call;
    header.project = ProjectId::from_bytes([1; 16]);
    header
}

#[tokio::test]
async fn the_role_prepares_asks_for_grants_answers_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kernel.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, shutdown) = watch::channel(false);
    let options = LinkOptions {
        socket,
        service: Role::Dbriver,
        incarnation: Incarnation(1),
        secret: Secret([5; 32]),
        concurrency: 0,
    };
    let role = tokio::spawn(run(
        Config::new(directory.path().join("dbriver")),
        options,
        shutdown,
    ));
    let mut kernel = Kernel::accept(&listener).await;

    let prepare = Prepare {
        database: "db".into(),
        disk_mb: 1,
        migrations: vec![],
    };
    let header = request(Role::Resadmin, Operation::Prepare, 1);
    kernel.send(Message::bare(header).with_raw(encode(&prepare)));
    let prepared = kernel.next().await;
    assert_eq!((prepared.header.kind, prepared.header.call), (Kind::Reply, 1));

    let transaction = Transaction {
        database: "db".into(),
        statements: vec![sql_of("SELECT 42", [])],
    };
    let version = DoeeVersion::from_bytes([2; 16]);
    let header = Header {
        calling_doee: version,
        ..request(Role::Doer, Operation::Transaction, 2)
    };
    kernel.send(Message::bare(header).with_raw(encode(&transaction)));
    let asked = kernel.next().await;
    assert_eq!(
        (asked.header.kind, asked.header.target),
        (Kind::Request, Role::Resadmin)
    );
    assert_eq!(asked.header.operation, resadmin::Operation::Grants as u16);
    assert_eq!(
        (asked.header.project, asked.header.target_doee),
        (header.project, version)
    );
    let grants = Grants {
        databases: vec!["db".into()],
        http: vec![],
    };
    kernel.send(Message::with_body(asked.header.answer(Kind::Reply), &grants));
    let answered = kernel.next().await;
    assert_eq!((answered.header.kind, answered.header.call), (Kind::Reply, 2));
    let results: Results = decode(&answered.raw).unwrap();
    assert_eq!(results.results[0].rows, [[Value::Integer(42)]]);

    let stranger = Header {
        calling_doee: version,
        ..request(Role::Doer, Operation::Drop, 3)
    };
    kernel.send(Message::bare(stranger));
    let refused = kernel.next().await;
    assert_eq!((refused.header.kind, refused.header.call), (Kind::Error, 3));
    assert_eq!(
        refused.decode_body::<WireError>().unwrap().code,
        ErrorCode::Forbidden
    );

    stop.send(true).unwrap();
    role.await.unwrap().expect("ends in order");
}

#[tokio::test]
async fn half_open_streams_of_one_project_leave_room_for_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kernel.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, shutdown) = watch::channel(false);
    let options = LinkOptions {
        socket,
        service: Role::Dbriver,
        incarnation: Incarnation(1),
        secret: Secret([5; 32]),
        concurrency: 0,
    };
    let role = tokio::spawn(run(
        Config::new(directory.path().join("dbriver")),
        options,
        shutdown,
    ));
    let mut kernel = Kernel::accept(&listener).await;

    let streaming = |call, project: u8| Header {
        flags: Flags::STREAM,
        calling_doee: DoeeVersion::from_bytes([2; 16]),
        project: ProjectId::from_bytes([project; 16]),
        ..request(Role::Doer, Operation::Transaction, call)
    };
    for call in 1..=64 {
        kernel.send(Message::bare(streaming(call, 1)));
    }
    kernel.send(Message::bare(streaming(65, 2)));
    let (mut begun, mut busy) = (Vec::new(), 0);
    while begun.len() + busy < 65 {
        let message = kernel.next().await;
        match message.header.kind {
            Kind::Credit => begun.push(message.header.call),
            Kind::Error => {
                assert_eq!(message.decode_body::<WireError>().unwrap().code, ErrorCode::Busy);
                busy += 1;
            }
            kind => panic!("nobody sends {kind:?}"),
        }
    }
    assert_eq!((begun.len(), busy), (17, 48));
    assert!(begun.contains(&65), "the other project's has room");

    // What is half-open ends with the connection.
    drop(kernel);
    stop.send(true).unwrap();
    role.await.unwrap().expect("ends in order");
}
