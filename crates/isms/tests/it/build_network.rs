//! The network of builds: a server on this machine hears of a build where the manifest asks for the network and the
//! administrator permits it, and of no other.

use std::{
    fs::{self, Permissions},
    io::{ErrorKind, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use crate::{
    harness::{Platform, SOON, binaries, repository},
    project::Project,
};

/// A program in the builder's place. It tries to reach the server, as a tool of a build would, and then becomes the
/// builder, which it holds.
const TALKATIVE_BUILDER: &str = r#"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
__asm__(".section .rodata\n.global first\nfirst:\n.incbin \"" BUILDER "\"\n.global behind\nbehind:\n.text\n");
extern const char first[], behind[];
int main(int count, char **words) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int end = socket(AF_INET, SOCK_STREAM, 0);
    if (end >= 0) {
        if (!connect(end, (const struct sockaddr *)&server, sizeof server) && write(end, "a build", 7) != 7) return 8;
        close(end);
    }
    int file = open("/tmp/builder", O_CREAT | O_WRONLY, 0700);
    for (const char *at = first; at < behind;) {
        ssize_t len = write(file, at, (size_t)(behind - at));
        if (len <= 0) return 9;
        at += len;
    }
    close(file);
    (void)count;
    execv("/tmp/builder", words);
    return 10;
}
"#;

/// The platform's programs with the talkative builder.
fn programs(built: &Path, port: u16) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["isms", "doee-executor"] {
        fs::copy(built.join(name), folder.path().join(name)).unwrap();
    }
    let source = folder.path().join("builder.c");
    fs::write(&source, TALKATIVE_BUILDER).unwrap();
    let builder = repository().join(built).join("doee-builder");
    let compiled = Command::new("cc")
        .arg(format!("-DPORT={port}"))
        .arg(format!("-DBUILDER=\"{}\"", builder.display()))
        .arg("-o")
        .args([&folder.path().join("doee-builder"), &source])
        .status();
    assert!(compiled.unwrap().success());
    folder
}

/// What was said to a server since the last time.
fn heard(server: &TcpListener) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let mut stream = match server.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return heard,
            Err(error) => panic!("{error}"),
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        heard.push(said);
    }
}

fn project(name: &str, build: &str) -> Project {
    Project::c_with(name, build, "return say(call, \"built\");")
}

#[test]
fn a_build_reaches_a_server_where_its_project_asks_and_the_administrator_permits_it() {
    let Some(built) = binaries() else { return };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let programs = programs(&built, server.local_addr().unwrap().port());
    let platform = Platform::start_from(programs.path(), &["[build]", "network = true"]);
    platform.deploy(project("outgoing", "[build]\nnetwork = true").path());
    assert_eq!(platform.get("/outgoing/").text(), "built");
    assert_eq!(heard(&server), ["a build"]);
    platform.deploy(project("quiet", "").path());
    assert_eq!(platform.get("/quiet/").text(), "built");
    assert!(heard(&server).is_empty(), "its manifest asks for no network");
    drop(platform);
    let platform = Platform::start_from(programs.path(), &[]);
    let asking = project("outgoing", "[build]\nnetwork = true");
    let output = platform.isms(&["deploy", asking.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("[build] network = true"), "{said}");
    platform.deploy(project("quiet", "").path());
    assert_eq!(platform.get("/quiet/").text(), "built");
    assert!(heard(&server).is_empty(), "the administrator does not permit it");
}
