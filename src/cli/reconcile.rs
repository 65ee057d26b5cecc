//! `entitlements reconcile`: compares accounts with what Clerk says, and heals them.

use super::catalog::Offline;
use crate::{
    domain::Subject,
    ingest::reconcile::{Finding, ReconcileError, Reconciler},
    telemetry::told,
};
use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::{
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
};

/// How many subjects are read from the database at a time.
const PAGE: i64 = 500;

/// How many subjects are compared at the same time.
const AT_ONCE: usize = 8;

/// Compares with Clerk.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    /// Only this user or organization [default: all that are known, after taking over what Clerk has]
    subject: Option<Subject>,

    /// Tell the differences, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Take back that the subject was deleted, if Clerk still knows a subscription of it
    #[arg(long, requires = "subject", conflicts_with = "dry_run")]
    undelete: bool,

    /// One JSON object a line instead of sentences
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    offline: Offline,
}

/// What was seen so far.
#[derive(Default)]
struct Tally {
    compared: usize,
    healed: usize,
    differ: usize,
    not_understood: usize,
    absent: usize,
    failed: usize,
}

impl Reconcile {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let reconciler = self.offline.reconciler()?;
        reconciler.prepare().await?;
        let mut tally = Tally::default();
        if let Some(subject) = &self.subject {
            let finding = if self.undelete {
                reconciler.undelete(subject).await
            } else {
                reconciler.compare(subject, self.dry_run).await
            };
            self.tell(subject, finding, &mut tally);
        } else {
            if !self.dry_run {
                let bar = self.bar("items read");
                reconciler.backfill(|seen| bar.at(seen.read, seen.total)).await?;
            }
            self.compare_all(&reconciler, &mut tally).await?;
        }
        self.sum_up(&tally);
        Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn compare_all(&self, reconciler: &Reconciler, tally: &mut Tally) -> anyhow::Result<()> {
        let store = self.offline.store()?;
        let (bar, total) = (self.bar("compared"), store.count_subjects().await?);
        let mut after = String::new();
        loop {
            let page = store.subjects(&after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.to_string();
            let compare =
                async |subject| (reconciler.compare(&subject, self.dry_run).await, subject);
            let mut found = stream::iter(page).map(compare).buffered(AT_ONCE);
            while let Some((finding, subject)) = found.next().await {
                bar.clear();
                self.tell(&subject, finding, tally);
                bar.at(tally.compared, total);
            }
        }
    }

    fn tell(&self, subject: &Subject, found: Result<Finding, ReconcileError>, tally: &mut Tally) {
        tally.compared += 1;
        let (count, result, detail) = match found {
            Ok(Finding::Same) => return,
            Ok(Finding::Healed(outcome)) => {
                (&mut tally.healed, outcome.word(), outcome.detail().map(str::to_owned))
            }
            Ok(Finding::Differs(how)) => (&mut tally.differ, "still different", Some(how)),
            Ok(Finding::NotUnderstood(why)) => {
                (&mut tally.not_understood, "not understood", Some(why))
            }
            Ok(Finding::NotAtClerk) => (&mut tally.absent, "not at Clerk", None),
            Err(error) => (&mut tally.failed, "failed", Some(told(&error))),
        };
        *count += 1;
        if self.json {
            let line = json!({ "subject": subject.as_str(), "result": result, "detail": detail });
            say!("{line}");
        } else {
            let detail = detail.map(|detail| format!(", {detail}")).unwrap_or_default();
            say!("{subject}: {result}{detail}");
        }
    }

    fn sum_up(&self, tally: &Tally) {
        let Tally { compared, healed, differ, not_understood, absent, failed } = tally;
        if self.json {
            let line = json!({
                "compared": compared,
                "healed": healed,
                "still_different": differ,
                "not_understood": not_understood,
                "not_at_clerk": absent,
                "failed": failed,
            });
            say!("{line}");
        } else {
            let what = if self.dry_run { "would be healed" } else { "healed" };
            say!(
                "{compared} compared, {healed} {what}, {differ} still different, {not_understood} not understood, \
                 {absent} not at Clerk, {failed} failed"
            );
        }
    }

    fn bar(&self, what: &'static str) -> Bar {
        Bar { what, shown: stderr().is_terminal() && !self.json }
    }
}

/// How far the work came, in one line of a terminal.
struct Bar {
    what: &'static str,
    shown: bool,
}

impl Bar {
    const WIDTH: usize = 30;

    fn at(&self, done: usize, total: usize) {
        let filled = (Self::WIDTH * done).checked_div(total).unwrap_or(0).min(Self::WIDTH);
        let (filled, rest) = ("#".repeat(filled), ".".repeat(Self::WIDTH - filled));
        self.print(&format!("\r[{filled}{rest}] {done} of {total} {}", self.what));
    }

    fn clear(&self) {
        self.print("\r\x1b[2K");
    }

    fn print(&self, text: &str) {
        if self.shown {
            eprint!("{text}");
            let _ = stderr().flush(); // only a progress display
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
