//! Looks at everything that `serve` needs, and says in words what is wrong and what to do about it.
//!
//! What must always hold: it changes nothing, it prints no secret, and no check waits for ever.

mod callers;
mod clerk;
mod database;
mod listeners;
mod settings;

use crate::{config::Settings, store::Store};
use std::time::Duration;
use tokio::time::timeout;

/// How long one check may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and not as well or as safely as it could.
    Warn,
    /// `serve` does not start with this, or does not do its work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do, if it is not well.
    pub way_out: Option<String>,
}

impl Verdict {
    /// The one word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    fn ok(what: &'static str, seen: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, seen: seen.into(), way_out: None }
    }

    fn warn(what: &'static str, seen: impl Into<String>, way_out: impl Into<String>) -> Self {
        let (seen, way_out) = (on_one_line(&seen.into()), Some(way_out.into()));
        Self { what, verdict: Verdict::Warn, seen, way_out }
    }

    fn fail(what: &'static str, seen: impl Into<String>, way_out: impl Into<String>) -> Self {
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

/// Makes all checks, one after another, and tells each finding as soon as it is there.
pub async fn examine(settings: &Settings, mut tell: impl FnMut(&Finding)) -> Verdict {
    let mut worst = Verdict::Ok;
    let mut found = |finding: Finding| {
        worst = worst.max(finding.verdict);
        tell(&finding);
    };
    settings::all(settings).into_iter().for_each(&mut found);
    for finding in listeners::all(settings).await {
        found(finding);
    }
    for finding in callers::all(settings).await {
        found(finding);
    }
    let mut instances = Vec::new();
    match settings.database.options() {
        Err(error) => found(database::unusable(&error)),
        Ok(options) => {
            let store = Store::new(options.clone());
            if database::reach(&store, &mut found).await {
                database::look(&store, &options, settings, &mut found).await;
                instances = store.instances().await.unwrap_or_default();
            }
            store.close().await;
        }
    }
    clerk::look(settings, &instances, &mut found).await;
    worst
}

/// A check that does not come to its end is a finding as well.
async fn within(
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
