//! The builder: one Doee's sources in, one shared object out.
//!
//! Runs inside a builder sandbox, answers one request on the data channel and ends. A build that fails
//! is a reply like any other, with the compiler's words. Sources are hostile, and so is what they make
//! the compiler do: time, output and the artifact are bounded here, memory and files by the sandbox.

mod compiler;
mod source;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use isms_ipc::blocking::Connection;
use isms_ipc::{ConnectionError, Side};
use isms_protocol::doer::{Build, BuildReply, Operation};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::ARTIFACT_LEN_MAX;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, WireError, decode};

use crate::limits::BUILD_TIMEOUT;
use crate::stream::{Collector, Outflow, StreamViolation};

/// Where the builder works; fixed in the sandbox, another folder in tests.
#[derive(Clone, Debug)]
pub struct Places {
    /// A folder of its own: `src` is made below it, and the artifact.
    pub work: PathBuf,
    /// The headers of the SDK.
    pub sdk_include: PathBuf,
    /// Folder of `gcc` and `g++`.
    pub compilers: PathBuf,
    /// Time for the compiler.
    pub timeout: Duration,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            work: PathBuf::from("/tmp"),
            sdk_include: PathBuf::from("/sdk/include"),
            compilers: PathBuf::from("/usr/bin"),
            timeout: BUILD_TIMEOUT,
        }
    }
}

/// Why the builder could not do its work, be it that sources build or not.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data channel broke.
    #[error("the data channel broke")]
    Channel(#[from] ConnectionError),
    /// The other side closed it.
    #[error("the Doer closed the data channel")]
    Closed,
    /// The other side broke the rules.
    #[error("the Doer broke the protocol: {0}")]
    Protocol(String),
}

impl From<StreamViolation> for BuildError {
    fn from(violation: StreamViolation) -> BuildError {
        BuildError::Protocol(violation.to_string())
    }
}

/// Answers one build request.
pub fn serve(data: OwnedFd, places: &Places) -> Result<(), BuildError> {
    let connection = Connection::establish(UnixStream::from(data), Side::Connect)?;
    let mut channel = Channel { connection };
    let request = loop {
        let message = channel.receive()?;
        if message.header.kind == Kind::Request {
            break message;
        }
    };
    let header = request.header;
    let built = channel
        .sources(request)?
        .and_then(|(build, sources)| run(&build, &sources, places));
    match built {
        Ok((reply, artifact)) => channel.reply(&header, &reply, artifact),
        Err(error) => channel.send(&Message::error_answer(&header, &error)),
    }
}

/// Writes the sources and compiles them.
fn run(build: &Build, sources: &Bytes, places: &Places) -> Result<(BuildReply, Bytes), WireError> {
    let files: source::Files =
        decode(sources).map_err(|_| WireError::new(ErrorCode::Invalid, "the source tree cannot be read"))?;
    let started = Instant::now();
    let top = places.work.join("src");
    let folder = source::folder(&build.folder);
    source::write(&top, folder, &files)?;
    let names = source::compiled(&files, build.language);
    if names.is_empty() {
        let log = format!("the folder of {} has no file to compile", build.doee);
        return Ok((
            BuildReply {
                built: false,
                log,
                duration_ms: 0,
            },
            Bytes::new(),
        ));
    }
    let internal = |source: io::Error| {
        WireError::new(
            ErrorCode::Internal,
            format!("the compiler cannot be run: {source}"),
        )
    };
    let outcome = compiler::compile(build.language, &top, folder, &names, places).map_err(internal)?;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let reply = BuildReply {
        built: outcome.artifact.is_some(),
        log: outcome.log,
        duration_ms,
    };
    Ok((reply, outcome.artifact.unwrap_or_default()))
}

/// For fuzz/: reads a source tree and writes it below a folder that does not exist yet; true when it was accepted.
#[cfg(feature = "fuzzing")]
pub fn write_sources(sources: &[u8], folder: &std::path::Path) -> bool {
    decode::<source::Files>(sources).is_ok_and(|files| source::write(folder, &files).is_ok())
}

/// The data channel, as the builder uses it.
struct Channel {
    connection: Connection,
}

type Asked = Result<(Build, Bytes), WireError>;

impl Channel {
    fn receive(&mut self) -> Result<Message, BuildError> {
        self.connection.receive(None)?.ok_or(BuildError::Closed)
    }

    fn send(&mut self, message: &Message) -> Result<(), BuildError> {
        Ok(self.connection.send(message)?)
    }

    /// What is asked for, with the whole source tree.
    fn sources(&mut self, request: Message) -> Result<Asked, BuildError> {
        let header = request.header;
        let build: Option<Build> = request.decode_body().ok();
        let sources = if header.flags.contains(Flags::STREAM) {
            self.collect(&header)?
        } else {
            Some(request.raw)
        };
        let is_build = Operation::from_u16(header.operation) == Some(Operation::Build);
        Ok(match (build.filter(|_| is_build), sources) {
            (Some(build), Some(sources)) => Ok((build, sources)),
            (None, _) => Err(WireError::new(
                ErrorCode::Invalid,
                "a builder builds, nothing else",
            )),
            (_, None) => Err(WireError::new(
                ErrorCode::TooLarge,
                format!("a Doee's sources have at most {} MiB", ARTIFACT_LEN_MAX >> 20),
            )),
        })
    }

    /// Collects the request's stream; `None` when it is too long.
    fn collect(&mut self, header: &Header) -> Result<Option<Bytes>, BuildError> {
        let mut collector = Collector::new(usize::try_from(ARTIFACT_LEN_MAX).unwrap_or(usize::MAX));
        loop {
            if let Some(bytes) = collector.refill() {
                let credit = Header {
                    flags: Flags::TO_CALLER,
                    ..header.answer(Kind::Credit)
                };
                self.send(&Message::with_body(credit, &StreamCredit { bytes }))?;
            }
            let message = self.receive()?;
            match message.header.kind {
                _ if message.header.call != header.call => {}
                Kind::StreamChunk => collector.push(&message.raw)?,
                Kind::StreamEnd if message.header.flags.contains(Flags::ABORTED) => {
                    return Err(BuildError::Protocol("the source tree broke off".to_owned()));
                }
                Kind::StreamEnd => return Ok(collector.finish()),
                Kind::Cancel => return Err(BuildError::Protocol("the build was cancelled".to_owned())),
                _ => {}
            }
        }
    }

    /// Replies, with the artifact as a stream when there is one.
    fn reply(&mut self, header: &Header, reply: &BuildReply, artifact: Bytes) -> Result<(), BuildError> {
        if !reply.built {
            return self.send(&Message::with_body(header.answer(Kind::Reply), reply));
        }
        let flagged = |kind, flags| Header {
            flags,
            ..header.answer(kind)
        };
        self.send(&Message::with_body(flagged(Kind::Reply, Flags::STREAM), reply))?;
        let mut outflow = Outflow::new(BytesMut::from(artifact));
        while !outflow.is_empty() {
            while let Some(chunk) = outflow.next() {
                self.send(&Message::bare(flagged(Kind::StreamChunk, Flags::TO_CALLER)).with_raw(chunk))?;
            }
            if outflow.is_empty() {
                break;
            }
            let message = self.receive()?;
            if message.header.kind == Kind::Credit && message.header.call == header.call {
                let credit: StreamCredit = message
                    .decode_body()
                    .map_err(|_| BuildError::Protocol("credit cannot be read".to_owned()))?;
                outflow.allow(credit.bytes);
            }
        }
        self.send(&Message::bare(flagged(Kind::StreamEnd, Flags::TO_CALLER)))
    }
}
