//! Passes traces on to a collector of OpenTelemetry: OTLP/HTTP in JSON, in batches.
//!
//! Invariants: nobody waits for it, what it has no room for is dropped and counted; a batch is tried again for a
//! bounded time, later each time, as far as the protocol allows it; its header fields are secrets and never logged.

mod config;
mod encode;
mod post;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode, header};
use isms_http::tls_client;
use isms_ipc::Link;
use isms_protocol::{
    Header, Kind, Message, Service,
    gate::{Run, Span},
    limits::NAMED_DOEES_MAX,
    resadmin::{NameDoees, NamedDoees, Operation},
};
use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

pub use config::{OtlpConfig, OtlpError};

use crate::names::NameCache;
use config::Collector;
use encode::Item;
use post::{Answer, PostError, post};

/// Spans that wait for their batch, some 300 bytes each.
const QUEUE_LEN_MAX: usize = 8192;
/// Spans of a batch.
const BATCH_LEN_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// The first and the longest pause before a batch is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The longest pause that a collector may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How long a batch is tried.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// How long the rest may take when Gate ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long Resadmin may take for names.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

/// How many spans were passed on, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Where spans are handed in. Dropped, the rest is sent and the task ends.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: mpsc::Sender<Item>,
    counts: Arc<Counts>,
    /// Tells by its end.
    _alive: oneshot::Sender<()>,
}

impl Exporter {
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    pub(crate) fn offer_spans(&self, spans: &[Span]) {
        spans
            .iter()
            .for_each(|span| self.offer(Item::Span(Box::new(span.clone()))));
    }

    pub(crate) fn offer_runs(&self, runs: &[Run]) {
        runs.iter().for_each(|run| self.offer(Item::Run(run.clone())));
    }

    fn offer(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Starts to pass on.
pub(crate) fn start(
    config: &OtlpConfig,
    link: Link,
    names: Arc<NameCache>,
) -> Result<(Exporter, JoinHandle<()>), OtlpError> {
    let (queue, items) = mpsc::channel(QUEUE_LEN_MAX);
    let (alive, ended) = oneshot::channel();
    let counts = Arc::new(Counts::default());
    let task = Task {
        collector: config.collector()?,
        tls: tls_client(&config.ca_pem)?,
        link,
        names,
        counts: Arc::clone(&counts),
        is_away: false,
        ended,
    };
    let exporter = Exporter {
        queue,
        counts,
        _alive: alive,
    };
    Ok((exporter, tokio::spawn(task.run(items))))
}

struct Task {
    collector: Collector,
    tls: Arc<ClientConfig>,
    link: Link,
    names: Arc<NameCache>,
    counts: Arc<Counts>,
    /// Its last answer was none that it should have given, which was logged.
    is_away: bool,
    /// Gate ends.
    ended: oneshot::Receiver<()>,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It was taken, but for so many spans.
    Taken { rejected: u64 },
    /// It is to be tried again, not before this if that is said.
    Again { after: Option<Duration> },
    /// It will never be taken.
    Refused,
}

impl Task {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(batch) = gather(&mut items).await {
            self.learn_names(&batch).await;
            let body = encode::request(&batch, |doee| self.names.get(doee));
            self.deliver(body.into(), batch.len() as u64).await;
        }
    }

    /// Sends a batch until it is taken or given up. When Gate ends there is one attempt, and little time.
    async fn deliver(&mut self, body: bytes::Bytes, count: u64) {
        let started = Instant::now();
        let mut backoff = BACKOFF.0;
        loop {
            let answer = tokio::select! {
                answer = post(&self.collector, &self.tls, body.clone()) => answer,
                () = too_late(&mut self.ended) => Err(PostError::TooSlow),
            };
            let is_last = has_ended(&mut self.ended);
            let verdict = judge(&answer);
            self.tell(&answer, &verdict);
            match verdict {
                Verdict::Taken { rejected } => {
                    let rejected = rejected.min(count);
                    self.counts.sent.fetch_add(count - rejected, Relaxed);
                    self.counts.dropped.fetch_add(rejected, Relaxed);
                    return;
                }
                Verdict::Again { after } if !is_last && started.elapsed() < GIVE_UP_AFTER => {
                    let pause = sleep(after.unwrap_or(backoff).min(RETRY_AFTER_MAX));
                    tokio::select! {
                        () = pause => {}
                        _ = &mut self.ended => {}
                    }
                    backoff = (2 * backoff).min(BACKOFF.1);
                }
                Verdict::Again { .. } | Verdict::Refused => {
                    self.counts.dropped.fetch_add(count, Relaxed);
                    return;
                }
            }
        }
    }

    /// Logs when the collector goes, and when it is back.
    fn tell(&mut self, answer: &Result<Answer, PostError>, verdict: &Verdict) {
        let was_away = std::mem::replace(&mut self.is_away, !matches!(verdict, Verdict::Taken { .. }));
        match (was_away, answer) {
            (true, _) if !self.is_away => tracing::info!("the collector of traces takes them again"),
            (false, Ok(answer)) if self.is_away => {
                tracing::warn!(
                    status = answer.status.as_u16(),
                    "the collector of traces refused some"
                );
            }
            (false, Err(error)) => tracing::warn!(%error, "the collector of traces cannot be reached"),
            _ => {}
        }
    }

    /// Asks what the Doees of a batch are called; without an answer they go without names.
    async fn learn_names(&self, batch: &[Item]) {
        let mut doees: Vec<_> = batch
            .iter()
            .map(Item::doee)
            .filter(|doee| !doee.is_none())
            .collect();
        doees.sort_unstable();
        doees.dedup();
        let (unknown, era) = self.names.unknown(doees.into_iter());
        for versions in unknown.chunks(NAMED_DOEES_MAX) {
            let header = Header {
                operation: Operation::NameDoees as u16,
                remaining_us: NAMES_TIMEOUT.as_micros() as u64,
                ..Header::new(Kind::Request, Service::Gate, Service::Resadmin)
            };
            let versions = versions.to_vec();
            let question = Message::with_body(header, &NameDoees { versions });
            let Ok(answer) = self.link.call(question).await else {
                return;
            };
            if let Ok(named) = answer.message.decode_body::<NamedDoees>() {
                self.names.learn(named.doees, era);
            }
        }
    }
}

/// Waits for the first span of a batch, and a little for others; `None` when there will be none.
async fn gather(items: &mut mpsc::Receiver<Item>) -> Option<Vec<Item>> {
    let mut batch = vec![items.recv().await?];
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_LEN_MAX {
        match timeout_at(until, items.recv()).await {
            Ok(Some(item)) => batch.push(item),
            Ok(None) | Err(_) => break,
        }
    }
    Some(batch)
}

fn has_ended(ended: &mut oneshot::Receiver<()>) -> bool {
    matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed))
}

