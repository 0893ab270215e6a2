//! The Doer's loop: events to the Worker Handler, its actions to the world.
//!
//! Everything runs on one thread; the state is borrowed for a decision and never across an await.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use isms_ipc::{Inbound, InboundRequest, Inbox, Link, LinkOptions, Registration};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    doer::{Isolation, Operation},
    kernel::Demand,
    limits::DRAIN_TIMEOUT,
    worker::Control,
};
use isms_sandbox::spawner::{Event as SpawnerEvent, Request};
use tokio::{
    sync::{Notify, watch},
    task::spawn_local,
};

use crate::{
    Config, RunError,
    binaries::{self, Binaries, LoadedDoee},
    builder::{self, Builders},
    call::{self, CallSlot, Outbound, Verdict},
    callees::Callees,
    connection::{self, WorkerConnection},
    doer_admin::TaskId,
    durable::Durables,
    environment::{self, Trials},
    logs::LogBatch,
    resume,
    runs::RunBatch,
    spawner::Spawner,
    status,
    worker::WorkerId,
    worker_handler::{Action, BUSY_TICK, Event, WorkerHandler},
};

/// How often gathered log lines and runs are sent.
const LOG_INTERVAL: Duration = Duration::from_millis(50);

/// All that the Doer has.
pub(crate) struct Doer {
    pub(crate) config: Config,
    pub(crate) link: Link,
    pub(crate) spawner: Spawner,
    pub(crate) state: RefCell<State>,
    /// The Kernel that has been told which durable calls are here, and so may hear of capacities.
    introduced: RefCell<Option<Registration>>,
    /// What has happened and has not been handled, and whether somebody is at it.
    events: RefCell<VecDeque<Event>>,
    dispatching: Cell<bool>,
    /// Wakes the clock when it should tick sooner than it planned.
    hurry: Notify,
    /// The clock ticks rarely at present.
    resting: Cell<bool>,
    /// A call has come since the clock's last tick.
    called: Cell<bool>,
    /// Resadmin is being asked which versions keep workers.
    pub(crate) asks_for_kept: Cell<bool>,
}

/// What changes.
pub(crate) struct State {
    pub(crate) handler: WorkerHandler,
    pub(crate) calls: HashMap<TaskId, Rc<CallSlot>>,
    pub(crate) durables: Durables,
    pub(crate) callees: Callees,
    pub(crate) workers: HashMap<WorkerId, Rc<WorkerConnection>>,
    pub(crate) doees: HashMap<isms_protocol::DoeeVersion, Rc<LoadedDoee>>,
    pub(crate) binaries: Binaries,
    pub(crate) builders: Builders,
    pub(crate) trials: Trials,
    pub(crate) logs: LogBatch,
    pub(crate) runs: RunBatch,
    pub(crate) isolation: Isolation,
    task_next: u64,
}

/// Runs the Doer until `shutdown` turns true and its calls have ended, or the spawner is lost. Belongs on a
/// `tokio::runtime::LocalRuntime`.
pub async fn run(
    config: Config,
    link: LinkOptions,
    spawner: OwnedFd,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let spawner = Spawner::new(spawner).map_err(RunError::Spawner)?;
    let (link, inbox) = Link::open(link);
    Rc::new(Doer::new(config, link, spawner))
        .serve(inbox, shutdown)
        .await
}

impl Doer {
    pub(crate) fn new(config: Config, link: Link, spawner: Spawner) -> Doer {
        let state = State {
            handler: WorkerHandler::new(config.handler()),
            calls: HashMap::new(),
            durables: Durables::new(config.calls_max()),
            callees: Callees::default(),
            workers: HashMap::new(),
            doees: HashMap::new(),
            binaries: Binaries::default(),
            builders: Builders::new(config.builds_max),
            trials: Trials::default(),
            logs: LogBatch::default(),
            runs: RunBatch::default(),
            isolation: Isolation::default(),
            task_next: 1,
        };
        Doer {
            config,
            link,
            spawner,
            state: RefCell::new(state),
            introduced: RefCell::new(None),
            events: RefCell::default(),
            dispatching: Cell::new(false),
            hurry: Notify::new(),
            resting: Cell::new(false),
            called: Cell::new(false),
            asks_for_kept: Cell::new(false),
        }
    }

