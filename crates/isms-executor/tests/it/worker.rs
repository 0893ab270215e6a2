//! One executor process, and the test as its Doer.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use isms_ipc::Side;
use isms_ipc::blocking::Connection;
use isms_protocol::doer::{Invocation, InvocationReply, Operation, Parameter};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::worker::{
    Assignment, CONTROL_LEN_MAX, Control, LogLine, Report, STATUS_WORDS, StatusPage,
};
use isms_protocol::{
    DoeeVersion, Flags, Header, Kind, Message, ProcessId, ProjectId, Service, WireError, decode, encode,
};
use isms_sandbox::linux::launch::{Launch, arrange};
use isms_sandbox::linux::shared_words::SharedWords;
use isms_sandbox::linux::{descriptor, memfd, seqpacket};

/// What no event of a test may take longer than.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn sdk(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../sdk")
        .join(folder)
}

/// Compiles a Doee as a shared object.
pub(crate) fn compile(file_name: &str, source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(file_name);
    fs::write(&file, source).unwrap();
    let (compiler, standard) = if file_name.ends_with(".c") {
        ("cc", "-std=c17")
    } else {
        ("c++", "-std=c++20")
    };
    let output = Command::new(compiler)
        .args([
            standard,
            "-O1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-pthread",
        ])
        .arg("-I")
        .arg(sdk("c/include"))
        .arg("-I")
        .arg(sdk("cpp/include"))
        .arg(&file)
        .arg("-o")
        .arg(folder.path().join("doee.so"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read(folder.path().join("doee.so")).unwrap()
}

/// Compiles the C Doee that does everything.
pub(crate) fn kitchen() -> Vec<u8> {
    compile("kitchen.c", include_str!("doees/kitchen.c"))
}

pub(crate) struct Worker {
    child: Child,
    pub(crate) control: OwnedFd,
    data: Option<OwnedFd>,
    pub(crate) connection: Option<Connection>,
    pub(crate) project: ProjectId,
    pub(crate) page: StatusPage<SharedWords>,
    pub(crate) page_memory: OwnedFd,
}

impl Worker {
    /// Starts an executor that has said it is empty.
    pub(crate) fn empty() -> Worker {
        let (control, inner_control) = seqpacket::pair().unwrap();
        let (data, inner_data) = descriptor::stream_pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_doee-executor"));
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        arrange(
            &mut command,
            Launch {
                descriptors: vec![inner_control, inner_data],
                ..Launch::default()
            },
        )
        .unwrap();
        let child = command.spawn().unwrap();
        drop(command);
        let project = ProjectId::generate();
        let (words, page_memory) = SharedWords::create(c"status-page", STATUS_WORDS).unwrap();
        let worker = Worker {
            child,
            control,
            data: Some(data),
            connection: None,
            project,
            page: StatusPage::new(words).unwrap(),
            page_memory,
        };
        assert_eq!(worker.report(), Report::Empty { abi: 1 });
        worker
    }

    /// Starts an executor and assigns a binary; returns what it reports.
    pub(crate) fn assign(binary: &[u8], params: Vec<(String, Parameter)>) -> (Worker, Report) {
        let mut worker = Worker::empty();
        worker.send_assignment(binary, params);
        worker.connect();
        let report = worker.report();
        (worker, report)
    }

    pub(crate) fn send_assignment(&self, binary: &[u8], params: Vec<(String, Parameter)>) {
        let memfd = memfd::create_sealed(c"doee", binary).unwrap();
        let (project, doee) = ("project".to_owned(), "doee".to_owned());
        let assignment = Assignment {
            project,
            doee,
            version: DoeeVersion::generate(),
            params,
        };
        seqpacket::send(
            self.control.as_fd(),
            &encode(&Control::Assign(assignment)),
            &[memfd.as_fd(), self.page_memory.as_fd()],
        )
        .unwrap();
    }

    pub(crate) fn connect(&mut self) {
        let stream = UnixStream::from(self.data.take().unwrap());
        self.connection = Connection::establish(stream, Side::Bind).ok();
    }

    /// Starts an executor whose Doee is initialized.
    pub(crate) fn start(binary: &[u8]) -> Worker {
        let (worker, report) = Worker::assign(binary, Vec::new());
        assert_eq!(report, Report::Initialized);
        worker
    }

    pub(crate) fn report(&self) -> Report {
        let mut buffer = vec![0; CONTROL_LEN_MAX];
        let received = seqpacket::receive(self.control.as_fd(), &mut buffer).unwrap();
        decode(&buffer[..received.len]).expect("a report, not the end of the channel")
    }

    pub(crate) fn send(&mut self, message: &Message) {
        if message.header.kind == Kind::Request {
            self.page.queue(message.header.call);
        }
        self.connection.as_mut().unwrap().send(message).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Message {
        self.connection
            .as_mut()
            .unwrap()
            .receive(Some(PATIENCE))
            .unwrap()
            .expect("a message in time")
    }

    /// The next message that is neither a log line nor credit.
    pub(crate) fn receive_past_credit(&mut self) -> Message {
        loop {
            let message = self.receive_answer();
            if message.header.kind != Kind::Credit {
                return message;
            }
        }
    }

    /// The next message that is no log line.
    pub(crate) fn receive_answer(&mut self) -> Message {
        loop {
            let message = self.receive();
            if message.header.kind != Kind::Event {
                return message;
            }
        }
    }

    pub(crate) fn request(&self, call: u64) -> Header {
        Header {
            operation: Operation::Invoke as u16,
            attempt: 1,
            call,
            process: ProcessId::generate(),
            project: self.project,
            ..Header::new(Kind::Request, Service::Doer, Service::Worker)
        }
    }

    /// Asks for a path, with a body, and sees the call begin.
    pub(crate) fn begin(&mut self, path: &str, body: &[u8]) -> Header {
        let header = self.request(1);
        self.begin_with(header, path, body);
        header
    }

    pub(crate) fn begin_with(&mut self, header: Header, path: &str, body: &[u8]) {
        let invocation = Invocation {
            path: path.into(),
            method: "GET".into(),
            ..Invocation::default()
        };
        self.send(&Message::with_body(header, &invocation).with_raw(body.to_vec()));
        self.await_begin(header.call);
    }

    /// Waits until the executor has begun a call.
    pub(crate) fn await_begin(&self, call: u64) {
        let deadline = Instant::now() + PATIENCE;
        while !self.page.has_begun(call) {
            assert!(Instant::now() < deadline, "call {call} did not begin");
            std::thread::yield_now();
        }
    }

    /// Asks for a path and returns the inline answer as text.
    pub(crate) fn get(&mut self, path: &str) -> String {
        self.begin(path, b"");
        self.text()
    }

    /// The inline answer of the running call, as text.
    pub(crate) fn text(&mut self) -> String {
        let (reply, body) = self.reply();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body).unwrap()
    }

    /// The inline answer of the running call.
    pub(crate) fn reply(&mut self) -> (InvocationReply, Vec<u8>) {
        let message = self.receive_past_credit();
        if message.header.kind == Kind::Error {
            panic!("{:?}", message.decode_body::<WireError>());
        }
        assert_eq!(
            (message.header.kind, message.header.flags),
            (Kind::Reply, Flags::NONE)
        );
        let reply: InvocationReply = message.decode_body().unwrap();
        assert_eq!(reply.payload_len, Some(message.raw.len() as u64));
        (reply, message.raw.to_vec())
    }

    /// The error answer of the running call.
    pub(crate) fn error(&mut self) -> WireError {
        let message = self.receive_past_credit();
        assert_eq!(message.header.kind, Kind::Error);
        message.decode_body().unwrap()
    }

    /// The next message, a log line.
    pub(crate) fn log_line(&mut self) -> LogLine {
        let message = self.receive();
        assert_eq!(message.header.kind, Kind::Event);
        message.decode_body().unwrap()
    }

    pub(crate) fn credit(&mut self, header: Header, bytes: u32) {
        self.send(&Message::with_body(
            Header {
                kind: Kind::Credit,
                ..header
            },
            &StreamCredit { bytes },
        ));
    }

    pub(crate) fn drain(&mut self) {
        seqpacket::send(self.control.as_fd(), &encode(&Control::Drain), &[]).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process; returns what it wrote to stderr, too.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let mut stderr = String::new();
        // Ends with the process, which is bounded by what the caller has made it do.
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, stderr);
            }
            assert!(Instant::now() < deadline, "the executor did not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
