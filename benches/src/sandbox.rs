//! Probes of the sandbox: this program plays supervisor and Doer to a real spawner and real executors.
//!
//! `fork_exec_p50` starts the executor without isolation and ends with its first report; `cold_native_p50`
//! is the same through the spawner with all layers; `pool_first_reply_p50` begins with the assignment of an
//! empty, locked-down worker and ends with the Doee's first reply.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use isms_ipc::{Side, blocking::Connection};
use isms_protocol::{
    DoeeVersion, Header, Kind, Message, ProcessId, Service,
    doer::{Invocation, Operation},
    worker::{Assignment, Control, Report, STATUS_WORDS, StatusPage},
};
use isms_sandbox::{
    linux::{
        descriptor,
        launch::{Launch, arrange},
        memfd, seqpacket,
        shared_words::SharedWords,
    },
    native::Limits,
    spawner::{Environment, Event, FromSpawner, Request, SpawnerConfig, ToSpawner, UidRange},
};

use crate::report_us;

const DATAGRAM_LEN_MAX: usize = 60 * 1024;
const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    cpu_permille: 1000,
    pids: 64,
};
/// First uid of the probes' workers, beside that of a platform with default settings.
const UIDS: UidRange = UidRange {
    first: 1_913_000_000,
    count: 64,
};

pub(crate) fn measure(binaries: &Path, doee: &Path, count: usize) -> Result<()> {
    let mut samples = (0..count)
        .map(|_| fork_exec(binaries))
        .collect::<Result<Vec<_>>>()?;
    report_us("fork_exec_p50", &mut samples);
    let mut spawner = Spawner::start(binaries)?;
    let (mut cold, mut pooled) = (Vec::new(), Vec::new());
    for worker in 1..=count as u64 {
        let (started, sandbox) = spawner.cold(worker)?;
        cold.push(started);
        pooled.push(sandbox.first_reply(doee)?);
        spawner.kill(worker)?;
    }
    report_us("cold_native_p50", &mut cold);
    report_us("pool_first_reply_p50", &mut pooled);
    Ok(())
}

/// The executor as a plain child, until it reports that it is empty.
fn fork_exec(binaries: &Path) -> Result<Duration> {
    let (control, childs_control) = seqpacket::pair()?;
    let (_data, childs_data) = descriptor::stream_pair()?;
    let mut command = Command::new(binaries.join("doee-executor"));
    command.stdin(Stdio::null()).env_clear();
    let descriptors = vec![childs_control, childs_data];
    arrange(
        &mut command,
        Launch {
            descriptors,
            ..Launch::default()
        },
    )?;
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start the executor")?;
    expect_report(&control, |report| matches!(report, Report::Empty { .. }))?;
    let elapsed = started.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(elapsed)
}

/// Receives reports until the wanted one comes.
fn expect_report(control: &OwnedFd, wanted: impl Fn(&Report) -> bool) -> Result<()> {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    let received = seqpacket::receive(control.as_fd(), &mut buffer)?;
    ensure!(received.len > 0, "the executor has ended");
    let report: Report = isms_protocol::decode(&buffer[..received.len])?;
    ensure!(wanted(&report), "the executor reported {report:?}");
    Ok(())
}

/// A spawner of our own.
struct Spawner {
    process: Child,
    channel: OwnedFd,
    doer: OwnedFd,
    folder: std::path::PathBuf,
}

impl Spawner {
    fn start(binaries: &Path) -> Result<Spawner> {
        let folder = std::env::temp_dir().join(format!("isms-bench-{}", std::process::id()));
        let include = folder.join("sdk/include");
        std::fs::create_dir_all(&include)?;
        let (channel, theirs) = seqpacket::pair()?;
        let mut command = Command::new(binaries.join("isms"));
        command.arg("spawner").stdin(Stdio::null());
        arrange(
            &mut command,
            Launch {
                descriptors: vec![theirs],
                die_with_parent: true,
                ..Launch::default()
            },
        )?;
        let process = command.spawn().context("cannot start the spawner")?;
        let config = SpawnerConfig {
            data_directory: folder.clone(),
            run_directory: folder.clone(),
            socket_directory: folder.clone(),
            executor: binaries.join("doee-executor"),
            builder: binaries.join("doee-builder"),
            sdk_include: include,
            uids: UIDS,
            workers_max: 8,
            worker_maxima: LIMITS,
            builder_maxima: LIMITS,
            images: folder.join("images"),
            image_len_max: 0,
            device_nodes: Vec::new(),
            directories: Vec::new(),
            builder_network: false,
            required_layers: Vec::new(),
        };
        seqpacket::send(channel.as_fd(), &isms_protocol::encode(&config), &[])?;
        let mut byte = [0];
        while FromSpawner::decode(&byte) != Ok(FromSpawner::Ready) {
            ensure!(
                seqpacket::receive(channel.as_fd(), &mut byte)?.len > 0,
                "the spawner has ended"
            );
        }
        let (doer, spawners) = seqpacket::pair()?;
        seqpacket::send(channel.as_fd(), &ToSpawner::Doer.encode(), &[spawners.as_fd()])?;
        let mut spawner = Spawner {
            process,
            channel,
            doer,
            folder,
        };
        match spawner.event()? {
            (Event::Layers { sufficient: true, .. }, _) => Ok(spawner),
            (event, _) => bail!("isolation is not sufficient here: {event:?}"),
        }
    }

