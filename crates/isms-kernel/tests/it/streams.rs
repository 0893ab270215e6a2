//! Many streams towards one service that pauses while they flow.

use std::{collections::BTreeMap, path::PathBuf, sync::mpsc, thread::JoinHandle};

use isms_ipc::{Inbound, Link, LinkOptions, StreamReceiver};
use isms_protocol::{
    Flags, Header, Incarnation, Kind, Message, Service,
    kernel::{self, Status, StreamCredit},
    limits::{CHUNK_LEN_MAX, CONNECTION_UNSENT_MAX, STREAM_WINDOW},
};
use tokio::sync::oneshot;

use crate::{
    calls::{invoke, slots},
    harness::{Kernel, Peer, request, secret},
};

/// Enough for their windows to exceed what the Kernel keeps for one connection.
const STREAMS: u64 = 100;
const STREAM_LEN: usize = 300 * 1024;

/// CommServer's link on a thread of its own, which stops and goes on when it is told to.
struct Edge {
    pause: Option<oneshot::Sender<()>>,
    paused: Option<oneshot::Receiver<()>>,
    resume: mpsc::Sender<()>,
    thread: JoinHandle<Vec<usize>>,
}

impl Edge {
    fn start(socket: PathBuf) -> Edge {
        let (pause, pause_asked) = oneshot::channel();
        let (paused_in, paused) = oneshot::channel();
        let (resume, resume_asked) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (link, streams) = runtime.block_on(async {
                let (link, streams) = open_streams(socket).await;
                // Follows the credit, and tells the Doer that there is no more.
                let marker = link.start(Message::bare(invoke(0)));
                pause_asked.await.unwrap();
                drop(marker);
                (link, streams)
            });
            paused_in.send(()).unwrap();
            resume_asked.recv().unwrap();
            let lengths = runtime.block_on(read_all(streams));
            drop(link);
            lengths
        });
        Edge {
            pause: Some(pause),
            paused: Some(paused),
            resume,
            thread,
        }
    }

    async fn pause(&mut self) {
        self.pause.take().unwrap().send(()).unwrap();
        self.paused.take().unwrap().await.unwrap();
    }

    /// Goes on; the lengths of the streams as they arrived.
    fn resume(self) -> JoinHandle<Vec<usize>> {
        self.resume.send(()).unwrap();
        self.thread
    }
}

/// Calls until there are streams, and gives each its first credit.
async fn open_streams(socket: PathBuf) -> (Link, Vec<StreamReceiver>) {
    let (link, mut inbox) = Link::open(LinkOptions {
        socket,
        service: Service::Commserver,
        incarnation: Incarnation(1),
        secret: secret(1),
        concurrency: 1,
    });
    assert!(matches!(inbox.next().await, Some(Inbound::Registered(_))));
    let pending: Vec<_> = (0..STREAMS)
        .map(|_| link.start(Message::bare(invoke(0))))
        .collect();
    let mut streams = Vec::new();
    for answer in pending {
        let mut stream = answer.await.unwrap().stream.unwrap();
        tokio::select! {
            biased;
            chunk = stream.next() => panic!("nothing was sent, got {chunk:?}"),
            () = std::future::ready(()) => {}
        }
        streams.push(stream);
    }
    (link, streams)
}

async fn read_all(streams: Vec<StreamReceiver>) -> Vec<usize> {
    let reading: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut len = 0;
                while let Some(chunk) = stream.next().await {
                    len += chunk.unwrap().len();
                }
                len
            })
        })
        .collect();
    let mut lengths = Vec::new();
    for stream in reading {
        lengths.push(stream.await.unwrap());
    }
    lengths
}

/// A reply's stream at the Doer: what may be sent of it, and what is left.
struct Sending {
    request: Header,
    credit: usize,
    left: usize,
}

impl Sending {
    fn allow(&mut self, credit: &Message) {
        self.credit += credit.decode_body::<StreamCredit>().unwrap().bytes as usize;
    }