    async fn serve(
        self: &Rc<Self>,
        mut inbox: Inbox,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let clock = spawn_local(Rc::clone(self).tick_for_ever());
        let logs = spawn_local(Rc::clone(self).flush_logs_for_ever());
        let outcome = loop {
            tokio::select! {
                received = self.spawner.receive() => match received {
                    Ok((event, descriptors)) => self.spawner_said(event, descriptors),
                    Err(error) => break Err(RunError::SpawnerLost(error)),
                },
                inbound = inbox.next() => match inbound {
                    Some(inbound) => self.kernel_said(inbound),
                    None => break Ok(()),
                },
                changed = shutdown.changed() => {
                    if changed.is_err() || *shutdown.borrow() {
                        break Ok(());
                    }
                }
            }
        };
        match outcome {
            Ok(()) => self.drain().await,
            Err(_) => self.fail_all_workers(),
        }
        self.flush();
        self.link.close().await;
        clock.abort();
        logs.abort();
        outcome
    }

    /// Lets the calls that are here end, within the drain time.
    async fn drain(&self) {
        let until = tokio::time::Instant::now() + DRAIN_TIMEOUT;
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while !self.state.borrow().calls.is_empty() && tokio::time::Instant::now() < until {
            poll.tick().await;
        }
    }

    fn fail_all_workers(self: &Rc<Self>) {
        let begun_by = |state: &State, worker: WorkerId| {
            let connection = state.workers.get(&worker);
            connection
                .map(|connection| connection.begun())
                .unwrap_or_default()
        };
        let workers: Vec<(WorkerId, Vec<TaskId>)> = {
            let state = self.state.borrow();
            let workers = state.handler.workers();
            workers
                .map(|(worker, _)| (worker, begun_by(&state, worker)))
                .collect()
        };
        for (worker, begun) in workers {
            self.dispatch(Event::Exited {
                worker,
                how: "died with the spawner".to_owned(),
                begun,
            });
        }
    }