    fn event(&mut self) -> Result<(Event, Vec<OwnedFd>)> {
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        let received = seqpacket::receive(self.doer.as_fd(), &mut buffer)?;
        ensure!(received.len > 0, "the spawner has ended");
        Ok((Event::decode(&buffer[..received.len])?, received.descriptors))
    }

    /// Starts a worker; the time until it reports that it is empty.
    fn cold(&mut self, worker: u64) -> Result<(Duration, Worker)> {
        let started = Instant::now();
        let request = Request::Spawn {
            worker,
            environment: Environment::WORKER,
            limits: LIMITS,
        };
        seqpacket::send(self.doer.as_fd(), &request.encode(), &[])?;
        let (event, descriptors) = self.event()?;
        let Ok([control, data, output]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            bail!("no worker was started: {event:?}");
        };
        expect_report(&control, |report| matches!(report, Report::Empty { .. }))?;
        Ok((
            started.elapsed(),
            Worker {
                control,
                data,
                _output: output,
            },
        ))
    }

    fn kill(&mut self, worker: u64) -> Result<()> {
        seqpacket::send(self.doer.as_fd(), &Request::Kill { worker }.encode(), &[])?;
        match self.event()? {
            (Event::Exited { .. }, _) => Ok(()),
            (event, _) => bail!("a killed worker did not exit: {event:?}"),
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let _ = seqpacket::send(self.channel.as_fd(), &ToSpawner::Stop.encode(), &[]);
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An empty worker.
struct Worker {
    control: OwnedFd,
    data: OwnedFd,
    _output: OwnedFd,
}

impl Worker {
    /// Makes it a worker of the Doee and calls it once.
    fn first_reply(self, doee: &Path) -> Result<Duration> {
        let bytes = std::fs::read(doee).with_context(|| format!("cannot read {}", doee.display()))?;
        let binary = memfd::create_sealed(c"doee", &bytes)?;
        let (words, page_memory) = SharedWords::create(c"status-page", STATUS_WORDS)?;
        let page = StatusPage::new(words).context("the status page is too short")?;
        let assignment = Control::Assign(Assignment {
            project: "bench".to_owned(),
            doee: "bench".to_owned(),
            version: DoeeVersion::generate(),
            params: Vec::new(),
        });
        let started = Instant::now();
        seqpacket::send(
            self.control.as_fd(),
            &isms_protocol::encode(&assignment),
            &[binary.as_fd(), page_memory.as_fd()],
        )?;
        let mut data = Connection::establish(UnixStream::from(self.data), Side::Bind)?;
        expect_report(&self.control, |report| *report == Report::Initialized)?;
        let mut header = Header::new(Kind::Request, Service::Doer, Service::Worker);
        (header.operation, header.call, header.process) =
            (Operation::Invoke as u16, 1, ProcessId::generate());
        (header.attempt, header.remaining_us) = (1, 1_000_000);
        page.queue(header.call);
        data.send(&Message::with_body(
            header,
            &Invocation {
                method: "GET".into(),
                path: "/".into(),
                ..Invocation::default()
            },
        ))?;
        loop {
            let message = data
                .receive(Some(Duration::from_secs(5)))?
                .context("the worker does not answer")?;
            match message.header.kind {
                Kind::Reply => return Ok(started.elapsed()),
                Kind::Event => {}
                kind => bail!("the worker answered with {kind:?}"),
            }
        }
    }
}
