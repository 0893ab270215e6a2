//! A CommServer with a way out, the servers that it meets, and the Kernel that asks it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use isms_commserver::{CONCURRENCY, Config, EgressConfig, Resolver, RunError, run_with_resolver};
use isms_http::test_support::{FakeAsk, FakeKernel, soon};
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProjectId, Service, WireError,
    commserver::{self, Fetch, FetchReply},
    dbriver::Grants,
    resadmin::{Operation, Projects},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

pub(crate) const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);
pub(crate) const VERSION: DoeeVersion = DoeeVersion::from_bytes([2; 16]);
/// Another project's.
pub(crate) const OTHER: (ProjectId, DoeeVersion) =
    (ProjectId::from_bytes([3; 16]), DoeeVersion::from_bytes([4; 16]));

/// What lookups of one name answer, one after the other.
type Lookups = Vec<Vec<IpAddr>>;

/// What the test's names resolve to: each lookup takes the next answer, and repeats the last one.
#[derive(Clone, Default)]
pub(crate) struct Names {
    answers: Arc<Mutex<HashMap<&'static str, Lookups>>>,
    pub(crate) lookups: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn set(&self, name: &'static str, answers: &[&[&str]]) {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = answers.iter().map(parse).collect();
        self.answers.lock().unwrap().insert(name, answers);
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Arc::new(move |name, port| {
            names.lookups.fetch_add(1, Ordering::Relaxed);
            let mut answers = names.answers.lock().unwrap();
            let answers = answers
                .get_mut(name)
                .ok_or(std::io::Error::from(std::io::ErrorKind::NotFound))?;
            let answer = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            };
            Ok(answer.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }
}

/// A running CommServer.
pub(crate) struct Egress {
    pub(crate) kernel: FakeKernel,
    pub(crate) names: Names,
    pub(crate) asked: Arc<AtomicUsize>,
    _stop: watch::Sender<bool>,
    _task: JoinHandle<Result<(), RunError>>,
}

impl Egress {
    /// `granted` is what `VERSION` of `PROJECT` may reach (`OTHER` as well), `allow` the administrator's rules.
    pub(crate) fn start(granted: &[String], allow: &[String]) -> Egress {
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        let config = EgressConfig {
            allow,
            ..EgressConfig::default()
        };
        Egress::with_config(granted, config)
    }

    /// As an administrator starts it who permits the servers of the test, all of which are granted.
    pub(crate) fn towards(servers: &[&Server]) -> Egress {
        let granted: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
        Egress::start(&granted, &granted)
    }

    pub(crate) fn with_config(granted: &[String], egress: EgressConfig) -> Egress {
        let asked = Arc::new(AtomicUsize::new(0));
        let (granted, counted) = (granted.to_vec(), asked.clone());
        let kernel = FakeKernel::start(Service::Commserver, move |call| {
            let (granted, counted) = (granted.clone(), counted.clone());
            async move {
                let header = call.message.header;
                match Operation::from_u16(header.operation).unwrap() {
                    Operation::Projects => call.reply(&Projects::default(), ""),
                    Operation::Grants => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let caller = (header.project, header.target_doee);
                        if caller != (PROJECT, VERSION) && caller != OTHER {
                            return call.fail(ErrorCode::NotFound, "no such version");
                        }
                        let grants = Grants {
                            databases: vec![],
                            http: granted,
                        };
                        call.reply(&grants, "");
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
        });
        let names = Names::default();
        let config = Config {
            egress,
            ..Config::default()
        };
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let (stop, stopped) = watch::channel(false);
        let link = kernel.link_options(CONCURRENCY);
        let task = tokio::spawn(run_with_resolver(
            config,
            listener,
            link,
            stopped,
            names.resolver(),
        ));
        Egress {
            kernel,
            names,
            asked,
            _stop: stop,
            _task: task,
        }
    }

    /// Asks for a request whose payload is inline.
    pub(crate) async fn ask(&self, fetch: &Fetch, body: &[u8]) -> FakeAsk {
        self.ask_as((PROJECT, VERSION), fetch, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        caller: (ProjectId, DoeeVersion),
        fetch: &Fetch,
        body: &[u8],
    ) -> FakeAsk {
        let message = Message::with_body(header(caller), fetch).with_raw(body.to_vec());
        self.kernel.ask(message).await
    }

    /// Asks for a request whose payload follows as a stream.
    pub(crate) async fn ask_streaming(&self, fetch: &Fetch) -> FakeAsk {
        let header = Header {
            flags: Flags::STREAM,
            ..header((PROJECT, VERSION))
        };
        self.kernel.ask(Message::with_body(header, fetch)).await
    }

    /// The answer to a request without a body.
    pub(crate) async fn fetch(&self, fetch: &Fetch) -> Result<Answer, WireError> {
        answer(&mut self.ask(fetch, b"").await).await
    }

    /// The answer to a `GET`.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer, WireError> {
        self.fetch(&get(url)).await
    }

    /// The error that a `GET` ends with.
    pub(crate) async fn refused(&self, url: &str) -> (ErrorCode, String) {
        let error = self.get(url).await.expect_err(url);
        (error.code, error.message)
    }
}

pub(crate) fn get(url: &str) -> Fetch {
    Fetch {
        method: "GET".to_owned(),
        url: url.to_owned(),
        ..Fetch::default()
    }
}

fn header((project, calling_doee): (ProjectId, DoeeVersion)) -> Header {
    Header {
        operation: commserver::Operation::Fetch as u16,
        project,
        calling_doee,
        remaining_us: 60_000_000,
        ..Header::new(Kind::Request, Service::Doer, Service::Commserver)
    }
}

/// An answer as a Doee would get it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: FetchReply,
    pub(crate) body: Vec<u8>,
    /// False when it broke off.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut fields = self.head.headers.iter();
        let found = fields.find(|(found, _)| found == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// The answer to what was asked, with its whole body.
pub(crate) async fn answer(ask: &mut FakeAsk) -> Result<Answer, WireError> {
    let message = ask.answer().await;
    if message.header.kind == Kind::Error {
        return Err(message.decode_body().unwrap());
    }
    let head = message.decode_body().unwrap();
    let (body, whole) = match message.header.flags.contains(Flags::STREAM) {
        true => ask.body().await,
        false => (message.raw.to_vec(), true),
    };
    Ok(Answer { head, body, whole })
}

/// A connection to a server of the test.
pub(crate) struct Connection<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S) -> Connection<S> {
        Connection {
            stream,
            read: Vec::new(),
        }
    }

    /// The stream, before anything was read from it.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// The head of the next request, blank line included; empty when the client has gone.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return String::new();
            }
        }
    }

