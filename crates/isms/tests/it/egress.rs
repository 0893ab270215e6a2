//! Doees that ask servers outside, on a running platform.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use crate::{
    harness::{Platform, SOON},
    project::Project,
};

/// A server of the test; dropped, it ends.
pub(crate) struct Outside {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Serves one connection after the other.
    pub(crate) fn start(serve: impl Fn(&mut TcpStream) + Send + 'static) -> Outside {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let (counted, ended) = (connections.clone(), stopped.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                serve(&mut stream);
            }
        });
        Outside {
            address,
            connections,
            stopped,
            thread: Some(thread),
        }
    }

    /// Answers with what it was sent: the request line, then the body.
    pub(crate) fn echo() -> Outside {
        Outside::start(|stream| {
            let (head, body) = read_request(stream);
            let line = head.lines().next().unwrap_or_default();
            let len = line.len() + 1 + body.len();
            // The client may have been stopped.
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{line}\n")
                .and_then(|()| stream.write_all(&body));
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let (mut read, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    let mut end = None;
    loop {
        end = end.or_else(|| read.windows(4).position(|four| four == b"\r\n\r\n"));
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let len = len.map_or(0, |len| len.parse().unwrap());
            if read.len() >= end + 4 + len {
                return (head, read.split_off(end + 4));
            }
        }
        match stream.read(&mut piece) {
            Ok(len) if len > 0 => read.extend_from_slice(&piece[..len]),
            _ => return (String::new(), Vec::new()),
        }
    }
}

/// A Doee in C++ that asks for the URL in its query with the body that it gets, and tells what came of it.
fn asker(name: &str, granted: &[SocketAddr], keys: &str) -> Project {
    let granted: Vec<_> = granted.iter().map(SocketAddr::to_string).collect();
    let manifest = format!(
        "[project]\nname = \"{name}\"\n\n[doee.main]\nlanguage = \"cpp\"\nsource = \"doees/main\"\n{keys}\n\
         allow = {{ http = {granted:?} }}\n\n\
         [[trigger]]\nhttp = \"POST /\"\nauth = \"none\"\ndoee = \"main\"\n"
    );
    let source = r#"#include <isms/http.hpp>
ISMS_DOEE(Main) {
    void initialize(isms::Context &) override {}
    isms::Response execute(isms::Request &request) override {
        isms::HttpRequest asked("POST", request.query_parameter("url").value());
        asked.body(std::string(request.body(64 * 1024 * 1024)));
        try {
            isms::HttpAnswer answer = isms::fetch(request, asked);
            return isms::Response::text(std::to_string(answer.status()) + " " + answer.body(64 * 1024 * 1024));
        } catch (const isms::Error &error) {
            return isms::Response::text(std::to_string(error.code) + "! " + error.what());
        }
    }
    void terminate() override {}
};
"#;
    Project::new(&manifest).file("doees/main/main.cpp", source)
}

fn ask(platform: &Platform, project: &str, server: SocketAddr, body: &str) -> String {
    let path = format!("/{project}/?url=http://{server}/x");
    platform.request("POST", &path, body).text()
}

#[test]
fn a_doee_reaches_what_was_granted_and_permitted_and_no_other_server() {
    let (server, ungranted, unpermitted) = (Outside::echo(), Outside::echo(), Outside::echo());
    let permitted = [server.address.to_string(), ungranted.address.to_string()];
    let settings = format!("[egress]\nallow = {permitted:?}");
    let Some(platform) = Platform::start_with(&[&settings]) else {
        return;
    };
    let granted = [server.address, unpermitted.address, platform.gate, platform.http];
    platform.deploy(asker("asker", &granted, "memory_mb = 192").path());
    platform.deploy(asker("other", &[], "").path());

    assert_eq!(
        ask(&platform, "asker", server.address, "hello"),
        "200 POST /x HTTP/1.1\nhello"
    );
    let large = "0123456789abcdef".repeat(1024 * 1024);
    let answer = ask(&platform, "asker", server.address, &large[32..]);
    assert!(
        answer.ends_with(&large[32..]),
        "{} bytes of {}",
        answer.len(),
        large.len()
    );

    let not_granted = format!(
        "4! the function was not granted {}; add it to allow.http",
        ungranted.address
    );
    assert_eq!(ask(&platform, "asker", ungranted.address, ""), not_granted);
    let not_granted = format!(
        "4! the function was not granted {}; add it to allow.http",
        server.address
    );
    assert_eq!(ask(&platform, "other", server.address, ""), not_granted);
    for inside in [unpermitted.address, platform.gate, platform.http] {
        let expected = format!(
            "4! {inside} is at 127.0.0.1, which is loopback; an administrator permits such addresses in [egress] allow"
        );
        assert_eq!(ask(&platform, "asker", inside, ""), expected);
    }
    assert_eq!(
        (
            server.connections(),
            ungranted.connections(),
            unpermitted.connections()
        ),
        (2, 0, 0)
    );
}

#[test]
fn a_request_ends_with_the_call_that_asked_for_it() {
    let (news, heard) = mpsc::channel();
    let server = Outside::start(move |stream| {
        read_request(stream);
        let _ = news.send("asked");
        // Until the other side closes.
        if matches!(stream.read(&mut [0]), Ok(0) | Err(_)) {
            let _ = news.send("closed");
        }
    });
    let settings = format!("egress = {{ allow = [\"{}\"] }}", server.address);
    let Some(platform) = Platform::start_with(&[&settings]) else {
        return;
    };
    platform.deploy(asker("asker", &[server.address], "timeout_ms = 1500").path());
    let path = format!("/asker/?url=http://{}/x", server.address);
    assert_eq!(platform.request("POST", &path, "").status, 504);
    assert_eq!(heard.recv_timeout(SOON), Ok("asked"));
    assert_eq!(heard.recv_timeout(SOON), Ok("closed"));
}

#[test]
fn a_server_that_is_no_server_fails_the_deployment_with_its_line() {
    let Some(platform) = Platform::start() else { return };
    let project = Project::c_with(
        "asker",
        "allow = { http = [\"*.example.com:443\"] }",
        "return ISMS_OK;",
    );
    let output = platform.isms(&["deploy", project.path().to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("project.toml:7: doee.main.allow.http[1]: \"*.example.com:443\""),
        "{error}"
    );
}
