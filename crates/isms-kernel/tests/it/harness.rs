//! A running Kernel, and services that speak with it message by message.

use std::{os::unix::net::UnixListener, path::PathBuf, thread::JoinHandle, time::Duration};

use isms_ipc::{Connection, Receiver, Sender, Side};
use isms_kernel::{Config, SupervisorChannel, run};
use isms_protocol::{
    ErrorCode, Header, Incarnation, Kind, Message, Secret, Service, WireError,
    kernel::{Register, Registered},
    limits,
    supervisor::{FromRole, ToRole},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::timeout,
};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Requests that each service takes at the same time.
pub(crate) const CONCURRENCY: u64 = 8;

/// A Kernel on its own thread and runtime, in its own folder.
pub(crate) struct Kernel {
    folder: Option<TempDir>,
    commands: mpsc::Sender<ToRole>,
    reports: mpsc::Receiver<FromRole>,
    shutdown: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    pub(crate) fn start() -> Kernel {
        Kernel::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Kernel {
        Kernel::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// With a journal in its folder.
    pub(crate) fn start_durable(folder: TempDir) -> Kernel {
        let journal = Some(folder.path().join("journal"));
        Kernel::start_in(
            folder,
            Config {
                journal,
                ..Config::default()
            },
        )
    }

    /// Ends it, and starts another one with its journal.
    pub(crate) fn restart(mut self) -> Kernel {
        let folder = self.folder.take().unwrap();
        drop(self);
        std::fs::remove_file(folder.path().join("kernel.sock")).unwrap();
        Kernel::start_durable(folder)
    }

    fn start_in(folder: TempDir, config: Config) -> Kernel {
        let listener = UnixListener::bind(folder.path().join("kernel.sock")).unwrap();
        let (commands, commands_out) = mpsc::channel(16);
        let (reports_in, reports) = mpsc::channel(256);
        let (shutdown, stop) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let channel = SupervisorChannel {
                commands: commands_out,
                reports: reports_in,
            };
            runtime.block_on(run(config, listener, channel, stop)).unwrap();
        });
        Kernel {
            folder: Some(folder),
            commands,
            reports,
            shutdown,
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("kernel.sock")
    }

    pub(crate) async fn announce(&self, service: Service, incarnation: u32) {
        let secret_hash = Sha256::digest(secret(incarnation).0).into();
        let incarnation = Incarnation(incarnation);
        self.commands
            .send(ToRole::Announce {
                service,
                incarnation,
                secret_hash,
            })
            .await
            .unwrap();
    }

    pub(crate) async fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (sender, receiver) = Connection::establish(stream, Side::Connect).await.unwrap();
        Peer { sender, receiver }
    }

    /// Announces the first incarnation of a service and registers it.
    pub(crate) async fn service(&mut self, service: Service) -> Peer {
        self.incarnation(service, 1).await
    }

    /// Announces an incarnation of a service and registers it.
    pub(crate) async fn incarnation(&mut self, service: Service, number: u32) -> Peer {
        let incarnation = Incarnation(number);
        self.announce(service, number).await;
        loop {
            // The announcement travels by another way than the registration, which may be faster.
            let mut peer = self.connect().await;
            peer.send(register(service, number, secret(number)));
            if let Some(answer) = peer.next().await {
                let registered: Registered = answer.decode_body().unwrap();
                assert_eq!(registered.generation, incarnation);
                self.wait_for(&FromRole::Registered { service, incarnation })
                    .await;
                return peer;
            }
        }
    }

    /// Waits until the Kernel has reported this to the supervisor.
    pub(crate) async fn wait_for(&mut self, report: &FromRole) {
        let found = async { while self.reports.recv().await.expect("the Kernel runs") != *report {} };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no {report:?}"));
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the Kernel panicked");
        }
    }
}

/// One connection to the Kernel.
pub(crate) struct Peer {
    sender: Sender,
    receiver: Receiver,
}

impl Peer {
    pub(crate) fn send(&self, message: Message) {
        self.sender.send(&message).unwrap();
    }

    /// Waits until the connection has taken most of what was sent.
    pub(crate) async fn keep_up(&self) {
        while self.sender.unsent_len() > limits::CONNECTION_UNSENT_MAX / 16 {
            tokio::task::yield_now().await;
        }
    }

    /// The next message that is not a heartbeat; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let next = async {
            loop {
                match self.receiver.next().await {
                    Ok(Some(message)) if message.header.kind == Kind::Heartbeat => {
                        let Header { sender, target, .. } = message.header;
                        // An error shows as the connection's end at the next turn.
                        let _ =
                            self.sender
                                .send(&Message::bare(Header::new(Kind::Heartbeat, target, sender)));
                    }
                    Ok(Some(message)) => return Some(message),
                    Ok(None) | Err(_) => return None,
                }
            }
        };
        timeout(PATIENCE, next)
            .await
            .expect("the Kernel says something or closes")
    }

    pub(crate) async fn expect(&mut self, kind: Kind) -> Message {
        let message = self
            .next()
            .await
            .unwrap_or_else(|| panic!("closed instead of {kind:?}"));
        assert_eq!(message.header.kind, kind, "{message:?}");
        message
    }

    /// The next request, past what is said of demand.
    pub(crate) async fn expect_request(&mut self) -> Message {
        loop {
            let message = self.next().await.expect("closed instead of a request");
            if message.header.kind != Kind::Demand {
                assert_eq!(message.header.kind, Kind::Request, "{message:?}");
                return message;
            }
        }
    }

    pub(crate) async fn expect_error(&mut self, code: ErrorCode) -> Message {
        let message = self.expect(Kind::Error).await;
        let error: WireError = message.decode_body().unwrap();
        assert_eq!(error.code, code, "{error}");
        message
    }

    pub(crate) async fn expect_end(&mut self) {
        let message = self.next().await;
        assert_eq!(message, None, "the connection should have ended");
    }
}

pub(crate) fn secret(incarnation: u32) -> Secret {
    Secret([incarnation as u8; 32])
}

pub(crate) fn register(service: Service, incarnation: u32, secret: Secret) -> Message {
    let register = Register {
        service,
        incarnation: Incarnation(incarnation),
        secret,
        concurrency: CONCURRENCY as u32,
    };
    Message::with_body(Header::new(Kind::Register, service, Service::Kernel), &register)
}

/// A request's header.
pub(crate) fn request(from: Service, to: Service, operation: u16, call: u64) -> Header {
    Header {
        operation,
        call,
        ..Header::new(Kind::Request, from, to)
    }
}
