//! One worker's channels: control, data, and the pipe of its output.
//!
//! Whatever comes over them is hostile. What breaks the contract becomes `Event::Misbehaved`, and the
//! worker is cut off.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use isms_ipc::{ConnectionError, Inbound, Inbox, Link, Side};
use isms_protocol::{
    Header, Message, ProcessId, Service,
    worker::{Assignment, Control, LogLevel, LogLine, STATUS_SLOTS, STATUS_WORDS, StatusPage, share_a_slot},
};
use isms_sandbox::linux::{channel::Channel, shared_words::SharedWords};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::Notify, task::spawn_local};

use crate::{
    binaries::LoadedDoee,
    doer_admin::TaskId,
    heard, host_call,
    logs::{Admission, LogBudget, cut_line},
    service::Doer,
    worker::WorkerId,
    worker_handler::Event,
};

/// Host calls that a worker may have under way.
const HOST_CALLS_MAX: u32 = 64;
/// How long a worker may live without one of its channels before it is called hostile instead of dying.
const LAST_BREATH: Duration = Duration::from_millis(500);
/// Bytes kept of what a worker prints before it has a Doee.
const FIRST_WORDS_LEN_MAX: usize = 512;
/// Log that an executor may send from one call's end to the next, in bytes of text and [`LINE_COST`] for each line. An
/// honest one cuts a call's log at 64 KiB of that; the rest is for what may have been read of calls that were sent
/// ahead before the end of the first is noted.
const LOGGED_MAX: usize = 1024 * 1024;
/// What a line costs besides its text.
const LINE_COST: usize = 16;

/// A call that a worker has been sent and has not answered.
#[derive(Debug)]
struct SentCall {
    task: TaskId,
    process: ProcessId,
    attempt: u32,
    /// Its id on the data channel, and so on the status page.
    id: u64,
    /// The worker has answered it; the rest of its reply is being passed on.
    answered: bool,
    /// Calls of other Doees that it has made and does not wait for.
    async_calls: u32,
    log_budget: LogBudget,
}

/// A started worker.
pub(crate) struct WorkerConnection {
    pub(crate) worker: WorkerId,
    pub(crate) pid: u32,
    control: Channel,
    link: Link,
    open: Cell<bool>,
    doee: RefCell<Option<Rc<LoadedDoee>>>,
    /// The status page and, until it is assigned, its memory's descriptor.
    page: StatusPage<SharedWords>,
    page_memory: RefCell<Option<OwnedFd>>,
    /// In the order in which they were sent.
    calls: RefCell<VecDeque<SentCall>>,
    /// For what is logged outside of calls.
    log_budget: Cell<LogBudget>,
    /// What the executor has logged since it has last ended a call.
    logged: Cell<usize>,
    /// Told once everything has been read that the executor reported.
    control_ended: Notify,
    /// Told once everything has been read that it answered.
    data_ended: Notify,
    /// Told once everything has been read that it printed.
    output_ended: Notify,
    /// Told once its process is gone.
    gone: Notify,
    /// What it printed before it had a Doee, cut: in an image, why the executor cannot start.
    first_words: RefCell<String>,
}

