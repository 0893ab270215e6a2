//! Calls over real channels, where the test is the Kernel, the spawner and a worker that lies.

mod durable;

use std::{
    cell::Cell,
    ops::Deref,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use bytes::Bytes;
use isms_ipc::{Inbound, Inbox, Link, Responder, Side};
use isms_protocol::{
    Class, ContentHash, DoeeVersion, ProjectId,
    doer::DoeeSpec,
    kernel::Slots,
    resadmin,
    worker::{Control, Report, STATUS_SLOTS, STATUS_WORDS, StatusPage},
};
use isms_sandbox::{
    linux::{channel::Channel, descriptor, seqpacket, shared_words::SharedWords},
    spawner::{Event as SpawnerEvent, Request},
};
use sha2::{Digest, Sha256};
use tokio::{net::UnixStream, time::timeout};

use super::*;
use crate::{Config, spawner::Spawner};

const VERSION: DoeeVersion = DoeeVersion::from_bytes([1; 16]);
const BINARY: &[u8] = b"nobody loads it";

/// Runs a test on a runtime as the Doer has it.
fn on_a_local_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("it happens within seconds")
}

/// A worker's number, and its ends of control, data and output.
type Sandbox = (u64, Channel, UnixStream, OwnedFd);

/// A Doer on its host: the test is the spawner.
struct Host {
    doer: Rc<Doer>,
    spawner: Channel,
}

impl Host {
    fn new(link: Link, inbox: Inbox) -> Host {
        let (spawner, theirs) = seqpacket::pair().unwrap();
        let config = Config {
            pool_size: 0,
            ..Config::default()
        };
        let doer = Rc::new(Doer::new(config, link, Spawner::new(theirs).unwrap()));
        spawn_local(serve_without_a_clock(Rc::clone(&doer), inbox));
        Host {
            doer,
            spawner: Channel::new(spawner).unwrap(),
        }
    }

    async fn next_request(&self) -> Request {
        let datagram = soon(self.spawner.receive()).await.unwrap().unwrap();
        Request::decode(&datagram.bytes).unwrap()
    }

    /// Makes the sandbox for which the Doer asks next.
    async fn spawn(&self) -> Sandbox {
        let Request::Spawn { worker, .. } = self.next_request().await else {
            panic!("it asks for a worker");
        };
        let (control, their_control) = seqpacket::pair().unwrap();
        let (data, their_data) = descriptor::stream_pair().unwrap();
        let (their_output, output) = descriptor::pipe().unwrap();
        let spawned = SpawnerEvent::Spawned { worker, pid: 1 };
        let descriptors = [&their_control, &their_data, &their_output].map(AsFd::as_fd);
        self.spawner.send(&spawned.encode(), &descriptors).unwrap();
        let data = std::os::unix::net::UnixStream::from(data);
        data.set_nonblocking(true).unwrap();
        let data = UnixStream::from_std(data).unwrap();
        (worker, Channel::new(control).unwrap(), data, output)
    }

    /// Starts the worker for which the Doer asks next, up to its initialize.
    async fn start_worker(&self) -> LyingWorker {
        self.start_in(self.spawn().await).await
    }

    /// Starts a worker in a sandbox that was made.
    async fn start_in(&self, (worker, control, data, output): Sandbox) -> LyingWorker {
        let (link, inbox) = attach_worker(data).await;
        control
            .send(&isms_protocol::encode(&Report::Empty { abi: 1 }), &[])
            .unwrap();
        let assigned = soon(control.receive()).await.unwrap().unwrap();
        assert!(matches!(
            isms_protocol::decode(&assigned.bytes),
            Ok(Control::Assign(_))
        ));
        let words = SharedWords::map(assigned.descriptors[1].as_fd(), STATUS_WORDS).unwrap();
        control
            .send(&isms_protocol::encode(&Report::Initialized), &[])
            .unwrap();
        assert!(matches!(self.next_request().await, Request::Limit { .. }));
        LyingWorker {
            worker,
            page: StatusPage::new(words).unwrap(),
            inbox,
            link,
            _kept: (control, output),
        }
    }

    /// The worker dies as if somebody had killed it.
    fn kill(&self, worker: LyingWorker) {
        let number = worker.worker;
        drop(worker);
        self.report_killed(number);
    }

    fn report_killed(&self, worker: u64) {
        let exited = SpawnerEvent::Exited {
            worker,
            code: None,
            signal: Some(9),
            oom: false,
        };
        self.spawner.send(&exited.encode(), &[]).unwrap();
    }
}

/// A Doer and all that it talks to.
struct Scene {
    host: Host,
    kernel: Link,
    /// What the Doer has published last.
    capacity: Rc<Cell<u32>>,
}

impl Deref for Scene {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Scene {
    async fn new() -> Scene {
        Scene::with_workers(1).await
    }

