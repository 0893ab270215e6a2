//! What the simulated services ask for, with or without the right to.

use isms_protocol::{
    Class, DoeeVersion, Flags, Header, Kind, PrincipalId, ProcessId, ProjectId, Service, SpanId,
    TraceContext, TraceId, dbriver, doer, encode,
    kernel::{self, ProjectSettings},
    limits::KEY_LEN,
    resadmin,
};

use super::{
    observer::Meant,
    world::{CREDIT, World, version},
};

impl World {
    /// A service makes a request, sometimes one that it has no right to.
    pub(super) fn ask(&mut self, actor: usize) {
        let sender = self.actors[actor].service;
        if self.actors[actor].peer.is_none() || self.actors[actor].unanswered() >= CREDIT as usize {
            return;
        }
        let Some((mut header, mut meant)) = self.random_request(actor, sender) else {
            return;
        };
        self.next_span += 1;
        let span = self.next_span.to_le_bytes();
        self.actors[actor].next_call += 1;
        header.call = self.actors[actor].next_call;
        header.trace = TraceContext {
            trace: TraceId([9; 16]),
            span: SpanId(span),
        };
        if self.random.percent(40) {
            header.remaining_us = 1 + self.random.below(1_500_000);
        }
        let streams = self.random.percent(25) && header.target != Service::Kernel;
        if streams {
            header.flags = Flags::STREAM;
        }
        let is_invoke = header.target == Service::Doer && header.operation == doer::Operation::Invoke as u16;
        if is_invoke && self.random.percent(45) {
            header.flags = header.flags.with(Flags::ASYNC);
            // It outlives whoever asked for it.
            meant.parent = None;
            if self.random.percent(self.durable_percent) {
                header.flags = header.flags.with(Flags::DURABLE);
            }
        }
        let key = (header.flags.contains(Flags::DURABLE) && self.random.percent(30)).then(|| {
            header.flags = header.flags.with(Flags::KEYED);
            let mut key = [self.random.below(3) as u8; KEY_LEN];
            key[..3].copy_from_slice(&[
                meant.project.to_bytes()[0],
                header.principal.to_bytes()[0],
                header.target_doee.to_bytes()[0],
            ]);
            key
        });
        if self.random.percent(4) {
            header.calling_doee = DoeeVersion::from_bytes([7; 16]);
            meant.must_fail = true;
        }
        let question = meant.about.map(|process| kernel::ProcessQuestion {
            process,
            wait_ms: self.random.below(2) as u32 * self.random.below(3_000) as u32,
            any_principal: meant.any_principal,
        });
        self.meant.insert(span, meant);
        self.actors[actor].ask(header, question, &mut self.random);
        if let Some(key) = key {
            let asked = self.actors[actor].outbox.back_mut();
            asked.expect("the request was put there").raw = key.to_vec().into();
        }
        if header.operation == kernel::Operation::SetProject as u16 && header.target == Service::Kernel {
            let settings = self.random_settings();
            let asked = self.actors[actor].outbox.back_mut();
            asked.expect("the request was put there").body = encode(&settings).into();
        }
    }

    /// What a project is to get from now on, sometimes nothing but the defaults.
    fn random_settings(&mut self) -> ProjectSettings {
        let defaults = ProjectSettings::default();
        match self.random.below(4) {
            0 => defaults,
            _ => ProjectSettings {
                weight: 1 + self.random.below(1_000) as u32,
                rate_max: self.random.below(40) as u32,
                // Mostly so few that calls of one Doee wait for those of another.
                concurrency_max: self.random.pick(&[0, 1, 1, 1, 2]),
            },
        }
    }

