//! What one check of `doctor` found.

use std::time::Duration;
use tokio::time::timeout;

/// How long one check may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and not as well or as safely as it could.
    Warn,
    /// `serve` does not start with this, or does not do its work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) what: &'static str,
    /// How bad it is.
    pub(super) verdict: Verdict,
    /// What was seen.
    pub(super) seen: String,
    /// What to do, if it is not well.
    pub(super) way_out: Option<String>,
}

impl Verdict {
    /// The one word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    pub(super) fn ok(what: &'static str, seen: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, seen: seen.into(), way_out: None }
    }

    pub(super) fn warn(
        what: &'static str,
        seen: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        let (seen, way_out) = (on_one_line(&seen.into()), Some(way_out.into()));
        Self { what, verdict: Verdict::Warn, seen, way_out }
    }

    pub(super) fn fail(
        what: &'static str,
        seen: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(what, seen, way_out) }
    }
}

/// An error of several lines, as one of a TOML file, whose picture of the place is left out.
fn on_one_line(error: &str) -> String {
    let is_picture = |line: &&str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|')
    };
    error.lines().filter(|line| !is_picture(line)).collect::<Vec<_>>().join(": ")
}

/// A check that does not come to its end is a finding as well.
pub(super) async fn within(
    what: &'static str,
    way_out: &'static str,
    check: impl Future<Output = Finding>,
) -> Finding {
    let late = |_| {
        let seen = format!("no answer within {} s", DEADLINE.as_secs());
        Finding::fail(what, seen, way_out)
    };
    timeout(DEADLINE, check).await.unwrap_or_else(late)
}
