//! `entitlements reconcile`: compares accounts with Clerk's Backend API, and repairs them.

use super::{
    catalog::{DirectDatabase, SUBJECTS_PER_PAGE},
    output::{Format, say_json},
    render::counted,
};
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

/// Imports what the database lacks, compares each subject with Clerk, and repairs it.
///
/// Exits with 0 if every comparison succeeded, 1 if one failed, 2 for any other error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements reconcile --dry-run
  entitlements reconcile user_2x")]
pub(super) struct ReconcileCommand {
    /// Compare only this user or organization [default: import all items from Clerk, then compare all subjects]
    subject: Option<Subject>,

    /// Report the differences without changing anything
    #[arg(long)]
    dry_run: bool,

    /// Revert the deletion of the subject, if Clerk still has a subscription of it
    #[arg(long, requires = "subject", conflicts_with = "dry_run")]
    undelete: bool,

    #[command(flatten)]
    direct: DirectDatabase,
}

/// The results so far, and how they are printed.
struct Report {
    format: Format,
    dry_run: bool,
    tally: Tally,
}

/// The numbers of subjects by result.
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
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let reconciler = self.direct.reconciler().await?;
        reconciler.prepare().await?;
        let mut report = Report { format, dry_run: self.dry_run, tally: Tally::default() };
        if let Some(subject) = &self.subject {
            let finding = if self.undelete {
                reconciler.undelete(subject).await
            } else {
                reconciler.compare(subject, self.dry_run).await
            };
            report.add(subject, finding);
        } else {
            if !self.dry_run {
                let bar = report.bar("items read");
                let show = |seen: &Backfilled| {
                    bar.set_length(seen.total as u64);
                    bar.set_position(seen.read as u64);
                };
                reconciler.backfill(show).await?;
                bar.finish_and_clear();
            }
            self.compare_all(&reconciler, &mut report).await?;
        }
        report.sum_up();
        Ok(if report.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn compare_all(
        &self,
        reconciler: &Reconciler,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let store = self.direct.store().await?;
        let bar = report.bar("compared");
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
                bar.suspend(|| report.add(&subject, finding));
                bar.set_position(report.tally.compared as u64);
            }
        }
    }
}

impl Report {
    fn add(&mut self, subject: &Subject, found: Result<Reconciled, ReconcileError>) {
        let tally = &mut self.tally;
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
        if self.format == Format::Json {
            say_json(&json!({ "subject": subject.as_str(), "result": result, "detail": detail }));
        } else {
            let detail = detail.map(|detail| format!(", {detail}")).unwrap_or_default();
            say!("{subject}: {result}{detail}");
        }
    }

    fn sum_up(&self) {
        let Tally { compared, healed, differ, not_understood, absent, failed } = &self.tally;
        if self.format == Format::Json {
            say_json(&json!({
                "compared": compared,
                "healed": healed,
                "stillDifferent": differ,
                "notUnderstood": not_understood,
                "notAtClerk": absent,
                "failed": failed,
            }));
        } else {
            let what = if self.dry_run { "would be healed" } else { "healed" };
            say!(
                "{} compared, {healed} {what}, {differ} still different, {not_understood} not understood, \
                 {absent} not at Clerk, {failed} failed",
                counted(*compared, "subject")
            );
        }
    }

    /// A progress bar on the terminal; none with `--json`.
    fn bar(&self, what: &'static str) -> ProgressBar {
        let bar =
            if self.format == Format::Json { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} {msg}");
        bar.with_style(style.expect("the template is valid").progress_chars("##."))
            .with_message(what)
    }
}