impl WorkerConnection {
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// False once the worker's data channel has ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.get() && self.link.is_registered()
    }

    /// Gives the empty worker its Doee; false when it does not take it.
    pub(crate) fn assign(&self, doee: Rc<LoadedDoee>) -> bool {
        let assignment = Control::Assign(Assignment {
            project: doee.spec.project_name.clone(),
            doee: doee.spec.name.clone(),
            version: doee.spec.version,
            params: doee.spec.params.clone(),
        });
        let Some(page) = self.page_memory.take() else {
            return false;
        };
        let sent = self.control(&assignment, &[doee.binary.as_fd(), page.as_fd()]);
        *self.doee.borrow_mut() = Some(doee);
        sent
    }

    pub(crate) fn doee(&self) -> Option<Rc<LoadedDoee>> {
        self.doee.borrow().clone()
    }

    /// Passes over the ids whose place on the status page belongs to a call that has not ended. There are always
    /// others, since a worker has fewer calls than its page has places.
    pub(crate) fn skip_taken_slots(&self) {
        let calls = self.calls.borrow();
        self.link.skip_call_ids(STATUS_SLOTS, |id| {
            calls.iter().any(|call| share_a_slot(call.id, id))
        });
    }

    /// Notes a call that was sent with this id. It leaves when this thread waits, not before.
    pub(crate) fn note_call(&self, task: TaskId, process: ProcessId, attempt: u32, id: u64) {
        self.page.queue(id);
        self.calls.borrow_mut().push_back(SentCall {
            task,
            process,
            attempt,
            id,
            answered: false,
            async_calls: 0,
            log_budget: LogBudget::new(),
        });
    }

    /// Notes that the worker has answered a call, so that it counts as begun whatever the page says.
    pub(crate) fn note_answer(&self, task: TaskId) {
        let mut calls = self.calls.borrow_mut();
        if let Some(call) = calls.iter_mut().find(|call| call.task == task) {
            call.answered = true;
        }
    }

    /// Forgets a call that has ended; how long it ran, as the worker says.
    pub(crate) fn end_call(&self, task: TaskId) -> Duration {
        let mut calls = self.calls.borrow_mut();
        let index = calls.iter().position(|call| call.task == task);
        let ended = index.and_then(|index| calls.remove(index));
        self.logged.set(0);
        ended.map_or(Duration::ZERO, |call| self.page.run_time(call.id))
    }

    /// True when the worker was sent a call that it has not ended, nor given back.
    pub(crate) fn has_call(&self, task: TaskId) -> bool {
        self.calls.borrow().iter().any(|call| call.task == task)
    }

    /// Takes a call back; false when it has begun, or is not here.
    pub(crate) fn recall(&self, task: TaskId) -> bool {
        let mut calls = self.calls.borrow_mut();
        let Some(index) = calls.iter().position(|call| call.task == task) else {
            return false;
        };
        let recalled = !calls[index].answered && self.page.recall(calls[index].id);
        if recalled {
            calls.remove(index);
        }
        recalled
    }

    /// The calls that have begun and not ended: of an honest worker one at most.
    pub(crate) fn begun(&self) -> Vec<TaskId> {
        let calls = self.calls.borrow();
        let begun = calls
            .iter()
            .filter(|call| call.answered || self.page.has_begun(call.id));
        begun.map(|call| call.task).collect()
    }

    /// The process that the worker runs.
    pub(crate) fn running(&self) -> Option<ProcessId> {
        let calls = self.calls.borrow();
        let mut begun = calls.iter().filter(|call| self.page.has_begun(call.id));
        begun.next().map(|call| call.process)
    }

    /// True when the worker has this attempt of a process and has begun it.
    pub(crate) fn runs(&self, process: ProcessId, attempt: u32) -> bool {
        let calls = self.calls.borrow();
        let mut of_process = calls
            .iter()
            .filter(|call| call.process == process && call.attempt == attempt);
        of_process.any(|call| self.page.has_begun(call.id))
    }

    /// The call that makes another one, and the number of that if it is not waited for, else 0.
    pub(crate) fn caller(&self, process: ProcessId, attempt: u32, is_async: bool) -> Option<(TaskId, u32)> {
        let mut calls = self.calls.borrow_mut();
        let mut of_process = calls.iter_mut();
        let call = of_process.find(|call| call.process == process && call.attempt == attempt)?;
        // Who has made so many has no other effect than to repeat the last one.
        call.async_calls = call.async_calls.saturating_add(u32::from(is_async));
        Some((call.task, if is_async { call.async_calls } else { 0 }))
    }

    /// Sends on the control channel; false when the worker does not take it.
    pub(crate) fn control(&self, control: &Control, descriptors: &[BorrowedFd<'_>]) -> bool {
        self.control
            .send(&isms_protocol::encode(control), descriptors)
            .is_ok()
    }

    /// Waits until everything has been handled that a dead executor has said: what it answered has been answered,
    /// and why it could not start says more than that it exited.
    pub(crate) async fn last_words(&self) {
        let ended = async {
            self.control_ended.notified().await;
            self.data_ended.notified().await;
            self.output_ended.notified().await;
        };
        // Bounded, since a process that the executor left behind might hold the channels open.
        let _ = tokio::time::timeout(LAST_BREATH, ended).await;
    }

    /// Tells all who wait that its process is gone.
    pub(crate) fn note_gone(&self) {
        self.gone.notify_waiters();
    }

    /// Waits to be told that its process is gone.
    pub(crate) async fn gone(&self) {
        self.gone.notified().await;
    }

    pub(crate) fn close(&self) {
        self.open.set(false);
    }

    /// What the executor, or the loader of an image in its stead, printed before it had a Doee.
    pub(crate) fn first_words(&self) -> Option<String> {
        let words = self.first_words.borrow();
        let has_any = self.doee.borrow().is_none() && !words.is_empty();
        has_any.then(|| words.trim_end().to_owned())
    }

    /// An executor cuts a call's log itself, so one that goes on and on is none.
    fn count_logged(&self, line: &LogLine) -> Result<(), String> {
        let logged = self.logged.get() + line.text.len() + LINE_COST;
        self.logged.set(logged);
        if logged > LOGGED_MAX {
            return Err("it did not stop logging".to_owned());
        }
        Ok(())
    }

    /// Takes a line of the log from the budget of its call, or of the worker.
    fn admit(&self, process: ProcessId, len: usize) -> Admission {
        let mut calls = self.calls.borrow_mut();
        if let Some(call) = calls.iter_mut().find(|call| call.process == process) {
            return call.log_budget.admit(len);
        }
        let mut budget = self.log_budget.get();
        let admission = budget.admit(len);
        self.log_budget.set(budget);
        admission
    }

    /// Passes a line of the worker's log on, as far as its budget goes.
    fn log(&self, doer: &Doer, process: ProcessId, line: LogLine) {
        let Some(doee) = self.doee() else { return };
        let admission = self.admit(process, line.text.len());
        let line = match admission {
            Admission::Keep => line,
            Admission::Cut => cut_line(),
            Admission::Drop => return,
        };
        doer.state
            .borrow_mut()
            .logs
            .push(&doer.link, &doee.spec, process, line);
    }
}

