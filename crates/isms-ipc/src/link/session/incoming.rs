//! What the Kernel sends on a registered connection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, WireError,
    kernel::{Resumed, StreamCredit},
};

use super::{
    super::{
        answer::Answer,
        flow::{FlowViolation, Inflow, Outflow},
        inbox::{Inbound, InboundRequest},
        responder::Responder,
        stream::StreamReceiver,
    },
    AnswerSlot, Flag, Role, STRAYS_MAX, Served, Session, Tables,
};

/// What a Kernel never does, and from [`Violation::Unasked`] on what is overlooked in a Kernel and in nobody else; the
/// connection is cut.
#[derive(Debug, thiserror::Error)]
pub(in crate::link) enum Violation {
    #[error("request {call} came while it was being served")]
    RequestTwice { call: u64 },
    #[error("more than {max} requests are under way")]
    TooManyRequests { max: usize },
    #[error("credit of call {call} is malformed")]
    Credit {
        call: u64,
        #[source]
        source: isms_protocol::DecodeError,
    },
    #[error("stream of call {call} breaks its rules")]
    Flow {
        call: u64,
        #[source]
        source: FlowViolation,
    },
    #[error("register came on a registered connection")]
    Register,
    #[error("an answer came to call {call}, which does not wait for one")]
    Unasked { call: u64 },
    #[error("a chunk of no bytes came in the stream of call {call}")]
    EmptyChunk { call: u64 },
    #[error("more than {STRAYS_MAX} messages came about nothing that is under way")]
    Strays,
}

impl Session {
    /// Handles a message; what the role itself must see is returned.
    pub(in crate::link) fn handle(
        self: &Arc<Session>,
        message: Message,
    ) -> Result<Option<Inbound>, Violation> {
        match message.header.kind {
            Kind::Request => return self.serve(message).map(Some),
            Kind::Reply | Kind::Error => self.take_answer(message)?,
            Kind::Cancel => self.take_cancel(message.header.call)?,
            Kind::Credit => self.take_credit(&message)?,
            Kind::StreamChunk => self.take_chunk(message)?,
            Kind::StreamEnd => self.take_end(&message.header)?,
            Kind::Heartbeat => self.stray()?,
            Kind::Register => return Err(Violation::Register),
            Kind::Event | Kind::Slots | Kind::Demand | Kind::Begun => {
                return Ok(Some(Inbound::Other(message)));
            }
        }
        Ok(None)
    }

    /// Counts a message about nothing that is under way. One that crossed an end is no fault, a flood of them is.
    fn stray(&self) -> Result<(), Violation> {
        if !self.stranger {
            return Ok(());
        }
        let mut tables = self.tables();
        tables.strays += 1;
        if tables.strays > STRAYS_MAX {
            return Err(Violation::Strays);
        }
        Ok(())
    }

    fn serve(self: &Arc<Session>, message: Message) -> Result<Inbound, Violation> {
        let header = message.header;
        let cancelled = Arc::<Flag>::default();
        let inflow = header.flags.contains(Flags::STREAM).then(|| self.new_inflow());
        let record = Served {
            answered: false,
            cancelled: Arc::clone(&cancelled),
            outflow: None,
            inflow: inflow.clone(),
        };
        let mut tables = self.tables();
        if tables.served.contains_key(&header.call) {
            return Err(Violation::RequestTwice { call: header.call });
        }
        if tables.served.len() >= self.requests_max {
            return Err(Violation::TooManyRequests {
                max: self.requests_max,
            });
        }
        tables.served.insert(header.call, record);
        tables.forgive_strays();
        drop(tables);
        let credit = Header {
            flags: Flags::TO_CALLER,
            ..header.answer(Kind::Credit)
        };
        let stream = inflow.map(|flow| StreamReceiver::new(flow, Arc::clone(self), Role::Callee, credit));
        let deadline = match header.remaining_us {
            0 => None,
            remaining => Instant::now().checked_add(Duration::from_micros(remaining)),
        };
        let responder = Responder::new(Arc::clone(self), header, cancelled);
        Ok(Inbound::Request(InboundRequest {
            message,
            deadline,
            stream,
            responder,
        }))
    }

    fn take_answer(self: &Arc<Session>, message: Message) -> Result<(), Violation> {
        let header = message.header;
        let unasked = || match self.stranger {
            true => Err(Violation::Unasked { call: header.call }),
            false => Ok(()),
        };
        let streaming = header.kind == Kind::Reply && header.flags.contains(Flags::STREAM);
        let mut tables = self.tables();
        let Some(record) = tables.calls.get_mut(&header.call) else {
            return unasked();
        };
        let slot = std::mem::replace(&mut record.answer, AnswerSlot::Given);
        let inflow = match &slot {
            AnswerSlot::Awaited(_) => streaming.then(|| self.new_inflow()),
            AnswerSlot::Abandoned => None,
            // A second answer: the first one counts.
            AnswerSlot::Given => return unasked(),
        };
        record.inflow.clone_from(&inflow);
        let outflow = if streaming { None } else { record.outflow.take() };
        let resumes = record.resumes;
        let credit = Header {
            kind: Kind::Credit,
            flags: Flags::NONE,
            ..record.header
        };
        if matches!(slot, AnswerSlot::Awaited(_)) && resumes > 0 {
            tables.adopt(&message, resumes)?;
        }
        tables.forget_call(header.call);
        tables.forgive_strays();
        drop(tables);
        if let Some(outflow) = outflow {
            outflow.fail(WireError::new(
                ErrorCode::Cancelled,
                "the call was answered before its stream ended",
            ));
        }
        if let AnswerSlot::Awaited(slot) = slot {
            let stream = inflow.map(|flow| StreamReceiver::new(flow, Arc::clone(self), Role::Caller, credit));
            // A caller that has gone meanwhile drops the answer, and its stream with it.
            let _ = slot.send(read_answer(message, stream));
        }
        Ok(())
    }

