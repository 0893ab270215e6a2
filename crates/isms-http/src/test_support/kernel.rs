//! A Kernel that answers by script, and plays every service behind it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use isms_ipc::{Connection, LinkOptions, Receiver, Sender, Side};
use isms_protocol::{
    ErrorCode, Flags, Header, Incarnation, Kind, Message, ProcessId, Secret, Service, WireError,
    kernel::{Register, Registered, StreamCredit},
    limits::{CHUNK_LEN_MAX, HEARTBEAT_INTERVAL, REQUEST_CREDIT_MAX, STREAM_WINDOW},
};
use serde::Serialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::soon;

type Script = Arc<dyn Fn(FakeCall) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
type Waiting = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Message>>>>;

/// A Kernel that answers by script.
pub struct FakeKernel {
    directory: tempfile::TempDir,
    service: Service,
    script: Script,
    running: Option<JoinSet<()>>,
    registered: watch::Sender<Option<Sender>>,
    waiting: Waiting,
    next_call: AtomicU64,
}

impl FakeKernel {
    /// Starts a Kernel that one service will register with.
    pub fn start<F, Fut>(service: Service, script: F) -> FakeKernel
    where
        F: Fn(FakeCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut kernel = FakeKernel {
            directory: tempfile::tempdir().unwrap(),
            service,
            script: Arc::new(move |call| Box::pin(script(call))),
            running: None,
            registered: watch::Sender::new(None),
            waiting: Waiting::default(),
            next_call: AtomicU64::new(1),
        };
        kernel.restart();
        kernel
    }

    /// Listens again after [`FakeKernel::stop`].
    pub fn restart(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (script, waiting, registered) =
            (self.script.clone(), self.waiting.clone(), self.registered.clone());
        let mut running = JoinSet::new();
        running.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok((sender, receiver)) = Connection::establish(stream, Side::Bind).await {
                    let peer = Peer {
                        sender,
                        waiting: waiting.clone(),
                        calls: HashMap::new(),
                    };
                    peer.serve(receiver, &script, &registered).await;
                    registered.send_replace(None);
                }
            }
        });
        self.running = Some(running);
    }

    /// Dies: the socket is gone, the connection broken.
    pub async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.shutdown().await;
        }
        if let Some(sender) = self.registered.send_replace(None) {
            sender.close();
        }
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// How the service reaches this Kernel.
    pub fn link_options(&self, concurrency: u32) -> LinkOptions {
        LinkOptions {
            socket: self.socket(),
            service: self.service,
            incarnation: Incarnation(1),
            secret: Secret([7; 32]),
            concurrency,
        }
    }

    /// Waits until the service has registered.
    pub async fn registered(&self) -> Sender {
        let mut registered = self.registered.subscribe();
        let sender = soon("registration", registered.wait_for(Option::is_some))
            .await
            .unwrap();
        sender.clone().unwrap()
    }

    /// Asks the service for something, as `sender` would through the Kernel.
    pub async fn request(&self, message: Message) -> Message {
        self.ask(message).await.answer().await
    }

    /// The same, where payloads may be streams.
    pub async fn ask(&self, mut message: Message) -> FakeAsk {
        let sender = self.registered().await;
        let (answers, inbox) = mpsc::unbounded_channel();
        message.header.call = self.next_call.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.retain(|_, answers| !answers.is_closed());
            waiting.insert(message.header.call, answers);
        }
        sender.send(&message).unwrap();
        FakeAsk {
            header: message.header,
            sender,
            inbox,
            credit: 0,
        }
    }

    /// Tells the service something.
    pub async fn tell(&self, message: &Message) {
        self.registered().await.send(message).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("kernel.sock")
    }
}

struct Peer {
    sender: Sender,
    waiting: Waiting,
    calls: HashMap<u64, mpsc::UnboundedSender<Message>>,
}

