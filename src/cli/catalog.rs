//! `entitlements catalog`: shows catalog versions, previews changes, and puts a catalog in force.

mod effect;
mod preview;

use crate::{
    app::backend_api,
    clerk::BackendApi,
    config::{Backend, Database, read_catalog},
    domain::Catalog,
    ingest::reconcile::{Reconciler, Refreshed},
    ingest::{Deliveries, ServedInstance},
    replica::Accounts,
    storage::{Applied, Author, CatalogVersion, Store},
    telemetry::Telemetry,
};
use anyhow::{Context, bail};
use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use effect::PlanEffect;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// Subjects per page of the query.
pub(super) const SUBJECTS_PER_PAGE: i64 = 500;
/// The subcommands of `catalog`.
#[derive(Debug, Args)]
pub(super) struct CatalogCommand {
    #[command(subcommand)]
    action: CatalogAction,

    #[command(flatten)]
    direct: DirectDatabase,
}

#[derive(Debug, Subcommand)]
enum CatalogAction {
    /// Import the plans from Clerk's Backend API and put the result in force; plans of the catalog file take precedence
    Pull {
        /// Remove plans that Clerk no longer lists; without this flag their holders keep them
        #[arg(long)]
        remove_retired: bool,
    },
    /// Preview a catalog file: the features and limits that subjects would gain or lose
    Plan {
        /// Catalog file
        file: PathBuf,
    },
    /// Preview another plan for a user or an organization: what it would gain and lose, and where it uses too much
    Preview {
        /// Id of the user or organization, `user_…` or `org_…`
        subject: String,
        /// Slug of the plan
        plan: String,
        /// Number in use, as `projects=30`; give it once for each feature
        #[arg(long = "count", value_name = "FEATURE=NUMBER", value_parser = parse_count)]
        counts: Vec<(String, u64)>,
    },
    /// Put a catalog file in force, even if a newer catalog has replaced it
    Apply {
        /// Catalog file
        file: PathBuf,
        /// Apply the file even if more subjects lose a feature or a part of a limit than --most-losses allows
        #[arg(long)]
        yes: bool,
        /// Maximum number of subjects that may lose a feature, now or earlier than before, or a part of a limit
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        most_losses: usize,
    },
    /// List catalog versions, newest first
    History {
        /// Maximum number of versions to list
        #[arg(long, default_value_t = 20)]
        limit: i64,
    },
    /// Show the content of a catalog version
    Show {
        /// Number of the version [default: the version in force]
        number: Option<u64>,
    },
}

/// Settings of commands that use the database directly, not through a running service.
#[derive(Debug, Args)]
pub(super) struct DirectDatabase {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    backend: Backend,
}

impl DirectDatabase {
    pub(super) fn store(&self) -> anyhow::Result<Arc<Store>> {
        Ok(Store::new(self.database.options()?))
    }

    fn api(&self) -> anyhow::Result<BackendApi> {
        let access = self.backend.access().context(
            "CLERK_SECRET_KEY is not set: copy it from the API keys page of Clerk's dashboard",
        )?;
        backend_api(&access)
    }

    pub(super) fn reconciler(&self) -> anyhow::Result<Reconciler> {
        let (store, telemetry) = (self.store()?, Telemetry::default());
        let accounts =
            Accounts::new(store.clone(), 0, Duration::ZERO, Duration::ZERO, telemetry.clone());
        let accounts = Arc::new(accounts);
        let instance = ServedInstance::new(self.backend.instance()?);
        let deliveries =
            Deliveries::new(store.clone(), accounts.clone(), instance, telemetry.clone());
        Ok(Reconciler::new(self.api()?, store, accounts, Arc::new(deliveries), telemetry))
    }
}

impl CatalogCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let store = self.direct.store()?;
        match &self.action {
            CatalogAction::Pull { remove_retired } => {
                print_refreshed(&self.direct.reconciler()?.refresh(*remove_retired).await?);
            }
            CatalogAction::Plan { file } => {
                let (catalog, _) = read_catalog(file)?;
                let (planned, now) = planned(&store, catalog).await?;
                compare(&store, &now, &planned).await?.print();
            }
            CatalogAction::Preview { subject, plan, counts } => {
                preview::run(store, subject, plan, counts).await?;
            }
            CatalogAction::Apply { file, yes, most_losses } => {
                let most_losses = if *yes { usize::MAX } else { *most_losses };
                apply(&store, file, most_losses).await?;
            }
            CatalogAction::History { limit } => {
                for version in store.catalog_history(*limit).await? {
                    say!("{}", line(&version));
                }
            }
            CatalogAction::Show { number } => {
                let versions = store.catalog_history(i64::MAX).await?;
                let found = versions.into_iter().find(|v| number.is_none_or(|n| n == v.number));
                let version = found.with_context(|| missing(*number))?;
                say!("{}\n{}", line(&version), version.catalog.to_json());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Applies a file, unless more subjects than that lose something.
async fn apply(store: &Store, file: &Path, most_losses: usize) -> anyhow::Result<()> {
    let (catalog, name) = read_catalog(file)?;
    let (planned, now) = planned(store, catalog.clone()).await?;
    let effect = compare(store, &now, &planned).await?;
    effect.print();
    let losers = effect.losers();
    if losers > most_losses {
        bail!(
            "{losers} of the subjects would lose a feature, some of its time, or a part of its limit, so nothing was applied: \
             add --yes to apply it anyway"
        );
    }
    print_applied(store.apply_catalog(Author::Operator, &catalog, &name).await?);
    Ok(())
}

fn parse_count(text: &str) -> Result<(String, u64), &'static str> {
    let parsed = text.split_once('=').and_then(|(slug, n)| Some((slug.into(), n.parse().ok()?)));
    parsed.ok_or("needs a feature and a number, as projects=30")
}

fn missing(number: Option<u64>) -> String {
    match number {
        Some(number) => {
            format!("there is no catalog {number}: `catalog history` lists all catalogs")
        }
        None => "there is no catalog yet: create one with `catalog apply FILE`".into(),
    }
}

fn print_refreshed(refreshed: &Refreshed) {
    for why in &refreshed.left_out {
        say!("plan not refreshed: {why}");
    }
    print_applied(refreshed.applied);
}

fn print_applied(applied: Applied) {
    match applied {
        Applied::New(number) => say!("catalog {number} is in force now"),
        Applied::InForce(number) => say!("catalog {number} is in force already, with this content"),
        Applied::Replaced { then, now } => {
            say!("not applied: catalog {then} had this content, and catalog {now} has replaced it");
        }
    }
}

fn line(version: &CatalogVersion) -> String {
    let since = version.applied_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("{}  {since}  {}  {} plans", version.number, version.source, version.catalog.plans())
}

/// The catalog that would be in force with this file, and the one that is in force now.
async fn planned(store: &Store, file: Catalog) -> anyhow::Result<(Catalog, Catalog)> {
    let now = store.catalog().await?.unwrap_or_else(CatalogVersion::none).catalog;
    Ok((store.planned_catalog(Author::Operator, file).await?, now))
}

/// Evaluates every subject in the database with both catalogs.
async fn compare(store: &Store, before: &Catalog, after: &Catalog) -> anyhow::Result<PlanEffect> {
    let (mut effect, mut from) = (PlanEffect::default(), String::new());
    loop {
        let page = store.accounts(&from, SUBJECTS_PER_PAGE).await?;
        let Some(last) = page.last() else { return Ok(effect) };
        from = last.subject.to_string();
        for account in &page {
            effect.add(account, before, after);
        }
    }
}
