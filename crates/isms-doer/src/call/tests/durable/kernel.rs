//! A Kernel that dies when the test wants it, and a Doer that finds the next one.

use std::path::PathBuf;

use isms_ipc::{Connection, LinkOptions, Receiver, Sender};
use isms_protocol::{
    Flags, Incarnation, ProcessId, Secret,
    kernel::{Operation as KernelOperation, Register, Registered, Resumed, StreamCredit},
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::mpsc,
    task::{JoinHandle, yield_now},
};

use super::*;

pub(super) const P1: ProcessId = ProcessId::from_bytes([0x71; 16]);
pub(super) const P2: ProcessId = ProcessId::from_bytes([0x72; 16]);

/// How often others run while something settles that nothing tells of.
const TURNS: usize = 200;

pub(super) fn attempt(process: ProcessId, attempt: u32) -> ResumedCall {
    ResumedCall { process, attempt }
}

/// A Doer that registers.
pub(super) struct Durably {
    host: Host,
    listener: UnixListener,
    _directory: TempDir,
}

impl Deref for Durably {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Durably {
    pub(super) async fn new() -> Durably {
        let directory = tempfile::tempdir().unwrap();
        let socket: PathBuf = directory.path().join("kernel.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (link, inbox) = Link::open(LinkOptions {
            socket,
            service: Service::Doer,
            incarnation: Incarnation(7),
            secret: Secret([3; 32]),
            concurrency: 0,
        });
        Durably {
            host: Host::new(link, inbox),
            listener,
            _directory: directory,
        }
    }

    /// The next Kernel, with which the Doer has registered.
    pub(super) async fn kernel(&mut self) -> Kernel {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        let (sender, mut receiver) = soon(Connection::establish(stream, Side::Bind)).await.unwrap();
        let register = soon(receiver.next()).await.unwrap().unwrap();
        let register: Register = register.decode_body().unwrap();
        let header = Header::new(Kind::Register, Service::Kernel, Service::Doer);
        let registered = Registered {
            generation: register.incarnation,
            request_credit: 100,
        };
        sender.send(&Message::with_body(header, &registered)).unwrap();
        let (told, heard) = mpsc::channel(1000);
        Kernel {
            task: spawn_local(listen(sender.clone(), receiver, told)),
            sender,
            heard,
        }
    }

    /// A first Kernel, which has been told that nothing is here.
    pub(super) async fn fresh_kernel(&mut self) -> Kernel {
        let mut kernel = self.kernel().await;
        kernel.resume(&[], &[]).await;
        kernel
    }

    /// A call that runs, under the id 1.
    pub(super) async fn running(&mut self, call: ResumedCall) -> (LyingWorker, Responder, Kernel) {
        let kernel = self.fresh_kernel().await;
        kernel.invoke(1, call);
        let mut worker = self.start_worker().await;
        let call = worker.begin_next().await;
        (worker, call, kernel)
    }

    pub(super) async fn until(&self, holds: impl Fn(&Doer) -> bool) {
        soon(async {
            while !holds(&self.doer) {
                yield_now().await;
            }
        })
        .await;
    }

    /// Waits until no call is waited for.
    pub(super) async fn no_call_runs(&self) {
        self.until(|doer| doer.state.borrow().calls.is_empty()).await;
    }

    /// Waits until nothing is known of any durable call.
    pub(super) async fn expect_nothing_left(&self) {
        self.until(|doer| doer.state.borrow().durables.is_empty()).await;
    }

    /// Lets everybody do what they can, for what must not happen.
    pub(super) async fn settle(&self) {
        for _ in 0..TURNS {
            yield_now().await;
        }
    }
}

/// A durable request by a connection of its own.
pub(super) struct Lone {
    pub(super) kernel: Link,
    pub(super) pending: PendingAnswer,
    pub(super) responder: Responder,
    _kept: (Link, Inbox, Inbox),
}

impl Lone {
    pub(super) async fn asked() -> Lone {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (kernel, doer) = tokio::join!(
            Link::attach(ours, Side::Bind, Service::Kernel, 1),
            Link::attach(theirs, Side::Connect, Service::Doer, 1)
        );
        let ((kernel, heard), (link, mut inbox)) = (kernel.unwrap(), doer.unwrap());
        let pending = kernel.start(Message::bare(Header {
            process: P1,
            ..Header::new(Kind::Request, Service::Kernel, Service::Doer)
        }));
        let Some(Inbound::Request(request)) = soon(inbox.next()).await else {
            panic!("it is asked");
        };
        Lone {
            kernel,
            pending,
            responder: request.responder,
            _kept: (link, heard, inbox),
        }
    }

    /// Its connection has ended.
    pub(super) async fn lost(self) -> Responder {
        self.kernel.close().await;
        soon(self.responder.cancelled()).await;
        self.responder
    }
}

/// Answers for Resadmin, and passes on what is about calls.
async fn listen(sender: Sender, mut receiver: Receiver, told: mpsc::Sender<Message>) {
    while let Ok(Some(message)) = receiver.next().await {
        let header = message.header;
        match (header.kind, header.target) {
            (Kind::Heartbeat, _) => sender.send(&Message::bare(heartbeat())).unwrap(),
            (Kind::Request, Service::Resadmin) => {
                let answer = header.answer(Kind::Reply);
                let answer = match resadmin::Operation::from_u16(header.operation) {
                    Some(resadmin::Operation::Doee) => Message::with_body(answer, &spec(1)),
                    _ => Message::with_body(answer, &()).with_raw(BINARY.to_vec()),
                };
                sender.send(&answer).unwrap();
            }
            (Kind::Event, _) => {}
            _ => told.send(message).await.unwrap(),
        }
    }
}

