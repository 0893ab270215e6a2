//! The Kernel's own interface: what can be asked of it. Answered at once, without a process.

use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    kernel::{
        DoeeRates, DoeeRetries, Operation, ProcessStatus, Processes, ProjectSettings, ServiceStatus, Status,
    },
};

use crate::{core::Core, process_controller::Process};

/// Processes listed in one answer: about 100 bytes each, so they fit a message.
pub(crate) const PROCESSES_LISTED_MAX: usize = 400;

impl Core {
    /// Answers a request to the Kernel that the rights table allows.
    pub(crate) fn answer_from_here(&mut self, request: &Header, message: &Message) {
        let header = request.answer(Kind::Reply);
        let reply = match Operation::from_u16(request.operation) {
            Some(Operation::Processes) => Message::with_body(header, &self.list_processes()),
            Some(Operation::SetProject) => match self.set_project(request, message) {
                Ok(()) => Message::bare(header),
                Err(error) => return self.refuse(request.sender, request, &error),
            },
            Some(Operation::SetRates) => match self.set_rates(request, message) {
                Ok(()) => Message::bare(header),
                Err(error) => return self.refuse(request.sender, request, &error),
            },
            Some(Operation::ForgetProject) if request.project.is_none() => {
                let error = WireError::new(ErrorCode::Invalid, "it is a project that is deleted");
                return self.refuse(request.sender, request, &error);
            }
            Some(Operation::ForgetProject) => return self.forget_project(request),
            Some(Operation::Calls) => match message.decode_body() {
                Ok(after) => Message::with_body(header, &self.scheduler.calls(after)),
                Err(_) => {
                    let error = WireError::new(ErrorCode::Invalid, "the question cannot be decoded");
                    return self.refuse(request.sender, request, &error);
                }
            },
            Some(Operation::SetRetries) => match self.set_retries(request, message) {
                Ok(()) => Message::bare(header),
                Err(error) => return self.refuse(request.sender, request, &error),
            },
            Some(Operation::Resume) => return self.resume(request, message),
            Some(Operation::Dead) => return self.list_dead(request, message),
            Some(Operation::Replay) => return self.replay(request, message),
            Some(Operation::Discard) => return self.discard_letter(request, message),
            Some(operation @ (Operation::Process | Operation::Result | Operation::Cancel)) => {
                return self.ask_about(*request, message, operation);
            }
            Some(Operation::Status) | None => Message::with_body(header, &self.status()),
        };
        self.send_to(request.sender, reply);
    }

    fn set_project(&mut self, request: &Header, message: &Message) -> Result<(), WireError> {
        let invalid = |what: String| WireError::new(ErrorCode::Invalid, what);
        let settings: ProjectSettings = message
            .decode_body()
            .map_err(|_| invalid("the settings cannot be decoded".into()))?;
        settings.check().map_err(|error| invalid(error.to_string()))?;
        if request.project.is_none() {
            return Err(invalid("settings are of a project".into()));
        }
        let set = self.scheduler.set_project(request.project, settings, self.now);
        self.scheduler.drain_freed(&mut self.ready);
        set.map_err(|error| WireError::new(ErrorCode::LimitReached, error.to_string()))
    }

    fn set_rates(&mut self, request: &Header, message: &Message) -> Result<(), WireError> {
        let rates = message.decode_body::<DoeeRates>().ok();
        let rates = rates.filter(|rates| rates.is_valid() && !request.project.is_none());
        let invalid = || WireError::new(ErrorCode::Invalid, "the rates make no sense");
        let set = self
            .scheduler
            .set_rates(request.project, &rates.ok_or_else(invalid)?, self.now);
        set.map_err(|error| WireError::new(ErrorCode::LimitReached, error.to_string()))
    }

    fn set_retries(&mut self, request: &Header, message: &Message) -> Result<(), WireError> {
        let retries = message.decode_body::<DoeeRetries>().ok();
        let retries = retries.filter(|retries| retries.is_valid() && !request.project.is_none());
        let invalid = || WireError::new(ErrorCode::Invalid, "the numbers of attempts make no sense");
        let set = self.retries.set(request.project, &retries.ok_or_else(invalid)?);
        set.map_err(|error| WireError::new(ErrorCode::LimitReached, error.to_string()))
    }

    fn status(&self) -> Status {
        let services = Service::REGISTERED.into_iter().filter_map(|service| {
            let generation = self.services.record(service).generation?;
            let (running, queued) = self.scheduler.load(service);
            let up = self.services.registration(service).is_some();
            Some(ServiceStatus {
                service,
                generation,
                up,
                running,
                queued,
            })
        });
        let counters = self.counters;
        Status {
            services: services.collect(),
            ready: self.scheduler.waiting() as u64,
            running: self
                .table
                .iter()
                .filter(|(_, process)| process.is_running())
                .count() as u64,
            ended: [
                counters.done,
                counters.failed,
                counters.cancelled,
                counters.expired,
            ],
            events_dropped: counters.events_dropped,
        }
    }

    fn list_processes(&self) -> Processes {
        let mut all: Vec<&Process> = self.table.iter().map(|(_, process)| process).collect();
        let omitted = all.len().saturating_sub(PROCESSES_LISTED_MAX);
        let age_key = |process: &&Process| (process.accepted_at, process.header.process);
        if omitted > 0 {
            all.select_nth_unstable_by_key(PROCESSES_LISTED_MAX, age_key);
            all.truncate(PROCESSES_LISTED_MAX);
        }
        all.sort_unstable_by_key(age_key);
        let processes = all
            .into_iter()
            .map(|process| self.process_status(process))
            .collect();
        Processes {
            processes,
            omitted: omitted as u64,
        }
    }

    fn process_status(&self, process: &Process) -> ProcessStatus {
        let header = &process.header;
        ProcessStatus {
            process: header.process,
            parent: header.parent,
            project: header.project,
            target: header.target,
            target_doee: header.target_doee,
            class: header.class,
            queued: process.is_queued(),
            age_us: self.now.us_since(process.accepted_at),
        }
    }
}