    fn random_request(&mut self, actor: usize, sender: Service) -> Option<(Header, Meant)> {
        let is_edge = [Service::Commserver, Service::Gate].contains(&sender);
        if is_edge && self.random.percent(25) {
            return self.random_question(sender);
        }
        let (target, operation) = match (sender, self.random.below(3)) {
            (Service::Commserver, 0) => (Service::Resadmin, resadmin::Operation::Authenticate as u16),
            (Service::Commserver, _) => (Service::Doer, doer::Operation::Invoke as u16),
            (Service::Gate, 0) => (Service::Kernel, kernel::Operation::Processes as u16),
            (Service::Gate, 1) => (Service::Resadmin, resadmin::Operation::Deploy as u16),
            (Service::Gate, _) => (Service::Doer, doer::Operation::Invoke as u16),
            (Service::Doer, 0) => (Service::Resadmin, resadmin::Operation::Binary as u16),
            (Service::Doer, 1) if self.random.percent(60) => (Service::Doer, doer::Operation::Invoke as u16),
            (Service::Doer, _) => (Service::Dbriver, dbriver::Operation::Transaction as u16),
            (Service::Resadmin, 0) if self.random.percent(75) => {
                let deletes = self.random.percent(20);
                let operation = match deletes {
                    true => kernel::Operation::ForgetProject,
                    false => kernel::Operation::SetProject,
                };
                (Service::Kernel, operation as u16)
            }
            (Service::Resadmin, 0) => (Service::Dbriver, dbriver::Operation::Prepare as u16),
            (Service::Resadmin, _) => (Service::Doer, doer::Operation::Build as u16),
            (Service::Dbriver, 0) => (Service::Doer, doer::Operation::Invoke as u16),
            _ => (Service::Resadmin, resadmin::Operation::Grants as u16),
        };
        let mut header = Header {
            operation,
            ..Header::new(Kind::Request, sender, target)
        };
        header.class = self.random.pick(&Class::ALL);
        let mut meant = Meant {
            class: header.class,
            project: ProjectId::NONE,
            parent: None,
            must_fail: sender == Service::Dbriver && target == Service::Doer,
            deadline: None,
            about: None,
            any_principal: false,
        };
        if operation == doer::Operation::Invoke as u16 && target == Service::Doer {
            header.target_doee = version(self.random.below(3));
            if is_edge {
                header.principal = principal(self.random.below(3));
            }
        }
        let is_child = sender == Service::Doer && target != Service::Resadmin
            || sender == Service::Resadmin && target != Service::Kernel && self.random.percent(50);
        match is_child {
            true => self.on_behalf(actor, &mut header, &mut meant)?,
            false if target != Service::Kernel || sender == Service::Resadmin => {
                header.project = ProjectId::from_bytes([1 + self.random.below(3) as u8; 16]);
                meant.project = header.project;
            }
            false => {}
        }
        Some((header, meant))
    }

    /// An edge asks about an asynchronous call, sometimes about another's.
    fn random_question(&mut self, sender: Service) -> Option<(Header, Meant)> {
        let known = self.observer.accepted();
        if known.is_empty() {
            return None;
        }
        let (process, project, owner) = self.random.pick(&known);
        let operation = self.random.pick(&[
            kernel::Operation::Process,
            kernel::Operation::Process,
            kernel::Operation::Result,
            kernel::Operation::Cancel,
        ]);
        let mut header = Header {
            operation: operation as u16,
            project,
            principal: owner,
            ..Header::new(Kind::Request, sender, Service::Kernel)
        };
        match self.random.below(6) {
            0 => header.project = ProjectId::from_bytes([0xaa; 16]),
            1 => header.principal = PrincipalId::from_bytes([0xaa; 16]),
            2 => header.project = ProjectId::NONE,
            _ => {}
        }
        // An administrator asks about all calls of the project, but reads no results of others.
        let any_principal = self.random.percent(25);
        let asks_all = any_principal && operation != kernel::Operation::Result;
        let all_projects = header.project.is_none() && !header.principal.is_none();
        let is_own = header.principal == owner || owner.is_none() && header.project == project;
        let may = (header.project == project || all_projects) && (is_own || asks_all);
        let meant = Meant {
            class: header.class,
            project: header.project,
            parent: None,
            must_fail: !may || any_principal && sender != Service::Gate,
            deadline: None,
            about: Some(process),
            any_principal,
        };
        Some((header, meant))
    }

    /// Makes a request that of a process which runs at its sender, or claims to.
    fn on_behalf(&mut self, actor: usize, header: &mut Header, meant: &mut Meant) -> Option<()> {
        let fits = |parent: &Header| {
            parent.operation == doer::Operation::Invoke as u16 || parent.target == Service::Resadmin
        };
        let parents: Vec<Header> = self.actors[actor]
            .work
            .values()
            .map(|work| work.header)
            .filter(fits)
            .collect();
        if self.random.percent(8) {
            header.parent = ProcessId::from_bytes([0xee; 16]);
            header.attempt = 1;
            meant.must_fail = true;
            return Some(());
        }
        if parents.is_empty() {
            return None;
        }
        let parent = self.random.pick(&parents);
        (header.parent, header.attempt) = (parent.process, parent.attempt);
        meant.class = header.class.capped_by(parent.class);
        meant.project = parent.project;
        meant.parent = Some(parent.trace.span.0);
        if header.target == Service::Doer {
            // What is inherited may be claimed as well.
            header.principal = parent.principal;
        }
        if self.random.percent(5) {
            header.attempt += 1;
            meant.must_fail = true;
        } else if self.random.percent(5) && !parent.project.is_none() {
            header.project = ProjectId::from_bytes([0xaa; 16]);
            meant.must_fail = true;
        }
        Some(())
    }
}

/// One of a few principals; the first is nobody.
fn principal(number: u64) -> PrincipalId {
    PrincipalId::from_bytes([number as u8; 16])
}