/// Why the channels of a started sandbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the spawner sent {0} descriptors instead of 3")]
    Descriptors(usize),
    #[error("its data channel does not speak ZMTP: {0}")]
    Handshake(#[from] ConnectionError),
    #[error("its channels cannot be used: {0}")]
    Channel(#[from] std::io::Error),
}

/// Takes over the channels of a sandbox that the spawner has started.
pub(crate) async fn open(doer: Rc<Doer>, worker: WorkerId, pid: u32, descriptors: Vec<OwnedFd>) {
    let (connection, inbox, output) = match connect(worker, pid, descriptors).await {
        Ok(opened) => opened,
        Err(error) => {
            return doer.dispatch(Event::Misbehaved {
                worker,
                what: error.to_string(),
            });
        }
    };
    if !doer.state.borrow().handler.knows(worker) {
        // It has died meanwhile, and nothing more will be heard of it.
        return;
    }
    doer.state
        .borrow_mut()
        .workers
        .insert(worker, Rc::clone(&connection));
    spawn_local(serve_data(Rc::clone(&doer), Rc::clone(&connection), inbox));
    spawn_local(serve_output(Rc::clone(&doer), Rc::clone(&connection), output));
    serve_control(doer, connection).await;
}

/// Links over the data channel of a worker or builder.
pub(crate) async fn attach(data: OwnedFd, requests_max: u32) -> Result<(Link, Inbox), OpenError> {
    let data = std::os::unix::net::UnixStream::from(data);
    data.set_nonblocking(true)?;
    Ok(Link::attach(
        UnixStream::from_std(data)?,
        Side::Bind,
        Service::Doer,
        requests_max,
    )
    .await?)
}

type Opened = (Rc<WorkerConnection>, Inbox, tokio::net::unix::pipe::Receiver);

async fn connect(worker: WorkerId, pid: u32, descriptors: Vec<OwnedFd>) -> Result<Opened, OpenError> {
    let [control, data, output] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|descriptors| OpenError::Descriptors(descriptors.len()))?;
    let (link, inbox) = attach(data, HOST_CALLS_MAX).await?;
    let (words, page_memory) = SharedWords::create(c"status-page", STATUS_WORDS)?;
    let page = StatusPage::new(words).expect("it was made with as many words");
    let connection = WorkerConnection {
        worker,
        pid,
        control: Channel::new(control)?,
        link,
        open: Cell::new(true),
        doee: RefCell::new(None),
        page,
        page_memory: RefCell::new(Some(page_memory)),
        calls: RefCell::default(),
        log_budget: Cell::new(LogBudget::new()),
        logged: Cell::new(0),
        control_ended: Notify::new(),
        data_ended: Notify::new(),
        output_ended: Notify::new(),
        gone: Notify::new(),
        first_words: RefCell::default(),
    };
    Ok((
        Rc::new(connection),
        inbox,
        tokio::net::unix::pipe::Receiver::from_owned_fd(output)?,
    ))
}

