//! A Doee's log: its latest lines, and with `follow` the coming ones, as NDJSON.

use std::{str::FromStr, sync::Arc};

use bytes::Bytes;
use isms_http::{Body, Problem};
use isms_protocol::{ErrorCode, WireError};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Answer, Call, ndjson};
use crate::log_store::{LogKey, LogStore, Read};

/// Lines shown when nothing is said.
const TAIL_DEFAULT: u64 = 100;
/// Lines that may be asked for.
const TAIL_MAX: u64 = 100_000;

impl Call<'_> {
    pub(super) async fn logs(&self) -> Answer {
        let query = Query::parse(self.parts.uri.query().unwrap_or_default())?;
        let project = self.project(self.parameter(0)).await?;
        let name = self.parameter(1);
        if !project.doees.iter().any(|doee| doee.name == name) {
            return Err(Problem::new(ErrorCode::NotFound, "the project has no such doee"));
        }
        let permit = self
            .gate
            .followers
            .clone()
            .try_acquire_owned()
            .map_err(|_| Problem::new(ErrorCode::Busy, "too many clients read logs at the moment"))?;
        let key = (project.id, name.to_owned());
        let reader = Reader {
            position: self.gate.logs.open(&key, query.tail),
            changes: self.gate.logs.changes(),
            store: self.gate.logs.clone(),
            shutdown: self.gate.shutdown.clone(),
            follow: query.follow,
            key,
            _permit: permit,
        };
        Ok(ndjson(Body::unfold(reader, None, Reader::next)))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    follow: bool,
    tail: u64,
}

impl Query {
    fn parse(query: &str) -> Result<Query, Problem> {
        let invalid = |pair: &str| {
            let detail = format!(
                "`{}` is not `follow=true|false` or `tail=0..{TAIL_MAX}`",
                pair.escape_debug()
            );
            Problem::new(ErrorCode::Invalid, detail)
        };
        let mut parsed = Query {
            follow: false,
            tail: TAIL_DEFAULT,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("follow", value)) => {
                    parsed.follow = bool::from_str(value).map_err(|_| invalid(pair))?
                }
                Some(("tail", value)) => {
                    let tail = u64::from_str(value).ok().filter(|&tail| tail <= TAIL_MAX);
                    parsed.tail = tail.ok_or_else(|| invalid(pair))?;
                }
                _ => return Err(invalid(pair)),
            }
        }
        Ok(parsed)
    }
}

/// Somebody who reads a log.
struct Reader {
    store: Arc<LogStore>,
    key: LogKey,
    position: u64,
    changes: watch::Receiver<()>,
    shutdown: watch::Receiver<bool>,
    follow: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Bytes, WireError>, Reader)> {
        loop {
            // Marked as seen before looking, so that a line that comes meanwhile is not slept over.
            self.changes.mark_unchanged();
            match self.store.read(&self.key, self.position) {
                Read::Lines(lines, next) => {
                    self.position = next;
                    return Some((Ok(lines), self));
                }
                Read::NothingYet if self.follow => {}
                Read::NothingYet | Read::Gone => return None,
            }
            let ended = tokio::select! {
                changed = self.changes.changed() => changed.is_err(),
                _ = self.shutdown.wait_for(|&stop| stop) => true,
            };
            if ended {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_or_refused() {
        let parse = |query| Query::parse(query).map_err(|problem| problem.status().as_u16());
        assert_eq!(
            parse(""),
            Ok(Query {
                follow: false,
                tail: 100
            })
        );
        assert_eq!(
            parse("follow=true&tail=0"),
            Ok(Query {
                follow: true,
                tail: 0
            })
        );
        for query in ["follow", "follow=1", "tail=-1", "tail=100001", "tail=", "lines=3"] {
            assert_eq!(parse(query), Err(400), "{query}");
        }
    }
}