    fn take_cancel(&self, call: u64) -> Result<(), Violation> {
        let mut tables = self.tables();
        let Some(record) = tables.served.get_mut(&call) else {
            drop(tables);
            return self.stray();
        };
        let (cancelled, inflow) = (Arc::clone(&record.cancelled), record.inflow.take());
        let outflow = record.outflow.clone();
        tables.forget_served(call);
        drop(tables);
        cancelled.set();
        super::end_flows(outflow, inflow, &super::cancelled_by_caller());
        Ok(())
    }

    fn take_credit(&self, message: &Message) -> Result<(), Violation> {
        let header = &message.header;
        let credit: StreamCredit = message.decode_body().map_err(|source| Violation::Credit {
            call: header.call,
            source,
        })?;
        match self.outflow(header) {
            Some(outflow) => {
                outflow.grant(credit.bytes);
                Ok(())
            }
            None => self.stray(),
        }
    }

    fn take_chunk(&self, message: Message) -> Result<(), Violation> {
        let header = message.header;
        // An unknown stream is one that nobody reads any more.
        let Some(inflow) = self.inflow(&header) else {
            return self.stray();
        };
        if self.stranger && message.raw.is_empty() {
            return Err(Violation::EmptyChunk { call: header.call });
        }
        let grant = inflow.accept(message.raw).map_err(|source| Violation::Flow {
            call: header.call,
            source,
        })?;
        if grant > 0 {
            self.grant(
                &Header {
                    flags: Flags::TO_CALLER,
                    ..header.answer(Kind::Credit)
                },
                grant,
            );
        }
        Ok(())
    }

    fn take_end(&self, header: &Header) -> Result<(), Violation> {
        let mut tables = self.tables();
        let inflow = if header.flags.contains(Flags::TO_CALLER) {
            let inflow = tables
                .calls
                .get_mut(&header.call)
                .and_then(|record| record.inflow.take());
            tables.forget_call(header.call);
            inflow
        } else {
            let inflow = tables
                .served
                .get_mut(&header.call)
                .and_then(|record| record.inflow.take());
            tables.forget_served(header.call);
            inflow
        };
        drop(tables);
        let Some(inflow) = inflow else {
            return self.stray();
        };
        let aborted = header.flags.contains(Flags::ABORTED);
        let broken = || WireError::new(ErrorCode::Unavailable, "the stream broke off before its end");
        inflow.end(if aborted { Err(broken()) } else { Ok(()) });
        Ok(())
    }

    fn new_inflow(&self) -> Arc<Inflow> {
        Arc::new(Inflow::new(Arc::clone(&self.budget)))
    }

    /// The flow that a credit is for: marked, the stream of a request that this side has sent.
    fn outflow(&self, header: &Header) -> Option<Arc<Outflow>> {
        let tables = self.tables();
        if header.flags.contains(Flags::TO_CALLER) {
            tables
                .calls
                .get(&header.call)
                .and_then(|record| record.outflow.clone())
        } else {
            tables
                .served
                .get(&header.call)
                .and_then(|record| record.outflow.clone())
        }
    }

    /// The flow that a chunk is for: marked, the stream of an answer that this side has got.
    fn inflow(&self, header: &Header) -> Option<Arc<Inflow>> {
        let tables = self.tables();
        if header.flags.contains(Flags::TO_CALLER) {
            tables
                .calls
                .get(&header.call)
                .and_then(|record| record.inflow.clone())
        } else {
            tables
                .served
                .get(&header.call)
                .and_then(|record| record.inflow.clone())
        }
    }
}

impl Tables {
    /// Serves requests of an earlier connection under the ids that the answer gives them: at once, since what comes
    /// next may be about them. An answer that cannot be read, or has not as many, is left to who waits for it.
    fn adopt(&mut self, answer: &Message, count: usize) -> Result<(), Violation> {
        let calls = match answer.decode_body() {
            Ok(Resumed { calls }) if answer.header.kind == Kind::Reply && calls.len() == count => calls,
            _ => return Ok(()),
        };
        for call in calls.into_iter().filter(|call| *call != 0) {
            if self.served.contains_key(&call) {
                return Err(Violation::RequestTwice { call });
            }
            self.served.insert(
                call,
                Served {
                    answered: false,
                    cancelled: Arc::default(),
                    outflow: None,
                    inflow: None,
                },
            );
        }
        Ok(())
    }
}

fn read_answer(message: Message, stream: Option<StreamReceiver>) -> Result<Answer, WireError> {
    if message.header.kind == Kind::Error {
        return Err(message.decode_body().unwrap_or_else(|_| {
            WireError::new(
                ErrorCode::Internal,
                "the error that answered the call cannot be decoded",
            )
        }));
    }
    Ok(Answer { message, stream })
}
