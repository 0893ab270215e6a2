//! The builder, with a real compiler, and the test as the Doer.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use isms_executor::builder::{BuildError, Places, serve};
use isms_ipc::Side;
use isms_ipc::blocking::Connection;
use isms_protocol::doer::{Build, BuildReply, Language, Operation};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::CHUNK_LEN_MAX;
use isms_protocol::worker::Report;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, WireError, encode};
use isms_sandbox::linux::descriptor;

use crate::worker::{PATIENCE, Worker, sdk};

const C_DOEE: &str = include_str!("doees/kitchen.c");

/// What a build came to.
#[derive(Debug)]
enum Built {
    Reply(BuildReply, Vec<u8>),
    Error(WireError),
}

impl Built {
    fn log(self) -> String {
        match self {
            Built::Reply(
                BuildReply {
                    built: false, log, ..
                },
                _,
            ) => log,
            other => panic!("{other:?}"),
        }
    }

    fn binary(self) -> Vec<u8> {
        match self {
            Built::Reply(BuildReply { built: true, .. }, binary) => binary,
            other => panic!("{other:?}"),
        }
    }

    fn error(self) -> WireError {
        match self {
            Built::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

/// Both halves of the SDK in one folder, as the builder's root has them.
fn include_folder(folder: &Path) {
    fs::create_dir_all(folder.join("isms")).unwrap();
    for name in ["isms_doee.h", "isms_doee_http.h"] {
        fs::copy(sdk("c/include").join(name), folder.join(name)).unwrap();
    }
    for name in ["doee.hpp", "http.hpp", "json.hpp"] {
        fs::copy(sdk("cpp/include/isms").join(name), folder.join("isms").join(name)).unwrap();
    }
}

fn build(language: Language, files: &[(&str, &str)]) -> Built {
    build_in("", language, files)
}

fn build_in(folder: &str, language: Language, files: &[(&str, &str)]) -> Built {
    build_within(Duration::from_secs(60), folder, language, files)
}

fn build_within(timeout: Duration, source: &str, language: Language, files: &[(&str, &str)]) -> Built {
    let folder = tempfile::tempdir().unwrap();
    include_folder(&folder.path().join("include"));
    let places = Places {
        work: folder.path().to_owned(),
        sdk_include: folder.path().join("include"),
        compilers: "/usr/bin".into(),
        timeout,
    };
    let (data, inner) = descriptor::stream_pair().unwrap();
    let builder = thread::spawn(move || serve(inner, &places));
    let built = ask(UnixStream::from(data), source, language, files);
    let _: Result<(), BuildError> = builder.join().unwrap();
    built
}

fn ask(stream: UnixStream, folder: &str, language: Language, files: &[(&str, &str)]) -> Built {
    let mut connection = Connection::establish(stream, Side::Bind).unwrap();
    let header = Header {
        operation: Operation::Build as u16,
        call: 5,
        flags: Flags::STREAM,
        ..Header::new(Kind::Request, Service::Resadmin, Service::Doer)
    };
    connection
        .send(&Message::with_body(
            header,
            &Build {
                doee: "doee".into(),
                language,
                folder: folder.into(),
                network: false,
            },
        ))
        .unwrap();
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (path, serde_bytes::Bytes::new(text.as_bytes())))
        .collect();
    let sources = encode(&files);
    let piece = Header {
        kind: Kind::StreamChunk,
        flags: Flags::NONE,
        ..header
    };
    let mut sent = 0;
    let (mut reply, mut binary) = (None, Vec::new());
    loop {
        let message = connection
            .receive(Some(PATIENCE * 4))
            .unwrap()
            .expect("an answer in time");
        match message.header.kind {
            Kind::Credit => {
                let credit = message.decode_body::<StreamCredit>().unwrap().bytes as usize;
                let end = sources.len().min(sent + credit);
                if sent == end {
                    continue;
                }
                for chunk in sources[sent..end].chunks(CHUNK_LEN_MAX) {
                    connection
                        .send(&Message::bare(piece).with_raw(chunk.to_vec()))
                        .unwrap();
                }
                sent = end;
                if sent == sources.len() {
                    connection
                        .send(&Message::bare(Header {
                            kind: Kind::StreamEnd,
                            ..piece
                        }))
                        .unwrap();
                }
            }
            Kind::Error => return Built::Error(message.decode_body().unwrap()),
            Kind::Reply if message.header.flags == Flags::NONE => {
                return Built::Reply(message.decode_body().unwrap(), Vec::new());
            }
            Kind::Reply => {
                reply = Some(message.decode_body().unwrap());
                let credit = Header {
                    kind: Kind::Credit,
                    flags: Flags::NONE,
                    ..header
                };
                connection
                    .send(&Message::with_body(credit, &StreamCredit { bytes: u32::MAX }))
                    .unwrap();
            }
            Kind::StreamChunk => binary.extend_from_slice(&message.raw),
            Kind::StreamEnd => return Built::Reply(reply.unwrap(), binary),
            kind => panic!("{kind:?}"),
        }
    }
}

#[test]
fn a_c_doee_is_built_and_runs() {
    let binary = build(Language::C, &[("kitchen.c", C_DOEE)]).binary();
    assert_eq!(Worker::start(&binary).get("/hello"), "hello");
}

#[test]
fn a_cpp_doee_of_several_files_is_built_without_warnings_and_runs() {
    let files = [
        (
            "hello.cpp",
            "#include <isms/doee.hpp>\n#include \"parts/part.hpp\"\nISMS_DOEE(Hello) {\n\
            void initialize(isms::Context &) override {}\n\
            isms::Response execute(isms::Request &) override { return isms::Response::text(part()); }\n\
            void terminate() override {}\n};\n",
        ),
        (
            "parts/part.cpp",
            "#include \"part.hpp\"\nstd::string part() { return \"from a part\"; }\n",
        ),
        (
            "parts/part.hpp",
            "#pragma once\n#include <string>\nstd::string part();\n",
        ),
    ];
    let Built::Reply(reply, binary) = build(Language::Cpp, &files) else {
        panic!("no reply")
    };
    assert_eq!((reply.built, &*reply.log), (true, ""));
    assert!(binary.len() < 2 * 1024 * 1024, "{} bytes", binary.len());
    let needed = String::from_utf8_lossy(&binary).contains("libstdc++.so");
    assert!(!needed, "the C++ library is linked in");
    let mut worker = Worker::start(&binary);
    assert_eq!(worker.get("/"), "from a part");
    worker.drain();
    assert_eq!(worker.report(), Report::Terminated);
}

#[test]
fn errors_name_file_and_line_as_the_project_does() {
    let files = [
        ("sub/bad.c", "#include <worse.h>\nint f(void) { return y; }\n"),
        ("worse.h", "\nint z = w;\n"),
    ];
    // Where the folder's name is missing or no plain path, the tree's own paths must do.
    for (folder, below) in [("doees/echo", "doees/echo/"), ("", ""), ("../x", ""), ("-o", "")] {
        let log = build_in(folder, Language::C, &files).log();
        for named in ["sub/bad.c:2:", "worse.h:2:"] {
            let named = format!("{below}{named}");
            assert!(
                log.lines().any(|line| line.starts_with(&named)),
                "{folder}: {log}"
            );
        }
        assert!(!log.contains("/src/") && !log.contains("/tmp"), "{log}");
    }
}

#[test]
fn where_a_source_lies_in_its_project_does_not_change_what_is_built() {
    let source = C_DOEE.replace(
        "static isms_call",
        "const char *file = __FILE__;\nstatic isms_call",
    );
    let files = [("kitchen.c", source.as_str())];
    let here = build_in("doees/echo", Language::C, &files).binary();
    assert_eq!(here, build(Language::C, &files).binary());
}

#[test]
fn a_forgotten_entry_point_an_unknown_function_and_a_missing_return_are_found_by_the_build() {
    let log = build(Language::C, &[("empty.c", "int x;\n")]).log();
    assert!(log.contains("isms_doee_v1"), "{log}");
    let unknown = C_DOEE
        .replace("earlier_call = call,", "nowhere(),")
        .replace("static isms_call", "void nowhere(void); static isms_call");
    let log = build(Language::C, &[("kitchen.c", &unknown)]).log();
    assert!(log.contains("nowhere"), "{log}");
    let log = build(Language::Cpp, &[("a.cpp", "int f() { }\n")]).log();
    assert!(log.contains("a.cpp:1:") && log.contains("return"), "{log}");
}

#[test]
fn a_folder_without_sources_is_a_failed_build() {
    let log = build(Language::Cpp, &[("README.md", "nothing")]).log();
    assert_eq!(log, "the folder of doee has no file to compile");
}

#[test]
fn hostile_paths_are_refused() {
    for path in ["../escape.c", "/etc/escape.c", "a/../../escape.c", "-o", ""] {
        let error = build(Language::C, &[(path, "")]).error();
        assert_eq!(error.code, ErrorCode::Invalid, "{path}");
    }
    assert_eq!(
        build(Language::C, &[("a.c", ""), ("a.c", "")]).error().code,
        ErrorCode::Invalid
    );
    assert_eq!(
        build(Language::C, &[("a", ""), ("a/b.c", "")]).error().code,
        ErrorCode::Invalid
    );
    let names: Vec<_> = (0..2001).map(|number| format!("{number}.h")).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, "")).collect();
    assert_eq!(build(Language::C, &files).error().code, ErrorCode::TooLarge);
}