    async fn tick_for_ever(self: Rc<Self>) {
        loop {
            self.dispatch(Event::Tick);
            let mut interval = self.state.borrow().handler.tick_interval();
            if self.called.take() {
                // More are likely to come, and need not wake the clock each.
                interval = interval.min(BUSY_TICK);
            }
            self.resting.set(interval > BUSY_TICK);
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    async fn flush_logs_for_ever(self: Rc<Self>) {
        let mut interval = tokio::time::interval(LOG_INTERVAL);
        loop {
            interval.tick().await;
            self.flush();
        }
    }

    /// Sends what has gathered for Control Gate.
    fn flush(&self) {
        let state = &mut *self.state.borrow_mut();
        state.logs.flush(&self.link);
        state.runs.flush(&self.link);
    }

    pub(crate) fn kernel_said(self: &Rc<Self>, inbound: Inbound) {
        match inbound {
            Inbound::Registered(generation) => {
                tracing::info!(generation = generation.0, "registered with the kernel");
                let mut state = self.state.borrow_mut();
                state.handler.forget_demand();
                // A deployment may not have been heard of meanwhile.
                state.callees.forget_all();
                drop(state);
                if let Ok(registration) = self.link.registration() {
                    spawn_local(resume::introduce(Rc::clone(self), registration));
                }
                if !self.asks_for_kept.replace(true) {
                    spawn_local(binaries::learn_kept(Rc::clone(self)));
                }
            }
            Inbound::Lost => {
                tracing::warn!("lost the kernel, running calls go on");
                *self.introduced.borrow_mut() = None;
                self.state.borrow().durables.note_loss();
            }
            Inbound::Request(request) => self.requested(request),
            Inbound::Other(message) => self.told(&message),
        }
    }

    /// Tells a Kernel all capacities, and from now on when they change.
    pub(crate) fn announce(self: &Rc<Self>, registration: Registration) {
        *self.introduced.borrow_mut() = Some(registration);
        let mut actions = Vec::new();
        self.state.borrow_mut().handler.republish(&mut actions);
        self.perform_all(actions);
    }

    fn told(self: &Rc<Self>, message: &Message) {
        if message.header.kind != Kind::Demand {
            return tracing::warn!(kind = ?message.header.kind, "ignored a message that the doer does not know");
        }
        match message.decode_body::<Demand>() {
            Ok(demand) => {
                self.dispatch(Event::Demand {
                    version: message.header.target_doee,
                    queued: demand.queued,
                });
                self.hurry.notify_one();
            }
            Err(error) => tracing::error!(%error, "the kernel sent a demand that cannot be read"),
        }
    }

    fn requested(self: &Rc<Self>, request: InboundRequest) {
        let doer = Rc::clone(self);
        match Operation::from_u16(request.message.header.operation) {
            Some(Operation::Invoke) => {
                spawn_local(call::serve(doer, request));
                self.called.set(true);
                if self.resting.take() {
                    self.hurry.notify_one();
                }
            }
            Some(Operation::Build) => {
                spawn_local(builder::serve(doer, request));
            }
            Some(Operation::Workers) => match request.message.decode_body() {
                Ok(after) => {
                    let workers = status::workers(self, after);
                    request.responder.reply(&workers, bytes::Bytes::new());
                }
                Err(error) => request
                    .responder
                    .error(WireError::new(ErrorCode::Invalid, error.to_string())),
            },
            Some(Operation::Retire) => {
                self.retire(request.message.header.target_doee);
                request.responder.reply_empty();
            }
            Some(Operation::Keep) => {
                let version = request.message.header.target_doee;
                self.dispatch(Event::Keep { version });
                request.responder.reply_empty();
            }
            Some(Operation::Deployed) => {
                let project = request.message.header.project;
                self.state.borrow_mut().callees.forget_project(project);
                request.responder.reply_empty();
            }
            Some(Operation::Isolation) => {
                let isolation = self.state.borrow().isolation.clone();
                request.responder.reply(&isolation, bytes::Bytes::new());
            }
            Some(Operation::TryEnvironment) => {
                spawn_local(environment::serve_trial(doer, request));
            }
            None => request.responder.error(WireError::new(
                ErrorCode::Invalid,
                format!("the doer has no operation {}", request.message.header.operation),
            )),
        }
    }

    /// Who asked for a call that is here.
    pub(crate) fn principal(&self, task: TaskId) -> Result<String, WireError> {
        let slot = self.state.borrow().calls.get(&task).cloned();
        let over = || WireError::new(ErrorCode::Cancelled, "the call that calls has ended");
        slot.ok_or_else(over)?.principal()
    }

    fn retire(self: &Rc<Self>, version: isms_protocol::DoeeVersion) {
        self.dispatch(Event::Retire { version });
    }

    pub(crate) fn spawner_said(self: &Rc<Self>, event: SpawnerEvent, descriptors: Vec<OwnedFd>) {
        match event {
            SpawnerEvent::Spawned { worker, pid } if builder::is_builder(worker) => {
                builder::started(self, worker, pid, descriptors);
            }
            SpawnerEvent::Spawned { worker, pid } => {
                spawn_local(connection::open(
                    Rc::clone(self),
                    WorkerId(worker),
                    pid,
                    descriptors,
                ));
            }
            SpawnerEvent::Failed { worker, message } if builder::is_builder(worker) => {
                builder::failed(self, worker, format!("cannot start the builder: {message}"));
            }
            SpawnerEvent::Failed { worker, message } => {
                tracing::error!(worker, message, "a sandbox could not be started");
                let error = WireError::new(
                    ErrorCode::Unavailable,
                    format!("cannot start a worker: {message}"),
                );
                self.dispatch(Event::StartFailed {
                    worker: WorkerId(worker),
                    error,
                });
            }
            SpawnerEvent::Exited {
                worker,
                code,
                signal,
                oom,
            } => {
                let way_out = if builder::is_builder(worker) {
                    "compile less in one file"
                } else {
                    "raise memory_mb or use less"
                };
                let how = status::exit_text(code, signal, oom, way_out);
                if builder::is_builder(worker) {
                    return builder::failed(self, worker, format!("the builder {how}"));
                }
                tracing::debug!(worker, how, "a worker ended");
                spawn_local(Rc::clone(self).worker_exited(WorkerId(worker), how));
            }
            SpawnerEvent::Layers { layers, sufficient } => {
                if !sufficient {
                    tracing::error!(
                        "isolation is below the required minimum, no worker will start: see `isms doctor`"
                    );
                }
                self.state.borrow_mut().isolation = status::isolation(layers, sufficient);
            }
        }
    }

    async fn worker_exited(self: Rc<Self>, worker: WorkerId, mut how: String) {
        // At once, since what it still has to say may take a while.
        self.dispatch(Event::Gone { worker });
        let connection = self.state.borrow_mut().workers.remove(&worker);
        let mut begun = Vec::new();
        if let Some(connection) = connection {
            connection.close();
            connection.note_gone();
            connection.last_words().await;
            begun = connection.begun();
            if let Some(words) = connection.first_words() {
                how = format!("{how} (it said: {words})");
            }
        }
        self.dispatch(Event::Exited { worker, how, begun });
    }

    /// Feeds one event to the Worker Handler and performs what it decides. An event that comes of performing waits
    /// until all of it has been done: what is decided later must not be told earlier.
    pub(crate) fn dispatch(self: &Rc<Self>, event: Event) {
        self.events.borrow_mut().push_back(event);
        if self.dispatching.replace(true) {
            return;
        }
        loop {
            let event = self.events.borrow_mut().pop_front();
            let Some(event) = event else { break };
            let mut actions = Vec::new();
            self.state
                .borrow_mut()
                .handler
                .handle(Instant::now(), event, &mut actions);
            self.perform_all(actions);
        }
        self.dispatching.set(false);
    }

    fn perform_all(self: &Rc<Self>, actions: Vec<Action>) {
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::Load { version } => {
                spawn_local(binaries::load(Rc::clone(self), version));
            }
            Action::Publish { version, slots } => {
                let mut header = Header::new(Kind::Slots, Service::Doer, Service::Kernel);
                header.target_doee = version;
                // A Kernel that is not there learns all capacities once it has been told of the durable calls.
                if let Some(kernel) = &*self.introduced.borrow() {
                    let _ = kernel.send(Message::with_body(header, &slots));
                }
                if slots.capacity == 0 && self.state.borrow().handler.is_unknown(version) {
                    self.state.borrow_mut().doees.remove(&version);
                }
            }
            Action::Spawn { worker, environment } => {
                let is_awaited = !self.state.borrow().handler.is_pooled(worker);
                let limits = self.config.empty_limits(is_awaited);
                let request = Request::Spawn {
                    worker: worker.0,
                    environment,
                    limits,
                };
                if let Err(error) = self.spawner.send(&request) {
                    let error = WireError::new(
                        ErrorCode::Unavailable,
                        format!("cannot ask for a sandbox: {error}"),
                    );
                    self.dispatch(Event::StartFailed { worker, error });
                }
            }
            Action::Hurry { worker } => {
                let limits = self.config.empty_limits(true);
                let request = Request::Limit {
                    worker: worker.0,
                    limits,
                };
                if let Err(error) = self.spawner.send(&request) {
                    // It starts all the same, or its start times out.
                    tracing::warn!(%worker, %error, "the spawner could not be asked to hurry a start");
                }
            }
            Action::Assign { worker, version } => self.assign(worker, version),
            Action::Run { worker, task } => {
                let connection = self.state.borrow().workers.get(&worker).cloned();
                match connection {
                    Some(connection) => self.send_call(task, connection),
                    None => tracing::error!(%worker, "a call was given to a worker that has no connection"),
                }
            }
            Action::Recall { worker, mut tasks } => {
                let connection = self.state.borrow().workers.get(&worker).cloned();
                tasks.retain(|task| {
                    connection
                        .as_ref()
                        .is_some_and(|connection| connection.recall(*task))
                });
                if !tasks.is_empty() {
                    self.dispatch(Event::Recalled { worker, tasks });
                }
            }
            Action::Requeue { task } => self.rule(task, Verdict::Requeued),
            Action::AskCancel { task } => self.rule(task, Verdict::AskCancel),
            Action::Drain { worker } => {
                if let Some(connection) = self.state.borrow().workers.get(&worker) {
                    connection.control(&Control::Drain, &[]);
                }
            }
            Action::Kill { worker, why } => {
                self.tell_kill(worker, &why);
                if let Err(error) = self.spawner.send(&Request::Kill { worker: worker.0 }) {
                    tracing::error!(%worker, %error, "the spawner could not be asked to kill a worker");
                }
            }
            Action::Tried { trial, outcome } => self.state.borrow_mut().trials.end(trial, outcome),
            Action::Fail { task, error } => self.rule(task, Verdict::Fail(error)),
        }
    }

    fn tell_kill(&self, worker: WorkerId, why: &str) {
        let connection = self.state.borrow().workers.get(&worker).cloned();
        let doee = connection.as_ref().and_then(|connection| connection.doee());
        match (connection, doee) {
            (Some(connection), Some(doee)) => {
                let process = connection.running();
                tracing::warn!(
                    %worker,
                    project = doee.spec.project_name,
                    doee = doee.spec.name,
                    process = process.map(tracing::field::display),
                    why,
                    "killed a worker"
                );
            }
            _ => tracing::warn!(%worker, why, "killed a worker that had no Doee yet"),
        }
    }

    /// Gives an empty worker its limits and its Doee.
    fn assign(self: &Rc<Self>, worker: WorkerId, version: isms_protocol::DoeeVersion) {
        let (connection, doee) = {
            let state = self.state.borrow();
            (
                state.workers.get(&worker).cloned(),
                state.doees.get(&version).cloned(),
            )
        };
        let (Some(connection), Some(doee)) = (connection, doee) else {
            let error = WireError::new(
                ErrorCode::Internal,
                "a worker was assigned a Doee that is not loaded",
            );
            return self.dispatch(Event::StartFailed { worker, error });
        };
        let limits = self.config.worker_limits(doee.spec.memory_mb, doee.spec.class);
        let sent = self.spawner.send(&Request::Limit {
            worker: worker.0,
            limits,
        });
        if sent.is_err() || !connection.assign(doee) {
            let error = WireError::new(ErrorCode::Unavailable, "the worker could not be given its Doee");
            self.dispatch(Event::StartFailed { worker, error });
        }
    }

    /// Sends a call to its worker.
    fn send_call(&self, task: TaskId, connection: Rc<WorkerConnection>) {
        let state = self.state.borrow();
        if let Some(slot) = state.calls.get(&task) {
            if let Some(noted) = slot.noted() {
                noted.note_sent(state.handler.start_of(connection.worker, task));
            }
            slot.send(task, connection);
        }
    }

    /// Tells a call what became of it.
    fn rule(&self, task: TaskId, verdict: Verdict) {
        if let Some(slot) = self.state.borrow().calls.get(&task) {
            slot.rule(verdict);
        }
    }

    /// Opens a call: a task number and the slot in which its verdict will lie.
    pub(crate) fn open_call(&self, outbound: Outbound) -> (TaskId, Rc<CallSlot>) {
        let mut state = self.state.borrow_mut();
        let task = TaskId(state.task_next);
        state.task_next += 1;
        let slot = Rc::new(CallSlot::new(outbound));
        state.calls.insert(task, Rc::clone(&slot));
        (task, slot)
    }

    pub(crate) fn close_call(&self, task: TaskId) {
        self.state.borrow_mut().calls.remove(&task);
    }
}
