//! Asynchronous calls that the caller has made: how far they are, their results, their end. An administrator sees and
//! cancels those of others as well; whose a result is, the Kernel decides.

use http::StatusCode;
use isms_http::{Preferences, Problem, Questions, parse_process, show_state, wait_s};
use isms_protocol::{ProcessId, ProjectId, Service, kernel::Operation, resadmin::Right};

use super::{ASK_TIMEOUT, Answer, Call, invoke};

impl Call<'_> {
    /// At once, or after a wait for the end.
    pub(super) async fn show_process(&self) -> Answer {
        let (questions, wait_s) = self.questions()?;
        let state = questions.state(wait_s).await?;
        Ok(show_state(StatusCode::OK, &state, &location(state.process)))
    }

    /// The Doee's own answer.
    pub(super) async fn process_result(&self) -> Answer {
        let (questions, wait_s) = self.questions()?;
        invoke::respond(questions.result(wait_s).await?)
    }

    pub(super) async fn cancel_process(&self) -> Answer {
        let (questions, _) = self.questions()?;
        let (status, state) = questions.cancel().await?;
        Ok(show_state(status, &state, &location(state.process)))
    }

    /// In the caller's name; a token of no project asks in all of them.
    fn questions(&self) -> Result<(Questions<'_>, u32), Problem> {
        let process = parse_process(self.parameter(0))?;
        let wait_s = wait_s(self.parts.uri.query(), Preferences::of(&self.parts.headers))?;
        let project = self.caller.project.unwrap_or(ProjectId::NONE);
        let questions = Questions {
            link: &self.gate.link,
            header: self.header(Service::Kernel, Operation::Process as u16, project, ASK_TIMEOUT),
            process,
            any_principal: self.caller.rights.contains(&Right::Admin),
        };
        Ok((questions, wait_s))
    }
}

/// Where a process is asked about.
pub(super) fn location(process: ProcessId) -> String {
    format!("/api/v1/processes/{process}")
}