fn heartbeat() -> Header {
    Header::new(Kind::Heartbeat, Service::Kernel, Service::Doer)
}

/// What the Doer still has, as it said.
pub(super) struct Question {
    pub(super) header: Header,
    pub(super) calls: Vec<ResumedCall>,
}

pub(super) struct Kernel {
    sender: Sender,
    heard: mpsc::Receiver<Message>,
    task: JoinHandle<()>,
}

impl Kernel {
    /// Ends the connection, and waits until the Doer has noticed.
    pub(super) async fn die(self, scene: &Durably) {
        self.task.abort();
        let _ = self.task.await;
        drop(self.sender);
        scene.until(|doer| !doer.link.is_registered()).await;
        scene.settle().await;
    }

    pub(super) fn send(&self, message: &Message) {
        self.sender.send(message).unwrap();
    }

    fn about(kind: Kind, call: u64) -> Header {
        let header = Header::new(kind, Service::Kernel, Service::Doer);
        Header { call, ..header }
    }

    fn dispatch(&self, id: u64, call: ResumedCall, flags: Flags) {
        let ResumedCall { process, attempt } = call;
        self.send(&Message::bare(Header {
            flags,
            process,
            attempt,
            operation: Operation::Invoke as u16,
            remaining_us: 60_000_000,
            target_doee: VERSION,
            ..Kernel::about(Kind::Request, id)
        }));
    }

    pub(super) fn invoke(&self, id: u64, call: ResumedCall) {
        self.dispatch(id, call, Flags::DURABLE);
    }

    pub(super) fn invoke_streaming(&self, id: u64, call: ResumedCall) {
        self.dispatch(id, call, Flags::DURABLE.with(Flags::STREAM));
    }

    /// A call that is not durable.
    pub(super) fn invoke_once(&self, id: u64, call: ResumedCall) {
        self.dispatch(id, call, Flags::NONE);
    }

    pub(super) fn cancel(&self, id: u64) {
        self.send(&Message::bare(Kernel::about(Kind::Cancel, id)));
    }

    pub(super) fn chunk(&self, id: u64, bytes: &[u8]) {
        let chunk = Message::bare(Kernel::about(Kind::StreamChunk, id));
        self.send(&chunk.with_raw(bytes.to_vec()));
    }

    pub(super) fn end(&self, id: u64) {
        self.send(&Message::bare(Kernel::about(Kind::StreamEnd, id)));
    }

    /// Allows more of a reply's stream.
    pub(super) fn grant(&self, id: u64, bytes: u32) {
        let header = Kernel::about(Kind::Credit, id);
        self.send(&Message::with_body(header, &StreamCredit { bytes }));
    }

    pub(super) async fn next(&mut self) -> Message {
        soon(self.heard.recv()).await.expect("the Doer is there")
    }

    pub(super) fn has_heard_nothing(&mut self) -> bool {
        self.heard.try_recv().is_err()
    }

    /// The next that is no capacity.
    pub(super) async fn next_of_calls(&mut self) -> Message {
        loop {
            let message = self.next().await;
            if message.header.kind != Kind::Slots {
                return message;
            }
        }
    }

    pub(super) async fn next_request(&mut self) -> Message {
        let message = self.next_of_calls().await;
        assert_eq!(message.header.kind, Kind::Request);
        message
    }

    pub(super) async fn next_of(&mut self, id: u64) -> Message {
        let message = self.next_of_calls().await;
        assert_eq!(message.header.call, id, "{message:?}");
        message
    }

    pub(super) async fn answer_of(&mut self, id: u64) -> Message {
        let message = self.next_of(id).await;
        assert!(matches!(message.header.kind, Kind::Reply | Kind::Error));
        message
    }

    /// Hears that a call is one of an attempt that was given up.
    pub(super) async fn fenced(&mut self, id: u64) {
        let answer = self.answer_of(id).await;
        assert_eq!(answer.decode_body::<WireError>().unwrap().code, ErrorCode::Fenced);
    }

    /// What the Doer says first.
    pub(super) async fn question(&mut self) -> Question {
        let message = self.next().await;
        let header = message.header;
        assert_eq!(
            (header.kind, header.target, header.operation),
            (Kind::Request, Service::Kernel, KernelOperation::Resume as u16)
        );
        let Resume { calls, more } = message.decode_body().unwrap();
        assert!(!more);
        Question { header, calls }
    }

    pub(super) fn answer(&self, question: &Question, calls: &[u64]) {
        let resumed = Resumed {
            calls: calls.to_vec(),
        };
        self.send(&Message::with_body(question.header.answer(Kind::Reply), &resumed));
    }

    /// Hears that the Doer has exactly these calls, and gives them ids.
    pub(super) async fn resume(&mut self, calls: &[ResumedCall], ids: &[u64]) {
        let question = self.question().await;
        assert_eq!(question.calls, calls);
        self.answer(&question, ids);
    }
}
