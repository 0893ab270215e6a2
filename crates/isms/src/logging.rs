//! Logs of the platform: lines on stderr, colours only on a terminal.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::{FormatEvent, FormatFields, format};

/// Starts logging for a process of the platform. `ISMS_LOG` sets the level: error, warn, info, debug, trace.
pub(crate) fn init(role: &'static str) {
    let level = std::env::var("ISMS_LOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(LevelFilter::INFO);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .event_format(Named {
            role,
            inner: format().with_target(false).compact(),
        })
        .init();
}

/// Puts the role's name before each line.
struct Named<F> {
    role: &'static str,
    inner: F,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "{:<10} ", self.role)?;
        self.inner.format_event(context, writer, event)
    }
}
