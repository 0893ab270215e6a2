//! Traced calls: the latest ones, and one by the id of a process or of a trace.
//!
//! Whose a call is, its record says. What the caller may not see looks like what does not exist.

use std::str::FromStr;

use http::StatusCode;
use isms_http::Problem;
use isms_protocol::{DoeeVersion, ErrorCode, ProcessId, ProjectId, TraceId};

use super::{Answer, Call, json};
use crate::{
    trace_store::{Listed, TracedCall},
    trace_view,
};

/// Calls that are listed when nothing is said.
const COUNT_DEFAULT: usize = 20;
/// Calls that may be asked for.
const COUNT_MAX: usize = 200;

impl Call<'_> {
    /// Of a project, or of all that the caller sees.
    pub(super) async fn list_traces(&self, project: Option<&str>) -> Answer {
        let query = Query::parse(self.parts.uri.query().unwrap_or_default())?;
        let project = match project {
            Some(name) => Some(self.project(name).await?.id),
            None => self.caller.project,
        };
        let doees = match &query.doee {
            Some(name) => Some(self.versions_called(name, project).await?),
            None => None,
        };
        let listed = Listed {
            project,
            doees,
            slow: query.slow,
            count: query.count,
        };
        let summaries = self.gate.traces.list(&listed);
        let versions = summaries.iter().map(|summary| summary.last.doee);
        self.learn_names(versions).await?;
        let name = |version| self.gate.names.get(version);
        json(StatusCode::OK, &trace_view::summaries(&summaries, &name))
    }

    /// By the id of a process, which may be one that ran on behalf of the call, or of a trace.
    pub(super) async fn show_trace(&self, project: Option<&str>, id: &str) -> Answer {
        let id = Id::parse(id)?;
        let project = match project {
            Some(name) => Some(self.project(name).await?.id),
            None => self.caller.project,
        };
        let sees = |of: ProjectId| project.is_none_or(|project| project == of);
        let calls: Vec<TracedCall> = match id {
            Id::Process(process) => {
                let call = self.gate.traces.of_process(process);
                call.filter(|call| sees(call.project)).into_iter().collect()
            }
            Id::Trace(trace) => self.gate.traces.of_trace(trace, sees),
        };
        if calls.is_empty() {
            return Err(no_trace());
        }
        let versions = calls.iter().flat_map(|call| &call.spans).map(|span| span.doee);
        self.learn_names(distinct(versions)).await?;
        let name = |version| self.gate.names.get(version);
        json(StatusCode::OK, &trace_view::calls(&calls, &name))
    }

    /// The versions of a Doee that were called, old ones too.
    async fn versions_called(
        &self,
        doee: &str,
        project: Option<ProjectId>,
    ) -> Result<Vec<DoeeVersion>, Problem> {
        let mut versions = self.gate.traces.doees(project);
        self.learn_names(versions.iter().copied()).await?;
        let is_called = |version: &DoeeVersion| {
            let names = self.gate.names.get(*version);
            names.is_some_and(|names| names.doee == doee)
        };
        versions.retain(is_called);
        Ok(versions)
    }
}

/// Those of Doees, each once.
fn distinct(versions: impl Iterator<Item = DoeeVersion>) -> impl Iterator<Item = DoeeVersion> {
    let mut versions: Vec<DoeeVersion> = versions.filter(|version| !version.is_none()).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.into_iter()
}

fn no_trace() -> Problem {
    let detail =
        "there is no such trace; it was not chosen to be traced, has not ended yet, or is no longer kept";
    Problem::new(ErrorCode::NotFound, detail)
}

/// What a trace is found by.
#[derive(Debug, PartialEq, Eq)]
enum Id {
    Process(ProcessId),
    Trace(TraceId),
}

impl Id {
    /// Each is written in one way: a process's id with hyphens, a trace's as 32 digits.
    fn parse(text: &str) -> Result<Id, Problem> {
        if let Some(trace) = parse_trace(text) {
            return Ok(Id::Trace(trace));
        }
        let process = isms_http::parse_process(text).map_err(|_| no_trace())?;
        Ok(Id::Process(process))
    }
}

fn parse_trace(text: &str) -> Option<TraceId> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 32 || !text.bytes().all(is_hex) {
        return None;
    }
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(TraceId(number.to_be_bytes()))
}

/// What is listed.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    doee: Option<String>,
    slow: bool,
    count: usize,
}

impl Query {
    fn parse(query: &str) -> Result<Query, Problem> {
        let invalid = |pair: &str| {
            let detail = format!(
                "`{}` is not `doee=NAME`, `order=newest|slowest` or `count=1..{COUNT_MAX}`, each at most once",
                pair.escape_debug()
            );
            Problem::new(ErrorCode::Invalid, detail)
        };
        let (mut doee, mut slow, mut count) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("doee", name)) if doee.is_none() && !name.is_empty() => doee = Some(name.to_owned()),
                Some(("order", "newest")) if slow.is_none() => slow = Some(false),
                Some(("order", "slowest")) if slow.is_none() => slow = Some(true),
                Some(("count", value)) if count.is_none() => {
                    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                    let asked = usize::from_str(value).ok();
                    let asked = asked.filter(|asked| digits && (1..=COUNT_MAX).contains(asked));
                    count = Some(asked.ok_or_else(|| invalid(pair))?);
                }
                _ => return Err(invalid(pair)),
            }
        }
        Ok(Query {
            doee,
            slow: slow.unwrap_or(false),
            count: count.unwrap_or(COUNT_DEFAULT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_or_refused() {
        let parse = |query| {
            let query = Query::parse(query).map_err(|problem| problem.status().as_u16())?;
            Ok((query.doee, query.slow, query.count))
        };
        assert_eq!(parse(""), Ok((None, false, 20)));
        assert_eq!(parse("order=newest"), Ok((None, false, 20)));
        assert_eq!(
            parse("doee=d&order=slowest&count=200"),
            Ok((Some("d".into()), true, 200))
        );
        for query in [
            "doee",
            "doee=",
            "doee=a&doee=b",
            "order=fast",
            "order=newest&order=newest",
            "count=0",
            "count=201",
            "count=+5",
            "count=",
            "after=x",
        ] {
            assert_eq!(parse(query), Err(400), "{query}");
        }
    }

    #[test]
    fn an_id_is_a_processs_or_a_traces_and_written_in_one_way() {
        let process = ProcessId::generate();
        assert_eq!(Id::parse(&process.to_string()).ok(), Some(Id::Process(process)));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parsed = Id::parse(trace).ok();
        assert!(matches!(&parsed, Some(Id::Trace(id)) if id.to_string() == trace));
        for text in [
            "",
            "1",
            &trace[1..],
            &trace.to_uppercase(),
            &trace.replace('0', "+"),
        ] {
            let refused = Id::parse(text).map_err(|problem| problem.status().as_u16());
            assert_eq!(refused, Err(404), "{text}");
        }
    }
}
