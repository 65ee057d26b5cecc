//! `entitlements catalog`: shows catalog versions, previews changes, and puts a catalog in force.

use crate::{
    app::backend_api,
    clerk::BackendApi,
    config::{Backend, Database, read_catalog},
    domain::{self, Account, Catalog, Entitlement, Kind, Subject},
    ingest::reconcile::{Reconciler, Refreshed},
    ingest::{Deliveries, ServedInstance},
    replica::Accounts,
    storage::{Applied, Author, CatalogVersion, Store},
    telemetry::Telemetry,
};
use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// Subjects per page of the query.
pub(super) const SUBJECTS_PER_PAGE: i64 = 500;
/// Subjects that are named as examples of a change.
const MAX_EXAMPLES: usize = 3;

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
    /// Preview a catalog file: the features that subjects would gain or lose
    Plan {
        /// Catalog file
        file: PathBuf,
    },
    /// Put a catalog file in force, even if a newer catalog has replaced it
    Apply {
        /// Catalog file
        file: PathBuf,
        /// Apply the file even if more subjects lose a feature than --most-losses allows
        #[arg(long)]
        yes: bool,
        /// Maximum number of subjects that may lose a feature, now or earlier than before
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
            CatalogAction::Apply { file, yes, most_losses } => {
                let (catalog, name) = read_catalog(file)?;
                let (planned, now) = planned(&store, catalog.clone()).await?;
                let effect = compare(&store, &now, &planned).await?;
                effect.print();
                let losers = effect.losers.len();
                if losers > *most_losses && !yes {
                    bail!(
                        "{losers} subjects would lose a feature, now or earlier than before, so nothing was applied: add --yes to \
                         apply it anyway"
                    );
                }
                print_applied(store.apply_catalog(Author::Operator, &catalog, &name).await?);
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

/// The effect of a change of the catalog on the features of all subjects.
#[derive(Default)]
struct PlanEffect {
    subjects: usize,
    features: BTreeMap<(Kind, String), FeatureEffect>,
    losers: BTreeSet<Subject>,
}

/// The numbers of subjects for which one feature changes.
#[derive(Default)]
struct FeatureEffect {
    gain: usize,
    lose: usize,
    lose_earlier: usize,
    keep_longer: usize,
    examples: Vec<Subject>,
}

impl PlanEffect {
    /// Adds the changes of one account.
    fn add(&mut self, account: &Account, before: &Catalog, after: &Catalog) {
        let now = Utc::now();
        let features = |catalog| {
            let found = domain::entitlements(account, catalog, now);
            let until = |e: Entitlement<'_>| (e.feature.to_string(), e.decision.valid_until);
            found.into_iter().map(until).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (features(before), features(after));
        self.subjects += 1;
        for feature in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (then, now) = (before.get(feature), after.get(feature));
            if then == now {
                continue;
            }
            let key = (account.subject.kind(), feature.clone());
            let effect = self.features.entry(key).or_default();
            let losses = effect.lose + effect.lose_earlier;
            let forever = DateTime::<Utc>::MAX_UTC;
            let count = match (then, now) {
                (None, _) => &mut effect.gain,
                (Some(_), None) => &mut effect.lose,
                (Some(then), Some(now)) if now.unwrap_or(forever) < then.unwrap_or(forever) => {
                    &mut effect.lose_earlier
                }
                (Some(_), Some(_)) => &mut effect.keep_longer,
            };
            *count += 1;
            if effect.lose + effect.lose_earlier > losses {
                self.losers.insert(account.subject.clone());
            }
            if effect.examples.len() < MAX_EXAMPLES {
                effect.examples.push(account.subject.clone());
            }
        }
    }

    fn print(&self) {
        for ((kind, feature), effect) in &self.features {
            let FeatureEffect { gain, lose, lose_earlier, keep_longer, examples } = effect;
            let examples: Vec<_> = examples.iter().map(Subject::as_str).collect();
            say!(
                "{kind} {feature}: {gain} gain it, {lose} lose it, {lose_earlier} lose it earlier than before, \
                 {keep_longer} keep it longer. Examples: {}",
                examples.join(", ")
            );
        }
        let (subjects, losers) = (self.subjects, self.losers.len());
        say!("{subjects} subjects compared, {losers} lose a feature, now or earlier than before");
    }
}

/// Evaluates every subject in the database with both catalogs.
async fn compare(store: &Store, before: &Catalog, after: &Catalog) -> anyhow::Result<PlanEffect> {
    let (mut effect, mut from) = (PlanEffect::default(), String::new());
    loop {
        let page = store.subjects(&from, SUBJECTS_PER_PAGE).await?;
        let Some(last) = page.last() else { return Ok(effect) };
        from = last.to_string();
        for subject in &page {
            effect.add(&store.account(subject).await?, before, after);
        }
    }
}
