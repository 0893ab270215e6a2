//! `isms trace`: where a call has spent its time, and which calls there are to look at.

use std::{collections::BTreeSet, fmt::Write, io::IsTerminal};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::TraceArgs,
    client::Client,
    output::{duration_us, plain, table},
};

/// Cells of the bar of the whole call.
const BAR_LEN: u64 = 40;
/// Calls that ask for calls are drawn this deep.
const DEPTH_MAX: usize = 20;

/// What the platform says of one trace, as far as it is shown.
#[derive(Clone, Debug, Deserialize)]
struct Trace {
    trace: String,
    calls: Vec<Call>,
}

#[derive(Clone, Debug, Deserialize)]
struct Call {
    process: String,
    project_name: Option<String>,
    outcome: Option<String>,
    omitted: u64,
    spans: Vec<Span>,
}

#[derive(Clone, Debug, Deserialize)]
struct Span {
    process: String,
    attempt: u32,
    parent: Option<String>,
    parent_attempt: Option<u32>,
    service: String,
    operation: Option<String>,
    doee: Option<String>,
    version: Option<String>,
    at_us: u64,
    queued_us: u64,
    dispatched_us: Option<u64>,
    begun_us: Option<u64>,
    ran_us: Option<u64>,
    start: Option<String>,
    ended_us: u64,
    outcome: String,
}

/// Whether text may steer the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    Yes,
    No,
}

/// What a line's bar stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A process, from its arrival to its end.
    Whole,
    Waits,
    Works,
}

/// One line of a drawing; times from the beginning of the call.
struct Line {
    label: String,
    depth: usize,
    from_us: u64,
    to_us: u64,
    kind: Kind,
    failed: Option<String>,
}

pub(crate) async fn run(args: &TraceArgs) -> Result<()> {
    let client = Client::find(&args.platform)?;
    let base = match &args.project {
        Some(project) => format!("/api/v1/projects/{project}/traces"),
        None => "/api/v1/traces".to_owned(),
    };
    let path = match &args.id {
        Some(id) => format!("{base}/{id}"),
        None => format!("{base}?{}", query(args)),
    };
    let answer: Value = client.get(&path).await?;
    if args.platform.json {
        println!("{answer}");
        return Ok(());
    }
    if args.id.is_none() {
        print!("{}", list(&answer));
        return Ok(());
    }
    let trace: Trace = serde_json::from_value(answer).context("the trace cannot be read")?;
    let on_terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colours = if on_terminal { Colours::Yes } else { Colours::No };
    print!("{}", draw(&trace, colours));
    Ok(())
}

fn query(args: &TraceArgs) -> String {
    let mut query = format!("count={}", args.count);
    if args.slowest {
        query.push_str("&order=slowest");
    }
    if let Some(doee) = &args.doee {
        query.push_str("&doee=");
        query.push_str(doee);
    }
    query
}

fn list(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), plain);
    let rows = answer["traces"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let rows: Vec<Vec<String>> = rows
        .map(|row| {
            let name = match (row["project_name"].as_str(), row["doee"].as_str()) {
                (Some(project), Some(doee)) => format!("{project}/{doee}"),
                _ => text(&row["version"]),
            };
            vec![
                text(&row["process"]),
                name,
                text(&row["outcome"]),
                text(&row["start"]),
                row["took_us"].as_u64().map_or("-".to_owned(), duration_us),
                row["attempts"].to_string(),
                row["spans"].to_string(),
            ]
        })
        .collect();
    table(
        &["PROCESS", "DOEE", "OUTCOME", "START", "TOOK", "ATTEMPTS", "SPANS"],
        &rows,
    )
}

/// Every call of a trace, each with lines in the order in which things happened.
fn draw(trace: &Trace, colours: Colours) -> String {
    let mut text = String::new();
    for (index, call) in trace.calls.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        draw_call(&mut text, trace, call, colours);
    }
    text
}

