//! Asynchronous calls of a project's routes: how far they are, their results, their end.
//!
//! All that is below `/PROJECT/.processes` is answered here and reaches no Doee. Who asks is who the token says; a
//! token that is missing or no good is nobody, who learns only of what nobody in particular has called. So a
//! process that is somebody else's looks like one that never was.

use http::{Method, Response, StatusCode, request::Parts};
use isms_http::{Body, Preferences, Problem, Questions, parse_process, show_state, wait_s};
use isms_protocol::{
    ErrorCode, Header, Kind, PrincipalId, ProcessId, Service, commserver::PROCESSES_SEGMENT,
};

use crate::{
    call::{Edge, other_method, traceparent},
    path::RequestPath,
    response::respond,
};

/// True for the paths that are answered here.
pub(crate) fn is_meant(path: &RequestPath<'_>) -> bool {
    path.segments
        .first()
        .is_some_and(|segment| segment == PROCESSES_SEGMENT)
}

/// The URL of a process whose call came in by this path.
pub(crate) fn location(path: &RequestPath<'_>, process: ProcessId) -> String {
    format!("/{}/{PROCESSES_SEGMENT}/{process}", path.project)
}

impl Edge {
    /// Answers a request about an asynchronous call.
    pub(crate) async fn about_process(
        &self,
        parts: &Parts,
        path: &RequestPath<'_>,
    ) -> Result<Response<Body>, Problem> {
        let project = self.project(path)?.project;
        let (text, of_result) = match &path.segments[1..] {
            [process] => (process, false),
            [process, last] if last == "result" => (process, true),
            _ => {
                let detail = "there is nothing here but `.processes/ID` and `.processes/ID/result`";
                return Err(Problem::new(ErrorCode::NotFound, detail));
            }
        };
        let is_cancel = parts.method == Method::DELETE && !of_result;
        if !is_cancel && ![Method::GET, Method::HEAD].contains(&parts.method) {
            let (allow, detail) = match of_result {
                true => (
                    "GET, HEAD, OPTIONS",
                    "a result is read with GET; the call itself is cancelled with DELETE at `.processes/ID`",
                ),
                false => (
                    "DELETE, GET, HEAD, OPTIONS",
                    "an asynchronous call is asked about with GET and cancelled with DELETE",
                ),
            };
            return other_method(&parts.method, allow, detail);
        }
        let process = parse_process(text)?;
        let wait_s = wait_s(parts.uri.query(), Preferences::of(&parts.headers))?;
        self.check_kernel()?;
        let questions = Questions {
            link: &self.link,
            header: Header {
                project,
                principal: self.principal(parts).await?,
                trace: self.trace_ids.context(traceparent(parts)).0,
                ..Header::new(Kind::Request, Service::Commserver, Service::Kernel)
            },
            process,
            any_principal: false,
        };
        let location = location(path, process);
        if of_result {
            return respond(questions.result(wait_s).await?);
        }
        let (status, state) = match is_cancel {
            true => questions.cancel().await?,
            false => (StatusCode::OK, questions.state(wait_s).await?),
        };
        Ok(show_state(status, &state, &location))
    }

    /// Who asks; nobody when there is no token that says it.
    async fn principal(&self, parts: &Parts) -> Result<PrincipalId, Problem> {
        match self.authenticator.authenticate(&parts.headers).await {
            Ok(principal) => Ok(principal.id),
            Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => Ok(PrincipalId::NONE),
            Err(problem) => Err(problem),
        }
    }
}