/// Waits until Gate ends, and for as long as it may wait for this.
async fn too_late(ended: &mut oneshot::Receiver<()>) {
    if !has_ended(ended) {
        let _ = ended.await;
    }
    sleep(LAST_TIMEOUT).await;
}

/// What OTLP says that an answer means: some failures pass, others do not.
fn judge(answer: &Result<Answer, PostError>) -> Verdict {
    let Ok(Answer {
        status,
        headers,
        body,
    }) = answer
    else {
        return Verdict::Again { after: None };
    };
    match *status {
        status if status.is_success() => Verdict::Taken {
            rejected: rejected(body),
        },
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Verdict::Again {
            after: retry_after(headers),
        },
        _ => Verdict::Refused,
    }
}

/// Spans that a collector has not taken of a batch that it has. It may say so as number or as text.
fn rejected(body: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let rejected = &answer["partialSuccess"]["rejectedSpans"];
    let number = rejected.as_u64();
    number.or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}

/// In seconds; a date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        status: u16,
        retry_after: Option<&'static str>,
        body: &'static str,
    ) -> Result<Answer, PostError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static(value));
        }
        Ok(Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: body.into(),
        })
    }

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
        for status in [429, 502, 503, 504] {
            let verdict = judge(&answer(status, None, ""));
            assert_eq!(verdict, Verdict::Again { after: None }, "{status}");
        }
        for status in [301, 400, 401, 403, 404, 413, 500, 501] {
            assert_eq!(judge(&answer(status, None, "")), Verdict::Refused, "{status}");
        }
        assert_eq!(judge(&Err(PostError::TooSlow)), Verdict::Again { after: None });
        let after = |value| judge(&answer(429, Some(value), ""));
        assert_eq!(
            after("7"),
            Verdict::Again {
                after: Some(Duration::from_secs(7))
            }
        );
        assert_eq!(
            after("Fri, 31 Dec 1999 23:59:59 GMT"),
            Verdict::Again { after: None }
        );
    }

    #[test]
    fn what_was_not_taken_of_a_batch_is_known() {
        for (body, expected) in [
            ("", 0),
            ("{}", 0),
            ("[]", 0),
            ("{\"partialSuccess\":{}}", 0),
            ("{\"partialSuccess\":{\"rejectedSpans\":\"3\"}}", 3),
            ("{\"partialSuccess\":{\"rejectedSpans\":4}}", 4),
            ("{\"partialSuccess\":{\"rejectedSpans\":-4}}", 0),
        ] {
            let verdict = judge(&answer(200, None, body));
            assert_eq!(verdict, Verdict::Taken { rejected: expected }, "{body}");
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_counted() {
        let (queue, mut items) = mpsc::channel(2);
        let exporter = Exporter {
            queue,
            counts: Arc::default(),
            _alive: oneshot::channel().0,
        };
        let run = Run {
            process: isms_protocol::ProcessId::generate(),
            attempt: 1,
            trace: isms_protocol::TraceId([1; 16]),
            project: isms_protocol::ProjectId::NONE,
            doee: isms_protocol::DoeeVersion::NONE,
            begun_at_us: 1,
            ran_us: 1,
            start: isms_protocol::gate::Start::Warm,
        };
        exporter.offer_runs(&[run.clone(), run.clone(), run]);
        assert_eq!(exporter.counts().dropped(), 1);
        drop(exporter);
        let batch = gather(&mut items).await.map(|batch| batch.len());
        assert_eq!((batch, gather(&mut items).await), (Some(2), None));
    }
}