    /// Sends as much as there is credit for; true at the end.
    async fn send(&mut self, doer: &Peer) -> bool {
        let to_caller = |kind| Header {
            kind,
            flags: Flags::TO_CALLER,
            ..self.request
        };
        while self.left > 0 && self.credit > 0 {
            let len = CHUNK_LEN_MAX.min(self.left).min(self.credit);
            doer.keep_up().await;
            doer.send(Message::bare(to_caller(Kind::StreamChunk)).with_raw(vec![1; len]));
            (self.credit, self.left) = (self.credit - len, self.left - len);
        }
        if self.left == 0 {
            doer.send(Message::bare(to_caller(Kind::StreamEnd)));
        }
        self.left == 0
    }
}

/// Answers the Doer's next request with a stream.
async fn answer_streaming(doer: &mut Peer, len: usize) -> Sending {
    let request = doer.expect_request().await.header;
    doer.send(Message::bare(Header {
        flags: Flags::STREAM,
        ..request.answer(Kind::Reply)
    }));
    Sending {
        request,
        credit: 0,
        left: len,
    }
}

async fn is_up(gate: &mut Peer, service: Service) -> bool {
    let operation = kernel::Operation::Status as u16;
    gate.send(Message::bare(request(
        Service::Gate,
        Service::Kernel,
        operation,
        2,
    )));
    let status: Status = gate.expect(Kind::Reply).await.decode_body().unwrap();
    let mut services = status.services.iter();
    services.any(|status| status.service == service && status.up)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_pauses_while_many_streams_flow_to_it_is_not_given_up() {
    const { assert!(STREAMS * STREAM_WINDOW as u64 > CONNECTION_UNSENT_MAX as u64) };
    let mut kernel = Kernel::start();
    let mut gate = kernel.service(Service::Gate).await;
    let mut doer = kernel.service(Service::Doer).await;
    doer.send(slots(STREAMS as u32 + 2));
    kernel.announce(Service::Commserver, 1).await;
    let mut edge = Edge::start(kernel.socket());

    let mut streams = BTreeMap::new();
    for _ in 0..STREAMS {
        let sending = answer_streaming(&mut doer, STREAM_LEN).await;
        streams.insert(sending.request.call, sending);
    }
    loop {
        let message = doer.next().await.unwrap();
        match message.header.kind {
            Kind::Credit => streams.get_mut(&message.header.call).unwrap().allow(&message),
            Kind::Request => break,
            Kind::Demand => {}
            kind => panic!("{kind:?}"),
        }
    }
    edge.pause().await;
    // Gate's stream comes last through the Doer's connection, so it shows when all has been passed on.
    let invoke = Header {
        sender: Service::Gate,
        ..invoke(1)
    };
    gate.send(Message::bare(invoke));
    let mut last = answer_streaming(&mut doer, 1).await;
    last.credit = 1;
    gate.expect(Kind::Reply).await;
    let credit = Header {
        kind: Kind::Credit,
        ..invoke
    };
    gate.send(Message::with_body(credit, &StreamCredit { bytes: 1 }));
    while doer.next().await.unwrap().header.kind != Kind::Credit {}
    for sending in streams.values_mut() {
        assert!(!sending.send(&doer).await, "a stream is longer than its window");
    }
    last.send(&doer).await;
    gate.expect(Kind::StreamChunk).await;
    gate.expect(Kind::StreamEnd).await;
    assert!(is_up(&mut gate, Service::Commserver).await);

    let thread = edge.resume();
    while !streams.is_empty() {
        let message = doer.next().await.unwrap();
        let call = message.header.call;
        // Credit of a stream that has been sent to its end comes too late.
        if message.header.kind == Kind::Credit
            && let Some(sending) = streams.get_mut(&call)
        {
            sending.allow(&message);
            if sending.send(&doer).await {
                streams.remove(&call);
            }
        }
    }
    assert_eq!(thread.join().unwrap(), vec![STREAM_LEN; STREAMS as usize]);
}