impl Peer {
    async fn serve(
        mut self,
        mut receiver: Receiver,
        script: &Script,
        registered: &watch::Sender<Option<Sender>>,
    ) {
        let mut scripts = JoinSet::new();
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let mut service = Service::Kernel;
        loop {
            let message = tokio::select! {
                message = receiver.next() => match message {
                    Ok(Some(message)) => message,
                    _ => return,
                },
                _ = heartbeat.tick(), if service != Service::Kernel => {
                    let beat = Header::new(Kind::Heartbeat, Service::Kernel, service);
                    let _ = self.sender.send(&Message::bare(beat));
                    continue;
                }
                Some(ended) = scripts.join_next() => {
                    let () = ended.unwrap();
                    continue;
                }
            };
            match message.header.kind {
                Kind::Register => {
                    let register: Register = message.decode_body().unwrap();
                    service = register.service;
                    let granted = Registered {
                        generation: register.incarnation,
                        request_credit: REQUEST_CREDIT_MAX,
                    };
                    let header = Header::new(Kind::Register, Service::Kernel, service);
                    self.sender.send(&Message::with_body(header, &granted)).unwrap();
                    registered.send_replace(Some(self.sender.clone()));
                }
                Kind::Request => {
                    scripts.spawn(script(self.open(message)));
                }
                kind if matches!(kind, Kind::Reply | Kind::Error)
                    || message.header.flags.contains(Flags::TO_CALLER) =>
                {
                    if let Some(waiting) = self.waiting.lock().unwrap().get(&message.header.call) {
                        let _ = waiting.send(message);
                    }
                }
                _ => {
                    if let Some(call) = self.calls.get(&message.header.call) {
                        let _ = call.send(message);
                    }
                }
            }
        }
    }

    fn open(&mut self, mut message: Message) -> FakeCall {
        // The Kernel makes the process.
        message.header.process = ProcessId::generate();
        let (to_call, inbox) = mpsc::unbounded_channel();
        self.calls.retain(|_, call| !call.is_closed());
        self.calls.insert(message.header.call, to_call);
        FakeCall {
            message,
            sender: self.sender.clone(),
            inbox,
            granted: 0,
            ended: false,
            credit: 0,
        }
    }
}

/// One request to the service under test.
pub struct FakeAsk {
    header: Header,
    sender: Sender,
    inbox: mpsc::UnboundedReceiver<Message>,
    credit: usize,
}

impl FakeAsk {
    /// The reply or error.
    pub async fn answer(&mut self) -> Message {
        loop {
            let message = soon("answer", self.inbox.recv()).await.unwrap();
            if matches!(message.header.kind, Kind::Reply | Kind::Error) {
                return message;
            }
            self.take(&message);
        }
    }

    /// Sends a piece of the request's payload as credit comes in.
    pub async fn write(&mut self, mut piece: Bytes) {
        while !piece.is_empty() {
            while self.credit == 0 {
                let message = soon("credit", self.inbox.recv()).await.unwrap();
                self.take(&message);
            }
            let part = piece.split_to(piece.len().min(self.credit).min(CHUNK_LEN_MAX));
            self.credit -= part.len();
            self.send(Kind::StreamChunk, Flags::NONE, part);
        }
    }

    /// Ends the request's payload; with [`Flags::ABORTED`] it broke off.
    pub fn finish(&self, flags: Flags) {
        self.send(Kind::StreamEnd, flags, Bytes::new());
    }

    /// Reads the reply's stream to its end, granting credit; whether it came whole.
    pub async fn body(&mut self) -> (Vec<u8>, bool) {
        let (mut body, mut granted) = (Vec::new(), 0);
        loop {
            if granted < STREAM_WINDOW / 2 {
                let bytes = STREAM_WINDOW - granted;
                granted += bytes;
                let header = Header {
                    kind: Kind::Credit,
                    flags: Flags::NONE,
                    ..self.header
                };
                let _ = self
                    .sender
                    .send(&Message::with_body(header, &StreamCredit { bytes }));
            }
            let message = soon("the stream", self.inbox.recv()).await.unwrap();
            match message.header.kind {
                Kind::StreamChunk => {
                    let len = message.raw.len() as u32;
                    granted = granted.checked_sub(len).expect("a chunk within the credit");
                    body.extend_from_slice(&message.raw);
                }
                Kind::StreamEnd => return (body, !message.header.flags.contains(Flags::ABORTED)),
                _ => {}
            }
        }
    }

    /// No longer wants the answer.
    pub fn cancel(&self) {
        self.send(Kind::Cancel, Flags::NONE, Bytes::new());
    }

    fn send(&self, kind: Kind, flags: Flags, raw: Bytes) {
        let header = Header {
            kind,
            flags,
            ..self.header
        };
        let _ = self.sender.send(&Message::bare(header).with_raw(raw));
    }