async fn serve_control(doer: Rc<Doer>, connection: Rc<WorkerConnection>) {
    let end = loop {
        match connection.control.receive().await {
            Ok(Some(datagram)) => reported(&doer, &connection, &datagram.bytes),
            Ok(None) => break "it closed its control channel".to_owned(),
            Err(error) => break format!("its control channel cannot be read: {error}"),
        }
    };
    connection.control_ended.notify_one();
    cut_off_unless_it_dies(&doer, connection.worker, end).await;
}

fn reported(doer: &Rc<Doer>, connection: &WorkerConnection, report: &[u8]) {
    let event = heard::report(connection.worker, report);
    if let Event::StartFailed { error, .. } = &event {
        let line = LogLine {
            level: LogLevel::Error,
            text: error.message.clone(),
        };
        connection.log(doer, ProcessId::NONE, line);
    }
    doer.dispatch(event);
}

/// A channel ends with its process, of which the spawner tells; a worker that goes on without one is hostile.
async fn cut_off_unless_it_dies(doer: &Rc<Doer>, worker: WorkerId, what: String) {
    tokio::time::sleep(LAST_BREATH).await;
    let alive = doer.state.borrow().workers.contains_key(&worker);
    if alive {
        doer.dispatch(Event::Misbehaved { worker, what });
    }
}

async fn serve_data(doer: Rc<Doer>, connection: Rc<WorkerConnection>, mut inbox: Inbox) {
    let worker = connection.worker;
    while let Some(inbound) = inbox.next().await {
        match inbound {
            Inbound::Request(request) => host_call::accept(&doer, &connection, request),
            Inbound::Other(message) => said(&doer, &connection, &message),
            Inbound::Lost => break,
            Inbound::Registered(_) => {}
        }
    }
    connection.close();
    connection.data_ended.notify_one();
    if let Some(what) = connection.link.violation() {
        let what = format!("it broke the protocol of its data channel: {what}");
        return doer.dispatch(Event::Misbehaved { worker, what });
    }
    cut_off_unless_it_dies(&doer, worker, "it closed its data channel".to_owned()).await;
}

fn said(doer: &Rc<Doer>, connection: &WorkerConnection, message: &Message) {
    let worker = connection.worker;
    let Header { process, attempt, .. } = message.header;
    let outcome = heard::log_line(message).and_then(|line| {
        connection.count_logged(&line)?;
        Ok(line)
    });
    match outcome {
        Ok(line) => {
            let process = if connection.runs(process, attempt) {
                process
            } else {
                ProcessId::NONE
            };
            connection.log(doer, process, line);
        }
        Err(what) => doer.dispatch(Event::Misbehaved { worker, what }),
    }
}

/// Turns what a Doee prints into log lines.
async fn serve_output(
    doer: Rc<Doer>,
    connection: Rc<WorkerConnection>,
    mut output: tokio::net::unix::pipe::Receiver,
) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let len = match output.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => len,
        };
        pending.extend_from_slice(&buffer[..len]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            print(&doer, &connection, &line[..end]);
        }
        if pending.len() >= isms_protocol::limits::LOG_LINE_LEN_MAX {
            print(&doer, &connection, &std::mem::take(&mut pending));
        }
    }
    if !pending.is_empty() {
        print(&doer, &connection, &pending);
    }
    connection.output_ended.notify_one();
}

fn print(doer: &Doer, connection: &WorkerConnection, line: &[u8]) {
    let process = connection.running().unwrap_or(ProcessId::NONE);
    let text = String::from_utf8_lossy(line).into_owned();
    if connection.doee.borrow().is_none() {
        let mut words = connection.first_words.borrow_mut();
        words.push_str(&text);
        words.push(' ');
        let cut = words.floor_char_boundary(FIRST_WORDS_LEN_MAX);
        return words.truncate(cut);
    }
    connection.log(
        doer,
        process,
        LogLine {
            level: LogLevel::Info,
            text,
        },
    );
}
