//! The result of one check of `doctor`.

use std::time::Duration;
use tokio::time::timeout;

/// Timeout of one request to a service on this machine.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of one check.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Ok,
    /// `serve` works, but not as well or as safely as it could.
    Warn,
    /// `serve` does not start, or does not work.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Name of the check.
    pub(super) what: &'static str,
    pub(super) verdict: Severity,
    /// The observed state.
    pub(super) detail: String,
    /// The fix; `None` if the severity is [`Severity::Ok`].
    pub(super) fix: Option<String>,
}

impl Severity {
    /// The severity in one word, for the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    pub(super) fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Severity::Ok, detail: detail.into(), fix: None }
    }

    pub(super) fn warn(
        what: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (detail, fix) = (on_one_line(&detail.into()), Some(fix.into()));
        Self { what, verdict: Severity::Warn, detail, fix }
    }

    pub(super) fn fail(
        what: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { verdict: Severity::Fail, ..Self::warn(what, detail, fix) }
    }
}

/// Joins the lines of an error, such as one of a TOML file, without the lines that quote the source.
fn on_one_line(error: &str) -> String {
    let is_quote = |line: &&str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|')
    };
    error.lines().filter(|line| !is_quote(line)).collect::<Vec<_>>().join(": ")
}

/// Runs a check with a timeout; a check that times out is a failure.
pub(super) async fn within(
    what: &'static str,
    fix: &'static str,
    check: impl Future<Output = Finding>,
) -> Finding {
    let late = |_| {
        let detail = format!("no answer within {} s", CHECK_TIMEOUT.as_secs());
        Finding::fail(what, detail, fix)
    };
    timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(late)
}
