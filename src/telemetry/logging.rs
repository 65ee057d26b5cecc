//! Logging to standard error: its format, its filter, and errors as values of log fields.

use super::log_panics;
use anstream::{AutoStream, ColorChoice};
use anyhow::{anyhow, ensure};
use chrono::{SecondsFormat, Utc};
use clap::ValueEnum;
use std::{error::Error, fmt, io, iter::successors};
use tracing::{Value, field::display};
use tracing_subscriber::{
    EnvFilter,
    filter::LevelFilter,
    fmt::{format::Writer, time::FormatTime},
};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text, for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// Starts logging to standard error. `filter` has the syntax of [`log_filter`].
///
/// # Errors
/// If the filter is invalid, or if logging has been started already.
pub fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = log_filter(filter)?;
    let colours = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => {
            logs.with_target(false).with_timer(Milliseconds).with_ansi(colours).try_init()
        }
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))?;
    log_panics();
    Ok(())
}

/// The time of a text line, in milliseconds.
struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        write!(line, "{}", Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Parses the setting `ENTITLEMENTS_LOG`: directives of `tracing-subscriber`'s `EnvFilter`, except that a level without
/// a target applies to this service only; libraries then log at most warnings. A filter that does not name this service
/// leaves it at `info`.
///
/// # Errors
/// If the text is not a log filter.
pub fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let directives: Vec<_> = directives.map(own_level).collect::<anyhow::Result<_>>()?;
    let names_this_service = directives.iter().any(|directive| directive.contains("entitlements"));
    // The levels of libraries alone would silence this service.
    let default = (!names_this_service).then(|| own_level("info")).transpose()?;
    let filter = default.into_iter().chain(directives).collect::<Vec<_>>().join(",");
    filter.parse().map_err(|e| anyhow!("ENTITLEMENTS_LOG is not a log filter such as `info`: {e}"))
}

/// Restricts a level without a target to this service. Libraries log the data that they process, such as headers, so
/// they log more than warnings only if the filter names them.
fn own_level(directive: &str) -> anyhow::Result<String> {
    if let Ok(level) = directive.parse::<LevelFilter>() {
        return Ok(format!("{},entitlements={level}", level.min(LevelFilter::WARN)));
    }
    // `EnvFilter` would read a mistyped level as the only target that may log.
    ensure!(
        directive.contains('='),
        "ENTITLEMENTS_LOG: `{directive}` is not a level: write off, error, warn, info, debug or trace, or a target with \
         its level, such as sqlx=debug"
    );
    Ok(directive.into())
}

/// Renders an error and its causes as the value of a log field.
pub fn log_chain(error: &(dyn Error + 'static)) -> impl Value + use<> {
    display(error_chain(error))
}

/// Renders an error and its causes in one line. A cause is left out if the text before it already ends with it.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes
        .reduce(|chain, cause| if chain.ends_with(&cause) { chain } else { chain + ": " + &cause })
        .unwrap_or_default()
}