    /// So many bytes of a body; fewer when the client has gone.
    pub(crate) async fn body(&mut self, len: usize) -> Vec<u8> {
        while self.read.len() < len {
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                break;
            }
        }
        self.read.drain(..len.min(self.read.len())).collect()
    }

    /// Sends bytes as they are; false when the client has gone.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Waits until the client has closed the connection.
    pub(crate) async fn closed(&mut self) {
        while self.stream.read_buf(&mut self.read).await.unwrap_or(0) > 0 {}
    }
}

/// A server of the test; dropped, it ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

pub(crate) type Plain = Connection<tokio::net::TcpStream>;

impl Server {
    /// Serves each connection by script.
    pub(crate) async fn start<F, Fut>(script: F) -> Server
    where
        F: Fn(Plain) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Server::start_at("127.0.0.1:0", script).await
    }

    pub(crate) async fn start_at<F, Fut>(address: &str, script: F) -> Server
    where
        F: Fn(Plain) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut scripts = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        scripts.spawn(script(Connection::new(accepted.unwrap().0)));
                    }
                    Some(ended) = scripts.join_next() => ended.unwrap(),
                }
            }
        });
        Server {
            address,
            connections,
            _task: task,
        }
    }

    /// Answers every request with the same bytes.
    pub(crate) async fn saying(answer: impl Into<Bytes>) -> Server {
        let answer = answer.into();
        Server::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                connection.head().await;
                connection.send(answer).await;
            }
        })
        .await
    }

    /// Answers every request with what was asked, and tells the test of its head.
    pub(crate) async fn echoing() -> (Server, mpsc::UnboundedReceiver<String>) {
        let (heads, asked) = mpsc::unbounded_channel();
        let server = Server::start(move |mut connection| {
            let heads = heads.clone();
            async move {
                let head = connection.head().await;
                let _ = heads.send(head.clone());
                connection.send(ok(&head)).await;
            }
        })
        .await;
        (server, asked)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A plain answer.
pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Waits for something that a server tells.
pub(crate) async fn told<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    soon("a server's word", receiver.recv()).await.unwrap()
}
