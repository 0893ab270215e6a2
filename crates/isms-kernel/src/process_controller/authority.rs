//! Authority: on whose behalf a request runs.
//!
//! A root process says itself for which project and principal it runs, as far as the rights table
//! lets its service assert that. A child inherits both from its parent's record, with the calling
//! Doee version, and never outranks or outlives it: a higher class or more time than the parent has
//! is cut to the parent's, another identity is refused. An asynchronous call that a process makes outlives it, so its
//! time is its own; all else it inherits like a child, the depth of the chain as well.

use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, PrincipalId, ProjectId, Service, TraceId, WireError, limits,
};

use super::{
    ProcessKey, is_invoke,
    record::{Process, State},
};
use crate::{clock::Moment, core::Core, services_controller::rights::Right};

/// A request that may become a process.
pub(super) struct Admitted {
    /// The request's header with everything filled in that the Kernel fills in.
    pub(super) header: Header,
    pub(super) parent: Option<ProcessKey>,
    /// Processes above it: those on whose behalf it was asked for.
    pub(super) depth: u32,
    pub(super) deadline: Option<Moment>,
    pub(super) is_async: bool,
    pub(super) is_durable: bool,
}

impl Core {
    /// Decides whether a service may ask this, and on whose behalf it does.
    pub(super) fn admit(&mut self, sender: Service, header: &Header) -> Result<Admitted, WireError> {
        let right = *self.services.rights.of(sender, header.target);
        let is_invoke = is_invoke(header);
        if is_invoke && header.target_doee.is_none() {
            return Err(WireError::new(
                ErrorCode::Invalid,
                "an invoke names the Doee version that it runs",
            ));
        }
        let is_async = header.flags.contains(Flags::ASYNC);
        if is_async && !is_invoke {
            return Err(WireError::new(
                ErrorCode::Invalid,
                "only an invoke may be asynchronous",
            ));
        }
        let is_durable = is_async && header.flags.contains(Flags::DURABLE);
        let of_durable = Flags::KEYED.0 | Flags::LATER.0;
        if header.flags.0 & of_durable != 0 && !is_durable {
            return Err(WireError::new(
                ErrorCode::Invalid,
                "only a durable call has an idempotency key or a time to run at",
            ));
        }
        let durable = if is_durable { Flags::DURABLE } else { Flags::NONE };
        let asked = Header {
            flags: Flags(header.flags.0 & (Flags::STREAM.0 | Flags::TRACED.0)).with(durable),
            sender,
            sender_generation: self.generation(sender),
            attempt: 1,
            ..*header
        };
        let deadline = (header.remaining_us != 0).then(|| self.now.after_us(header.remaining_us));
        let mut admitted = match header.parent.is_none() {
            true => root(asked, &right, deadline)?,
            false => self.child(asked, header.attempt, &right, deadline, is_async)?,
        };
        (admitted.is_async, admitted.is_durable) = (is_async, is_durable);
        admitted.header.process = (self.ids)();
        if admitted.header.trace.trace == TraceId::default() {
            admitted.header.trace.trace = TraceId(admitted.header.process.to_bytes());
        }
        Ok(admitted)
    }

    fn child(
        &self,
        asked: Header,
        attempt: u32,
        right: &Right,
        deadline: Option<Moment>,
        is_async: bool,
    ) -> Result<Admitted, WireError> {
        if !right.allows_child(asked.operation) {
            return Err(forbidden(&asked, "on behalf of a process"));
        }
        let runs_a_doee = is_invoke(&asked);
        let (key, parent) = self.parent(&asked, attempt, runs_a_doee)?;
        let inherited = Header {
            class: asked.class.capped_by(parent.header.class),
            project: inherit_project(&asked, &parent.header, right)?,
            calling_doee: inherit(
                &asked,
                asked.calling_doee,
                parent.header.target_doee,
                DoeeVersion::NONE,
            )?,
            principal: inherit(
                &asked,
                asked.principal,
                parent.header.principal,
                PrincipalId::NONE,
            )?,
            trace: isms_protocol::TraceContext {
                trace: parent.header.trace.trace,
                span: asked.trace.span,
            },
            // What is done on behalf of a durable call may be done again. What a callee does is not: it has an id of its own.
            flags: match runs_a_doee {
                true => asked.flags,
                false => asked.flags.with(Flags(parent.header.flags.0 & Flags::DURABLE.0)),
            },
            ..asked
        };
        let deadline = match (parent.deadline, deadline) {
            (_, own) if is_async => own,
            (Some(parents), Some(own)) => Some(parents.min(own)),
            (parents, own) => parents.or(own),
        };
        Ok(Admitted {
            header: inherited,
            parent: Some(key),
            depth: parent.depth + 1,
            deadline,
            is_async: false,
            is_durable: false,
        })
    }

