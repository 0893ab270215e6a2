//! One connection: hyper's HTTP/1.1 state machine under a watchdog.
//!
//! The watchdog knows three phases (waiting for a request, reading its head, working on it) and
//! whether the client reads what is written. hyper's own head timer would take one timer for heads
//! and idle time alike and allocate it anew for each request, so it is off.
//!
//! A client that closes its connection, or only its sending half, gives its request up: the
//! handler's future is dropped at its next wait.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    Body, BodyError, HttpLimits,
    limits::{CONNECTION_BUFFER_LEN_MAX, HEADERS_MAX},
    server::{check_head, stopped},
};

/// Serves one connection until it ends, breaks a limit, or the server stops.
pub(crate) async fn serve_connection<H, F>(
    stream: TcpStream,
    limits: HttpLimits,
    handler: H,
    mut shutdown: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let activity = Arc::new(Activity::new());
    let service = service_fn(|request| {
        activity.enter(Phase::Busy);
        let guard = Guard(activity.clone());
        let response = check_head(&request).map(|()| handler(request));
        async move {
            let response = match response {
                Ok(response) => response.await,
                Err(problem) => problem.into_response(),
            };
            Ok::<_, Infallible>(response.map(|body| Guarded { body, _guard: guard }))
        }
    });
    let io = TokioIo::new(Watched {
        stream,
        activity: activity.clone(),
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(CONNECTION_BUFFER_LEN_MAX)
            .max_header_size(limits.head_len_max)
            .max_headers(HEADERS_MAX)
            .header_read_timeout(None)
            .serve_connection(io, service)
    );
    let mut watchdog = pin!(sleep_until(activity.next_check(&limits)));
    let mut stop = pin!(stopped(&mut shutdown));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "http connection ended early");
                }
                return;
            }
            () = watchdog.as_mut() => {
                if activity.is_overdue(&limits) {
                    tracing::debug!("http connection closed by the watchdog");
                    return;
                }
                watchdog.as_mut().reset(activity.next_check(&limits));
            }
            () = stop.as_mut(), if !stopping => {
                stopping = true;
                // Closes at once what waits for a request, after the bytes that are still to be written.
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between two requests, and before the first.
    Idle = 0,
    /// Some bytes of a head are there.
    Head = 1,
    /// A request is worked on, until its response's body has been handed over.
    Busy = 2,
}

/// What a connection does and since when. Only the connection's own task writes it; the atomics
/// merely let the parts of that task share it.
struct Activity {
    opened: Instant,
    /// Phase in the low two bits, above them when it began, in µs since `opened`.
    phase: AtomicU64,
    /// When a write first had to wait, in µs since `opened`; 0 for "does not wait".
    write_blocked: AtomicU64,
}

impl Activity {
    fn new() -> Activity {
        Activity {
            opened: Instant::now(),
            phase: AtomicU64::new(0),
            write_blocked: AtomicU64::new(0),
        }
    }

    fn now_us(&self) -> u64 {
        self.opened.elapsed().as_micros() as u64
    }

    fn enter(&self, phase: Phase) {
        self.phase
            .store(self.now_us() << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    fn bytes_arrived(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn write_done(&self, waits: bool) {
        let blocked = self.write_blocked.load(Ordering::Relaxed);
        if waits != (blocked != 0) {
            let since = if waits { self.now_us().max(1) } else { 0 };
            self.write_blocked.store(since, Ordering::Relaxed);
        }
    }

    /// When the present state breaks a limit, if nothing happens until then.
    fn deadline(&self, limits: &HttpLimits) -> Option<Instant> {
        let began = self.opened + Duration::from_micros(self.phase.load(Ordering::Relaxed) >> 2);
        let phase = match self.phase() {
            Phase::Idle => Some(began + limits.idle_timeout()),
            Phase::Head => Some(began + limits.head_timeout()),
            Phase::Busy => None,
        };
        let blocked = self.write_blocked.load(Ordering::Relaxed);
        let write =
            (blocked != 0).then(|| self.opened + Duration::from_micros(blocked) + limits.write_timeout());
        phase.into_iter().chain(write).min()
    }

    fn is_overdue(&self, limits: &HttpLimits) -> bool {
        self.deadline(limits)
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// When to look again: at the deadline, or before any that may arise from now on.
    fn next_check(&self, limits: &HttpLimits) -> Instant {
        let period = limits
            .head_timeout()
            .min(limits.idle_timeout())
            .min(limits.write_timeout());
        let latest = Instant::now() + period;
        self.deadline(limits)
            .map_or(latest, |deadline| deadline.min(latest))
    }
}

/// Marks the connection idle when the request's response is gone, however it went.
struct Guard(Arc<Activity>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

struct Guarded {
    body: Body,
    _guard: Guard,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_arrived();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.write_done(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.write_done(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
