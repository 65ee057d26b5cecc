//! `entitlements reconcile`: compares accounts with Clerk's Backend API, and repairs them.

use super::catalog::{DirectDatabase, SUBJECTS_PER_PAGE};
use crate::{
    domain::Subject,
    ingest::reconcile::{Backfilled, ReconcileError, Reconciled, Reconciler},
    telemetry::error_chain,
};
use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::process::ExitCode;

/// Subjects that are compared concurrently.
const CONCURRENT_COMPARISONS: usize = 8;

/// The `reconcile` command.
#[derive(Debug, Args)]
pub(super) struct ReconcileCommand {
    /// Compare only this user or organization [default: import all items from Clerk, then compare all subjects]
    subject: Option<Subject>,

    /// Report the differences without changing anything
    #[arg(long)]
    dry_run: bool,

    /// Revert the deletion of the subject, if Clerk still has a subscription of it
    #[arg(long, requires = "subject", conflicts_with = "dry_run")]
    undelete: bool,

    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    direct: DirectDatabase,
}

/// The results so far.
#[derive(Default)]
struct Tally {
    compared: usize,
    healed: usize,
    differ: usize,
    not_understood: usize,
    absent: usize,
    failed: usize,
}

impl ReconcileCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let reconciler = self.direct.reconciler()?;
        reconciler.prepare().await?;
        let mut tally = Tally::default();
        if let Some(subject) = &self.subject {
            let finding = if self.undelete {
                reconciler.undelete(subject).await
            } else {
                reconciler.compare(subject, self.dry_run).await
            };
            self.report(subject, finding, &mut tally);
        } else {
            if !self.dry_run {
                let bar = self.bar("items read");
                let show = |seen: &Backfilled| {
                    bar.set_length(seen.total as u64);
                    bar.set_position(seen.read as u64);
                };
                reconciler.backfill(show).await?;
                bar.finish_and_clear();
            }
            self.compare_all(&reconciler, &mut tally).await?;
        }
        self.sum_up(&tally);
        Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn compare_all(&self, reconciler: &Reconciler, tally: &mut Tally) -> anyhow::Result<()> {
        let store = self.direct.store()?;
        let bar = self.bar("compared");
        bar.set_length(store.count_subjects().await? as u64);
        let mut after = String::new();
        loop {
            let page = store.subjects(&after, SUBJECTS_PER_PAGE).await?;
            let Some(last) = page.last() else {
                bar.finish_and_clear();
                return Ok(());
            };
            after = last.to_string();
            let compare =
                async |subject| (reconciler.compare(&subject, self.dry_run).await, subject);
            let mut found = stream::iter(page).map(compare).buffered(CONCURRENT_COMPARISONS);
            while let Some((finding, subject)) = found.next().await {
                bar.suspend(|| self.report(&subject, finding, tally));
                bar.set_position(tally.compared as u64);
            }
        }
    }

    fn report(
        &self,
        subject: &Subject,
        found: Result<Reconciled, ReconcileError>,
        tally: &mut Tally,
    ) {
        tally.compared += 1;
        let (count, result, detail) = match found {
            Ok(Reconciled::Same) => return,
            Ok(Reconciled::Healed(outcome)) => {
                (&mut tally.healed, outcome.name(), outcome.detail().map(str::to_owned))
            }
            Ok(Reconciled::Differs(how)) => (&mut tally.differ, "still different", Some(how)),
            Ok(Reconciled::NotUnderstood(why)) => {
                (&mut tally.not_understood, "not understood", Some(why))
            }
            Ok(Reconciled::NotAtClerk) => (&mut tally.absent, "not at Clerk", None),
            Err(error) => (&mut tally.failed, "failed", Some(error_chain(&error))),
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

    /// A progress bar on the terminal; none with `--json`.
    fn bar(&self, what: &'static str) -> ProgressBar {
        let bar = if self.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} {msg}");
        bar.with_style(style.expect("the template is valid").progress_chars("##."))
            .with_message(what)
    }
}