    fn take(&mut self, message: &Message) {
        if message.header.kind == Kind::Credit {
            let credit: StreamCredit = message.decode_body().unwrap();
            self.credit += credit.bytes as usize;
        }
    }
}

/// One request of the service under test.
pub struct FakeCall {
    /// The request.
    pub message: Message,
    sender: Sender,
    inbox: mpsc::UnboundedReceiver<Message>,
    granted: u32,
    ended: bool,
    credit: usize,
}

impl FakeCall {
    /// Replies with a body and bytes.
    pub fn reply<T: Serialize>(&self, body: &T, raw: impl Into<Bytes>) {
        let header = self.message.header.answer(Kind::Reply);
        let _ = self.sender.send(&Message::with_body(header, body).with_raw(raw));
    }

    /// Fails the call.
    pub fn fail(&self, code: ErrorCode, message: &str) {
        let error = WireError::new(code, message);
        let _ = self
            .sender
            .send(&Message::error_answer(&self.message.header, &error));
    }

    /// Reads the next piece of the payload, granting credit for it; `None` at its end.
    pub async fn piece(&mut self) -> Option<Result<Bytes, ()>> {
        if !self.message.header.flags.contains(Flags::STREAM) {
            let raw = std::mem::take(&mut self.message.raw);
            return (!raw.is_empty()).then_some(Ok(raw));
        }
        while !self.ended {
            if self.granted < STREAM_WINDOW / 2 {
                self.grant(STREAM_WINDOW - self.granted);
            }
            let message = self.inbox.recv().await?;
            match message.header.kind {
                Kind::StreamChunk => {
                    let len = message.raw.len() as u32;
                    self.granted = self.granted.checked_sub(len).expect("a chunk within the credit");
                    return Some(Ok(message.raw));
                }
                Kind::StreamEnd => {
                    self.ended = true;
                    return message.header.flags.contains(Flags::ABORTED).then_some(Err(()));
                }
                _ => self.take(&message),
            }
        }
        None
    }

    /// Reads the whole payload.
    pub async fn payload(&mut self) -> Vec<u8> {
        let mut payload = Vec::new();
        while let Some(piece) = self.piece().await {
            payload.extend_from_slice(&piece.unwrap());
        }
        payload
    }

    /// Replies with a body; the payload follows by [`FakeCall::write`] and [`FakeCall::finish`].
    pub fn reply_stream<T: Serialize>(&self, body: &T) {
        let mut header = self.message.header.answer(Kind::Reply);
        header.flags = Flags::STREAM;
        let _ = self.sender.send(&Message::with_body(header, body));
    }

    /// Sends a piece of the reply's payload as credit comes in; false when the caller cancelled.
    pub async fn write(&mut self, mut piece: Bytes) -> bool {
        while !piece.is_empty() {
            while self.credit == 0 {
                let Some(message) = self.inbox.recv().await else {
                    return false;
                };
                if message.header.kind == Kind::Cancel {
                    return false;
                }
                self.take(&message);
            }
            let part = piece.split_to(piece.len().min(self.credit).min(CHUNK_LEN_MAX));
            self.credit -= part.len();
            let mut header = self.message.header.answer(Kind::StreamChunk);
            header.flags = Flags::TO_CALLER;
            let _ = self.sender.send(&Message::bare(header).with_raw(part));
        }
        true
    }

    /// Ends the reply's payload; with [`Flags::ABORTED`] it broke off.
    pub fn finish(&self, flags: Flags) {
        let mut header = self.message.header.answer(Kind::StreamEnd);
        header.flags = Flags::TO_CALLER.with(flags);
        let _ = self.sender.send(&Message::bare(header));
    }

    /// Waits until the caller has cancelled the call.
    pub async fn cancelled(&mut self) {
        while let Some(message) = self.inbox.recv().await {
            if message.header.kind == Kind::Cancel {
                return;
            }
        }
        panic!("the connection ended without a cancel");
    }

    fn take(&mut self, message: &Message) {
        if message.header.kind == Kind::Credit {
            let credit: StreamCredit = message.decode_body().unwrap();
            self.credit += credit.bytes as usize;
        }
    }

    fn grant(&mut self, bytes: u32) {
        self.granted += bytes;
        let mut header = self.message.header.answer(Kind::Credit);
        header.flags = Flags::TO_CALLER;
        let _ = self
            .sender
            .send(&Message::with_body(header, &StreamCredit { bytes }));
    }
}