    /// The process on whose behalf a service asks: it must run there, in this attempt.
    fn parent(
        &self,
        asked: &Header,
        attempt: u32,
        runs_a_doee: bool,
    ) -> Result<(ProcessKey, &Process), WireError> {
        let fenced = || {
            WireError::new(
                ErrorCode::Fenced,
                "the process on whose behalf this is asked has ended",
            )
        };
        let key = self.table.by_id(asked.parent).ok_or_else(fenced)?;
        let parent = self.table.get(key).ok_or_else(fenced)?;
        if parent.callee() != asked.sender {
            return Err(WireError::new(
                ErrorCode::Forbidden,
                "this process does not run at the service that asks",
            ));
        }
        match parent.state {
            State::Running { stop: None, .. } if parent.header.attempt == attempt => {}
            State::Running { stop: Some(_), .. } => {
                return Err(WireError::new(
                    ErrorCode::Cancelled,
                    "the process on whose behalf this is asked is ending",
                ));
            }
            _ => return Err(fenced()),
        }
        // The last Doee of a chain may still use what is no Doee.
        if parent.depth + u32::from(runs_a_doee) >= limits::CALL_DEPTH_MAX {
            let message = format!("calls nest at most {} deep", limits::CALL_DEPTH_MAX);
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        if parent.children.len() >= limits::CHILDREN_MAX as usize {
            let message = format!("a process has at most {} calls in flight", limits::CHILDREN_MAX);
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        Ok((key, parent))
    }
}

fn root(asked: Header, right: &Right, deadline: Option<Moment>) -> Result<Admitted, WireError> {
    if !right.allows_root(asked.operation) {
        return Err(forbidden(&asked, "of its own accord"));
    }
    let asserts_too_much = (!asked.project.is_none() && !right.asserts_project)
        || (!asked.principal.is_none() && !right.asserts_principal)
        || !asked.calling_doee.is_none();
    if asserts_too_much {
        return Err(claims(&asked));
    }
    Ok(Admitted {
        header: asked,
        parent: None,
        depth: 0,
        deadline,
        is_async: false,
        is_durable: false,
    })
}

/// A parent without a project, such as a deployment that makes one, lets the owner of the resource name it.
fn inherit_project(asked: &Header, parent: &Header, right: &Right) -> Result<ProjectId, WireError> {
    match parent.project.is_none() && right.asserts_project {
        true => Ok(asked.project),
        false => inherit(asked, asked.project, parent.project, ProjectId::NONE),
    }
}

fn inherit<T: PartialEq>(asked: &Header, claimed: T, parents: T, none: T) -> Result<T, WireError> {
    if claimed != none && claimed != parents {
        return Err(claims(asked));
    }
    Ok(parents)
}

fn forbidden(asked: &Header, how: &str) -> WireError {
    let Header {
        sender,
        target,
        operation,
        ..
    } = asked;
    WireError::new(
        ErrorCode::Forbidden,
        format!("{sender} may not ask {target} for operation {operation} {how}"),
    )
}

fn claims(asked: &Header) -> WireError {
    let Header { sender, .. } = asked;
    WireError::new(
        ErrorCode::Forbidden,
        format!("{sender} claims an identity that it does not hold"),
    )
}
