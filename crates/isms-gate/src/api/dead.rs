//! Dead letters of a project: durable calls that were given up. They are listed, run again and discarded.
//!
//! A letter runs again as the version that serves now, whichever has failed: what was wrong with the function has
//! hopefully been mended. Which of the project's functions that is, its name says.

use http::{HeaderValue, StatusCode, header};
use isms_http::{Problem, parse_process, show_state};
use isms_protocol::{
    DoeeVersion, ErrorCode, ProcessId, ProjectId, Service,
    kernel::{DeadAfter, DeadLetter, DeadLetters, DeadQuestion, Operation, ProcessState},
    limits::DEAD_LISTED_MAX,
    resadmin::Project,
};

use super::{ASK_TIMEOUT, Answer, Call, json, no_content, process};
use crate::view;

impl Call<'_> {
    /// Some of the letters, in the order of their ids, with the names of their Doees.
    pub(super) async fn list_dead(&self) -> Answer {
        let after = dead_after(self.parts.uri.query().unwrap_or_default())?;
        let project = self.project(self.parameter(0)).await?;
        let letters = self.dead_letters(project.id, after).await?;
        self.learn_names(letters.letters.iter().map(|letter| letter.doee))
            .await?;
        let name = |version| Some(self.gate.names.get(version)?.doee);
        json(StatusCode::OK, &view::dead_letters(&letters, name))
    }

    /// Runs a letter again, as the current version of the Doee of its name.
    pub(super) async fn replay_dead(&self) -> Answer {
        let process = parse_letter(self.parameter(1))?;
        let project = self.project(self.parameter(0)).await?;
        let letter = self.dead_letter(project.id, process).await?;
        let doee = self.current_version(&project, letter.doee).await?;
        let header = self.kernel_header(Operation::Replay, project.id);
        let state: ProcessState = self.ask(header, &DeadQuestion { process, doee }).await?;
        let location = process::location(process);
        tracing::info!(%process, by = self.caller.name, "a dead letter runs again");
        let mut response = show_state(StatusCode::ACCEPTED, &state, &location);
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    /// Forgets a letter.
    pub(super) async fn discard_dead(&self) -> Answer {
        let process = parse_letter(self.parameter(1))?;
        let project = self.project(self.parameter(0)).await?;
        let question = DeadQuestion {
            process,
            doee: DoeeVersion::NONE,
        };
        self.tell(self.kernel_header(Operation::Discard, project.id), &question)
            .await?;
        tracing::info!(%process, by = self.caller.name, "discarded a dead letter");
        no_content()
    }

    async fn dead_letters(&self, project: ProjectId, after: DeadAfter) -> Result<DeadLetters, Problem> {
        self.ask(self.kernel_header(Operation::Dead, project), &after)
            .await
    }

    /// One letter: the first after the id that is one less.
    async fn dead_letter(&self, project: ProjectId, process: ProcessId) -> Result<DeadLetter, Problem> {
        let before = u128::from_be_bytes(process.to_bytes()).saturating_sub(1);
        let after = DeadAfter {
            process: ProcessId::from_bytes(before.to_be_bytes()),
            count: 1,
        };
        let found = self.dead_letters(project, after).await?;
        let mut letters = found.letters.into_iter();
        letters
            .next()
            .filter(|letter| letter.process == process)
            .ok_or_else(no_letter)
    }

    /// The version that serves now of the Doee that a version was of.
    async fn current_version(&self, project: &Project, version: DoeeVersion) -> Result<DoeeVersion, Problem> {
        if project.doees.iter().any(|doee| doee.version == version) {
            return Ok(version);
        }
        self.learn_names([version].into_iter()).await?;
        let gone = |detail: String| Problem::new(ErrorCode::NotFound, detail);
        let names = self.gate.names.get(version).ok_or_else(|| {
            gone(
                "it is not known any more which function the letter was for; it can only be discarded".into(),
            )
        })?;
        let current = project.doees.iter().find(|doee| doee.name == names.doee);
        current.map(|doee| doee.version).ok_or_else(|| {
            gone(format!(
                "the project no longer has the function `{}` that the letter was for; deploy one of that name, or \
                 discard the letter",
                names.doee
            ))
        })
    }

    fn kernel_header(&self, operation: Operation, project: ProjectId) -> isms_protocol::Header {
        self.header(Service::Kernel, operation as u16, project, ASK_TIMEOUT)
    }
}

fn no_letter() -> Problem {
    Problem::new(
        ErrorCode::NotFound,
        "there is no such dead letter; it may have been run again, discarded or kept for long enough",
    )
}

fn parse_letter(text: &str) -> Result<ProcessId, Problem> {
    parse_process(text).map_err(|_| no_letter())
}

/// Reads `after=ID` and `count=N`, each at most once.
fn dead_after(query: &str) -> Result<DeadAfter, Problem> {
    let (mut after, mut count) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let invalid = || {
            let detail = format!(
                "`{}` is not `after=ID` or `count=1..{DEAD_LISTED_MAX}`, each at most once",
                pair.escape_debug()
            );
            Problem::new(ErrorCode::Invalid, detail)
        };
        match pair.split_once('=') {
            Some(("after", value)) if after.is_none() => {
                after = Some(parse_process(value).map_err(|_| invalid())?);
            }
            Some(("count", value)) if count.is_none() => {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let asked = value.parse().ok().filter(|asked| {
                    let max = DEAD_LISTED_MAX as u32;
                    digits && (1..=max).contains(asked)
                });
                count = Some(asked.ok_or_else(invalid)?);
            }
            _ => return Err(invalid()),
        }
    }
    Ok(DeadAfter {
        process: after.unwrap_or(ProcessId::NONE),
        count: count.unwrap_or(DEAD_LISTED_MAX as u32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_or_refused() {
        let id = ProcessId::generate();
        let parse = |query: &str| {
            let after = dead_after(query).map_err(|problem| problem.status().as_u16())?;
            Ok((after.process, after.count))
        };
        assert_eq!(parse(""), Ok((ProcessId::NONE, 100)));
        assert_eq!(parse(&format!("after={id}&count=1")), Ok((id, 1)));
        for query in [
            "after=",
            "after=x",
            "count=0",
            "count=101",
            "count=+5",
            "count=1&count=1",
            "count",
            "before=1",
        ] {
            assert_eq!(parse(query), Err(400), "{query}");
        }
    }
}