#[test]
fn a_flood_of_messages_is_cut() {
    let flood: String = (0..2000)
        .map(|line| format!("#warning a warning that says something {line}\n"))
        .collect();
    let log = build(Language::C, &[("flood.c", &flood)]).log();
    assert!(
        log.len() < 33 * 1024 && log.ends_with("which is cut here\n"),
        "{}",
        log.len()
    );
}

#[test]
fn a_build_that_does_not_end_is_stopped() {
    // An include of itself up to the compiler's depth limit, twice at each level.
    let source = "#include \"slow.c\"\n#include \"slow.c\"\n";
    let log = build_within(Duration::from_millis(300), "", Language::C, &[("slow.c", source)]).log();
    assert!(log.contains("was stopped"), "{log}");
}

/// A C source that is nothing but assembler: what the compiler makes of a Doee for link-time optimisation, with an
/// option added that names a file for the assembler to write.
fn link_time_object_that_writes(file: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, assembler) = (folder.path().join("doee.c"), folder.path().join("doee.s"));
    fs::write(&source, "int isms_doee_v1(void) { return 1; }\n").unwrap();
    let compiler = Command::new("gcc")
        .args(["-flto", "-O2", "-fPIC", "-S", "-o"])
        .args([&assembler, &source])
        .status();
    assert!(compiler.unwrap().success());
    let option = format!("'-Xassembler' '-a={}' '-flto'", file.display());
    let assembler = fs::read_to_string(assembler).unwrap();
    assert!(assembler.contains("'-flto'"), "the options are in the object");
    let lines = assembler
        .replace("'-flto'", &option)
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    let lines: String = lines.lines().map(|line| format!("\"{line}\\n\"\n")).collect();
    format!("__asm__({lines});\n")
}

#[test]
fn a_source_does_not_choose_options_by_an_object_for_link_time_optimisation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("escaped");
    let source = link_time_object_that_writes(&file);
    let log = build(Language::C, &[("doee.c", &source)]).log();
    assert!(log.contains("lto"), "{log}");
    assert!(!file.exists(), "the assembler wrote where the source said");
}

#[test]
fn a_precompiled_header_is_refused() {
    for path in ["main.h.gch", "main.h.gch/any"] {
        let error = build(
            Language::C,
            &[("main.c", "#include \"main.h\"\n"), (path, "gpch.013")],
        )
        .error();
        assert_eq!(error.code, ErrorCode::Invalid, "{path}");
    }
}