    async fn with_workers(workers_max: u32) -> Scene {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (link, kernel) = tokio::join!(
            Link::attach(theirs, Side::Connect, Service::Doer, 1024),
            Link::attach(ours, Side::Bind, Service::Kernel, 1024)
        );
        let ((link, inbox), (kernel, asked)) = (link.unwrap(), kernel.unwrap());
        let host = Host::new(link, inbox);
        // An attached link does not register.
        host.doer.announce(host.doer.link.registration().unwrap());
        let capacity = Rc::default();
        spawn_local(serve_as_kernel(asked, workers_max, Rc::clone(&capacity)));
        Scene {
            host,
            kernel,
            capacity,
        }
    }

    fn invoke(&self) -> PendingAnswer {
        let mut header = Header::new(Kind::Request, Service::Kernel, Service::Doer);
        header.operation = Operation::Invoke as u16;
        header.target_doee = VERSION;
        self.kernel.start(Message::bare(header))
    }

    /// Runs calls until the Doer knows that they are short and sends them ahead.
    async fn run_short_calls(&self, worker: &mut LyingWorker) {
        for _ in 0..8 {
            let answer = self.invoke();
            worker.begin_next().await.reply(&reply(), Bytes::new());
            soon(answer).await.unwrap();
        }
    }
}

async fn attach_worker(data: UnixStream) -> (Link, Inbox) {
    let attached = Link::attach(data, Side::Connect, Service::Worker, 1024);
    soon(attached).await.unwrap()
}

/// Does what the Doer's loop does but for its clock, so that nothing here depends on how fast the machine is.
async fn serve_without_a_clock(doer: Rc<Doer>, mut inbox: Inbox) {
    loop {
        tokio::select! {
            received = doer.spawner.receive() => {
                let (event, descriptors) = received.unwrap();
                doer.spawner_said(event, descriptors);
            }
            Some(inbound) = inbox.next() => doer.kernel_said(inbound),
        }
    }
}

/// Hears what the Doer publishes, and tells it what it must know of the one version.
async fn serve_as_kernel(mut inbox: Inbox, workers_max: u32, capacity: Rc<Cell<u32>>) {
    while let Some(inbound) = inbox.next().await {
        match inbound {
            Inbound::Request(request) => serve_as_resadmin(request, workers_max),
            Inbound::Other(message) if message.header.kind == Kind::Slots => {
                capacity.set(message.decode_body::<Slots>().unwrap().capacity);
            }
            _ => {}
        }
    }
}

fn serve_as_resadmin(request: InboundRequest, workers_max: u32) {
    let InboundRequest {
        message, responder, ..
    } = request;
    match resadmin::Operation::from_u16(message.header.operation) {
        Some(resadmin::Operation::Doee) => responder.reply(&spec(workers_max), Bytes::new()),
        _ => responder.reply(&(), Bytes::from_static(BINARY)),
    }
}

fn spec(workers_max: u32) -> DoeeSpec {
    DoeeSpec {
        version: VERSION,
        project: ProjectId::from_bytes([2; 16]),
        project_name: "project".to_owned(),
        name: "doee".to_owned(),
        class: Class::Normal,
        memory_mb: 64,
        timeout_ms: 1000,
        workers_min: 0,
        workers_max,
        params: Vec::new(),
        binary: ContentHash(Sha256::digest(BINARY).into()),
        binary_len: BINARY.len() as u64,
        environment: isms_protocol::doer::Environment::default(),
        concurrency: 0,
        reserved: [0; 3],
        calls: Vec::new(),
    }
}

fn reply() -> InvocationReply {
    InvocationReply {
        status: 200,
        headers: Vec::new(),
        payload_len: Some(0),
    }
}

/// A worker's end of its channels.
struct LyingWorker {
    worker: u64,
    page: StatusPage<SharedWords>,
    inbox: Inbox,
    link: Link,
    _kept: (Channel, OwnedFd),
}

impl LyingWorker {
    async fn next_request(&mut self) -> InboundRequest {
        loop {
            match soon(self.inbox.next()).await {
                Some(Inbound::Request(request)) => return request,
                Some(_) => {}
                None => panic!("the worker was cut off"),
            }
        }
    }

    async fn next(&mut self) -> Responder {
        self.next_request().await.responder
    }