fn draw_call(text: &mut String, trace: &Trace, call: &Call, colours: Colours) {
    let from_us = call.spans.iter().map(|span| span.at_us).min().unwrap_or(0);
    let lines = Lines::of(call, from_us);
    let total_us = lines.iter().map(|line| line.to_us).max().unwrap_or(0).max(1);
    let outcome = call.outcome.as_deref().unwrap_or("not ended");
    let headed = format!(
        "process {}  trace {}  {}  {total_us} µs\n",
        plain(&call.process),
        plain(&trace.trace),
        plain(outcome)
    );
    text.push_str(&headed);
    let label = |line: &Line| format!("{:indent$}{}", "", plain(&line.label), indent = 2 * line.depth);
    let width = lines
        .iter()
        .map(|line| label(line).chars().count())
        .max()
        .unwrap_or(0);
    let numbers = total_us.to_string().len().max("AT µs".chars().count());
    let header = format!(
        "{:<width$}  {:>numbers$}  {:>numbers$}\n",
        "",
        "AT µs",
        "TOOK",
        width = width
    );
    text.push_str(&paint("1", &header, colours));
    for line in &lines {
        let took_us = line.to_us - line.from_us;
        let (before, bar) = bar(line, total_us);
        let code = match (&line.failed, line.kind) {
            (Some(_), _) => "31",
            (None, Kind::Waits) => "33",
            (None, Kind::Works) => "32",
            (None, Kind::Whole) => "36",
        };
        let failed = line
            .failed
            .as_ref()
            .map_or(String::new(), |why| format!("  {}", plain(why)));
        let row = format!(
            "{:<width$}  {:>numbers$}  {took_us:>numbers$}  {before}{}{}",
            label(line),
            line.from_us,
            paint(code, &bar, colours),
            paint("31", &failed, colours),
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    if call.omitted > 0 {
        writeln!(text, "{} more are not told of", call.omitted).expect("a string takes everything");
    }
}

/// Where on the whole a line lies: what is before it, and itself, one cell at least.
fn bar(line: &Line, total_us: u64) -> (String, String) {
    let place = |us: u64| u128::from(us) * u128::from(BAR_LEN);
    let total = u128::from(total_us);
    let begin = (place(line.from_us) / total).min(u128::from(BAR_LEN) - 1) as usize;
    let end = (place(line.to_us).div_ceil(total) as usize).max(begin + 1);
    let cell = match line.kind {
        Kind::Whole => "=",
        Kind::Waits => ".",
        Kind::Works => "#",
    };
    (" ".repeat(begin), cell.repeat(end - begin))
}

fn paint(code: &str, text: &str, colours: Colours) -> String {
    match colours {
        Colours::Yes if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// Lines in the making.
struct Lines<'a> {
    call: &'a Call,
    from_us: u64,
    drawn: BTreeSet<usize>,
    lines: Vec<Line>,
}

impl<'a> Lines<'a> {
    fn of(call: &'a Call, from_us: u64) -> Vec<Line> {
        let mut lines = Lines {
            call,
            from_us,
            drawn: BTreeSet::new(),
            lines: Vec::new(),
        };
        let roots = |(_, span): &(usize, &Span)| span.parent.is_none();
        for (index, _) in call.spans.iter().enumerate().filter(roots) {
            lines.span(index, 0);
        }
        // What ran on behalf of something that is not told of, or not yet.
        for index in 0..call.spans.len() {
            lines.span(index, 0);
        }
        lines.lines
    }

    fn span(&mut self, index: usize, depth: usize) {
        if depth > DEPTH_MAX || !self.drawn.insert(index) {
            return;
        }
        let span = &self.call.spans[index];
        let bad = span.outcome != "done";
        // What neither waits nor tells when it was begun is one thing.
        let at_once = span.dispatched_us == Some(0) && span.begun_us.is_none();
        self.lines.push(Line {
            label: self.name(span),
            depth,
            from_us: span.at_us.saturating_sub(self.from_us),
            to_us: span
                .at_us
                .saturating_sub(self.from_us)
                .saturating_add(span.ended_us),
            kind: if at_once { Kind::Works } else { Kind::Whole },
            failed: bad.then(|| span.outcome.clone()),
        });
        if at_once {
            return self.children(span, depth + 1);
        }
        let inner = depth + 1;
        let phases = Phases::of(span);
        self.phase(span, inner, "accept", Kind::Works, 0, Some(span.queued_us));
        let waited = span.dispatched_us.unwrap_or(span.ended_us);
        self.phase(span, inner, "queue", Kind::Waits, span.queued_us, Some(waited));
        if let Some(dispatched) = span.dispatched_us {
            let start = span
                .start
                .as_deref()
                .map_or("start".to_owned(), |start| format!("start, {start}"));
            self.phase(span, inner, &start, Kind::Waits, dispatched, phases.begun);
            let work = if phases.begun.is_some() { "run" } else { "work" };
            let begun = phases.begun.unwrap_or(dispatched);
            self.phase(span, inner, work, Kind::Works, begun, Some(phases.ran));
        }
        self.children(span, inner + 1);
        if span.dispatched_us.is_some() {
            self.phase(
                span,
                inner,
                "finish",
                Kind::Waits,
                phases.ran,
                Some(span.ended_us),
            );
        }
    }

    fn children(&mut self, span: &Span, depth: usize) {
        for child in 0..self.call.spans.len() {
            let other = &self.call.spans[child];
            let is_child =
                other.parent.as_ref() == Some(&span.process) && other.parent_attempt == Some(span.attempt);
            if is_child {
                self.span(child, depth);
            }
        }
    }

    /// A part of a span, if it took any time.
    fn phase(
        &mut self,
        span: &Span,
        depth: usize,
        label: &str,
        kind: Kind,
        from_us: u64,
        to_us: Option<u64>,
    ) {
        let Some(to_us) = to_us.filter(|&to_us| to_us > from_us) else {
            return;
        };
        let at_us = span.at_us.saturating_sub(self.from_us);
        self.lines.push(Line {
            label: label.to_owned(),
            depth,
            from_us: at_us.saturating_add(from_us),
            to_us: at_us.saturating_add(to_us),
            kind,
            failed: None,
        });
    }

    fn name(&self, span: &Span) -> String {
        let called = match (&self.call.project_name, &span.doee, &span.version) {
            (Some(project), Some(doee), _) => format!("{project}/{doee}"),
            (_, None, Some(version)) => format!("version {version}"),
            (_, Some(doee), _) => doee.clone(),
            _ => format!("{} {}", span.service, span.operation.as_deref().unwrap_or("?")),
        };
        match span.attempt {
            0 | 1 => called,
            attempt => format!("{called}, attempt {attempt}"),
        }
    }
}

/// When a worker began, and until when work was done.
struct Phases {
    begun: Option<u64>,
    ran: u64,
}

impl Phases {
    fn of(span: &Span) -> Phases {
        match (span.begun_us, span.ran_us) {
            (Some(begun), Some(ran)) => Phases {
                begun: Some(begun),
                ran: begun.saturating_add(ran).min(span.ended_us),
            },
            _ => Phases {
                begun: None,
                ran: span.ended_us,
            },
        }
    }
}

#[cfg(test)]
mod tests;
