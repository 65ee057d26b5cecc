//! `entitlements catalog`: what is in force, what would change, and putting it in force.

use crate::{
    clerk::Api,
    config::{Backend, Database, read_catalog},
    domain::{self, Account, Catalog, Grace, Kind, Subject},
    ingest::reconcile::{Reconciler, Refreshed},
    ingest::{Deliveries, ServedInstance},
    replica::Accounts,
    storage::{Applied, Author, Store, Version},
    telemetry::Metrics,
};
use anyhow::{Context, bail};
use chrono::{SecondsFormat, Utc};
use clap::{Args, Subcommand};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// How many subjects are read from the database at a time.
const PAGE: i64 = 500;
/// How many subjects are named as examples of a change.
const EXAMPLES: usize = 3;

/// Works on the catalog.
#[derive(Debug, Args)]
pub(super) struct CatalogCommand {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    offline: Offline,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put in force what Clerk's Backend API says of the plans; of a plan that the file has too, the file counts
    Pull {
        /// Remove the plans that Clerk lists no longer; without it their holders keep them
        #[arg(long)]
        remove_retired: bool,
    },
    /// Tell what a catalog file would change, for whom
    Plan {
        /// The catalog file
        file: PathBuf,
    },
    /// Put a catalog file in force, also one that was in force before
    Apply {
        /// The catalog file
        file: PathBuf,
        /// Apply it even if more subjects lose a feature than --most-losses
        #[arg(long)]
        yes: bool,
        /// How many subjects may lose a feature
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        most_losses: usize,
    },
    /// List the versions, newest first
    History {
        /// How many at most
        #[arg(long, default_value_t = 20)]
        limit: i64,
    },
    /// Show what a version says [default: the one in force]
    Show {
        /// Its number
        number: Option<u64>,
    },
}

/// What works on the database itself, beside a running service.
#[derive(Debug, Args)]
pub(super) struct Offline {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    backend: Backend,
}

impl Offline {
    pub(super) fn store(&self) -> anyhow::Result<Arc<Store>> {
        Ok(Store::new(self.database.options()?))
    }

    fn api(&self) -> anyhow::Result<Api> {
        self.backend.api()?.context(
            "CLERK_SECRET_KEY is not set: copy it from the API keys page of Clerk's dashboard",
        )
    }

    pub(super) fn reconciler(&self) -> anyhow::Result<Reconciler> {
        let (store, metrics) = (self.store()?, Arc::new(Metrics::default()));
        let accounts =
            Accounts::new(store.clone(), 0, Duration::ZERO, Duration::ZERO, metrics.clone());
        let accounts = Arc::new(accounts);
        let instance = ServedInstance::new(self.backend.instance()?);
        let deliveries =
            Deliveries::new(store.clone(), accounts.clone(), instance, metrics.clone());
        Ok(Reconciler::new(self.api()?, store, accounts, Arc::new(deliveries), metrics))
    }
}

impl CatalogCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let store = self.offline.store()?;
        match &self.action {
            Action::Pull { remove_retired } => {
                pulled(&self.offline.reconciler()?.refresh(*remove_retired).await?);
            }
            Action::Plan { file } => {
                let (catalog, _) = read_catalog(file)?;
                let (planned, now) = planned(&store, catalog).await?;
                compare(&store, &now, &planned).await?.print();
            }
            Action::Apply { file, yes, most_losses } => {
                let (catalog, name) = read_catalog(file)?;
                let (planned, now) = planned(&store, catalog.clone()).await?;
                let effect = compare(&store, &now, &planned).await?;
                effect.print();
                let losers = effect.losers.len();
                if losers > *most_losses && !yes {
                    bail!(
                        "{losers} subjects would lose a feature: nothing was applied; --yes applies it"
                    );
                }
                told(store.apply_catalog(Author::Operator, &catalog, &name).await?);
            }
            Action::History { limit } => {
                for version in store.catalog_history(*limit).await? {
                    say!("{}", line(&version));
                }
            }
            Action::Show { number } => {
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
            format!("there is no catalog {number}: `catalog history` lists those there are")
        }
        None => "there is no catalog yet: `catalog apply FILE` makes one".into(),
    }
}

fn pulled(refreshed: &Refreshed) {
    for why in &refreshed.left_out {
        say!("left as it is known: {why}");
    }
    told(refreshed.applied);
}

fn told(applied: Applied) {
    match applied {
        Applied::New(number) => say!("catalog {number} is in force now"),
        Applied::InForce(number) => say!("catalog {number} says that already"),
        Applied::Replaced { then, now } => {
            say!("it was catalog {then}; catalog {now} has replaced it");
        }
    }
}

fn line(version: &Version) -> String {
    let since = version.applied_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("{}  {since}  {}  {} plans", version.number, version.source, version.catalog.plans())
}

/// What would be in force with this file, and what is.
async fn planned(store: &Store, file: Catalog) -> anyhow::Result<(Catalog, Catalog)> {
    let now = store.catalog().await?.unwrap_or_else(Version::none).catalog;
    Ok((store.planned_catalog(Author::Operator, file).await?, now))
}

/// Who gains and who loses what.
#[derive(Default)]
struct Effect {
    subjects: usize,
    /// By kind and feature: those who gain it, those who lose it, and examples.
    features: BTreeMap<(Kind, String), (usize, usize, Vec<Subject>)>,
    losers: BTreeSet<Subject>,
}

impl Effect {
    /// Adds what changes for one account.
    fn add(&mut self, account: &Account, before: &Catalog, after: &Catalog) {
        let now = Utc::now();
        let features = |catalog| {
            let found = domain::entitlements(account, catalog, Grace::default(), now);
            found.into_iter().map(|e| e.feature.to_string()).collect::<BTreeSet<_>>()
        };
        let (before, after) = (features(before), features(after));
        self.subjects += 1;
        for feature in before.symmetric_difference(&after) {
            let gains = after.contains(feature);
            let key = (account.subject.kind(), feature.clone());
            let change = self.features.entry(key).or_default();
            *(if gains { &mut change.0 } else { &mut change.1 }) += 1;
            if change.2.len() < EXAMPLES {
                change.2.push(account.subject.clone());
            }
            if !gains {
                self.losers.insert(account.subject.clone());
            }
        }
    }

    fn print(&self) {
        for ((kind, feature), (gain, lose, examples)) in &self.features {
            let examples: Vec<_> = examples.iter().map(Subject::as_str).collect();
            say!(
                "{kind} {feature}: {gain} gain it, {lose} lose it, such as {}",
                examples.join(", ")
            );
        }
        let (subjects, losers) = (self.subjects, self.losers.len());
        say!("{subjects} subjects looked at, {losers} lose something");
    }
}

/// Decides for every known subject, with both catalogs.
async fn compare(store: &Store, before: &Catalog, after: &Catalog) -> anyhow::Result<Effect> {
    let (mut effect, mut from) = (Effect::default(), String::new());
    loop {
        let page = store.subjects(&from, PAGE).await?;
        let Some(last) = page.last() else { return Ok(effect) };
        from = last.to_string();
        for subject in &page {
            effect.add(&store.account(subject).await?, before, after);
        }
    }
}