    /// Takes the next call and begins it, as an honest executor does.
    async fn begin_next(&mut self) -> Responder {
        let responder = self.next().await;
        assert!(self.page.begin(responder.header().call));
        responder
    }
}

fn cancelled() -> WireError {
    WireError::new(ErrorCode::Cancelled, "recalled before it began")
}

#[test]
fn a_worker_that_claims_a_cancel_of_which_nobody_told_it_has_failed() {
    on_a_local_runtime(async {
        let scene = Scene::new().await;
        let answer = scene.invoke();
        let mut worker = scene.start_worker().await;
        worker.begin_next().await.error(cancelled());
        assert_eq!(soon(answer).await.unwrap_err().code, ErrorCode::DoeeFailed);

        let answer = scene.invoke();
        let running = worker.begin_next().await;
        answer.cancel();
        soon(running.cancelled()).await;
        running.error(cancelled());
        assert_eq!(soon(answer).await.unwrap_err().code, ErrorCode::Cancelled);
    });
}

#[test]
fn a_reply_that_cannot_be_read_ends_its_call_although_the_worker_was_sent_it_ahead() {
    on_a_local_runtime(async {
        let scene = Scene::new().await;
        let first = scene.invoke();
        let mut worker = scene.start_worker().await;
        worker.begin_next().await.reply(&reply(), Bytes::new());
        soon(first).await.unwrap();
        scene.run_short_calls(&mut worker).await;

        let (running, ahead) = (scene.invoke(), scene.invoke());
        let _running = worker.begin_next().await;
        // It has not begun this one, and answers it all the same.
        worker.next().await.reply(&"no reply", Bytes::new());
        assert_eq!(soon(running).await.unwrap_err().code, ErrorCode::Crashed);
        assert!(matches!(scene.next_request().await, Request::Kill { .. }));
        scene.kill(worker);
        assert_eq!(soon(ahead).await.unwrap_err().code, ErrorCode::Crashed);
    });
}

#[test]
fn a_call_that_is_cancelled_and_replaced_behind_a_running_one_never_takes_its_slot() {
    on_a_local_runtime(async {
        let scene = Scene::new().await;
        let answer = scene.invoke();
        let mut worker = scene.start_worker().await;
        worker.begin_next().await.reply(&reply(), Bytes::new());
        soon(answer).await.unwrap();

        let connection = scene.doer.state.borrow().workers.values().next().cloned();
        let connection = connection.expect("the worker is there");
        let send = |task: u64| {
            let slot = CallSlot::new(Outbound {
                message: Message::bare(Header::new(Kind::Request, Service::Kernel, Service::Doer)),
                deadline: None,
                stream: None,
            });
            slot.send(TaskId(task), Rc::clone(&connection));
            slot
        };
        let running = send(1000);
        let responder = worker.begin_next().await;
        for task in 1001..1001 + 2 * STATUS_SLOTS as u64 {
            let _replaced = send(task);
            assert!(connection.has_call(TaskId(task)) && connection.recall(TaskId(task)));
            assert!(!connection.has_call(TaskId(task)));
            assert_eq!(connection.begun(), [TaskId(1000)]);
        }
        // A second one that runs on keeps its place as well.
        let _ahead = send(2000);
        assert!(!connection.recall(TaskId(1000)) && connection.recall(TaskId(2000)));
        drop((running, responder));
    });
}

#[test]
fn a_worker_that_has_died_before_its_channels_were_open_is_forgotten() {
    on_a_local_runtime(async {
        let scene = Scene::new().await;
        let answer = scene.invoke();
        let (worker, _control, data, _output) = scene.spawn().await;
        scene.report_killed(worker);
        assert_eq!(soon(answer).await.unwrap_err().code, ErrorCode::Crashed);
        // A process that it left behind shakes hands.
        let (_link, mut inbox) = attach_worker(data).await;
        while !matches!(soon(inbox.next()).await, Some(Inbound::Lost)) {}
        assert!(scene.doer.state.borrow().workers.is_empty());
    });
}

#[test]
fn a_worker_whose_stream_nobody_reads_is_told_at_once_and_is_free_when_it_has_ended() {
    on_a_local_runtime(async {
        let scene = Scene::new().await;
        let answer = scene.invoke();
        let mut worker = scene.start_worker().await;
        let silent = worker.begin_next().await.reply_stream(&reply());
        drop(soon(answer).await.unwrap().stream);
        soon(silent.refused()).await;
        let next = scene.invoke();
        soon(async {
            while scene.doer.state.borrow().handler.admin.lengths() != (1, 1) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(silent);
        worker.begin_next().await.reply(&reply(), Bytes::new());
        soon(next).await.unwrap();
    });
}

#[test]
fn what_the_kernel_hears_last_of_the_capacity_is_what_the_doer_thinks() {
    on_a_local_runtime(async {
        let scene = Scene::with_workers(2).await;
        let answer = scene.invoke();
        let mut worker = scene.start_worker().await;
        worker.begin_next().await.reply(&reply(), Bytes::new());
        soon(answer).await.unwrap();
        scene.run_short_calls(&mut worker).await;

        let (_long, _behind) = (scene.invoke(), scene.invoke());
        let _running = worker.begin_next().await;
        // A tick takes back the call behind the long one, so that the worker takes one call at a time from now on, and
        // starts a second worker for it.
        soon(async {
            while scene.doer.state.borrow().handler.workers().count() < 2 {
                scene.doer.dispatch(Event::Tick);
                tokio::task::yield_now().await;
            }
            while scene.capacity.get() != 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}
