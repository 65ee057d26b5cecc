//! `entitlements catalog`: shows catalog versions, previews changes, and puts a catalog in force.

mod change;
mod effect;
mod import;
mod preview;
mod types;

use super::{
    output::{Format, STRONG, Table, paint, print_line, print_text, say_json},
    render::counted,
};
use crate::{
    app::{WrongSchema, backend_api},
    clerk::BackendApi,
    config::{Backend, Database},
    ingest::{Deliveries, ServedInstance, reconcile::Reconciler},
    replica::Accounts,
    storage::{CatalogVersion, Schema, Store},
    telemetry::Telemetry,
};
use anyhow::Context;
use change::{ApplyArgs, CatalogEdit, print_changes};
use chrono::SecondsFormat;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

/// Subjects per page of the query.
pub(super) const SUBJECTS_PER_PAGE: i64 = 500;
/// The subcommands of `catalog`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements catalog plan catalog.toml --subjects
  entitlements catalog apply catalog.toml --most-losses 3 --by ci --reason 'new prices'
  entitlements catalog show 4 > catalog-4.toml
  entitlements catalog diff 4 5
  entitlements catalog types --language ts --output web/entitlements.ts
  entitlements catalog types --language ts --check web/entitlements.ts
  entitlements catalog import billing.json --output catalog.toml")]
pub(super) struct CatalogCommand {
    #[command(subcommand)]
    action: CatalogAction,

    #[command(flatten)]
    direct: DirectDatabase,
}

#[derive(Debug, Subcommand)]
enum CatalogAction {
    /// Show how a catalog file differs from the catalog in force, and which subjects would gain and lose by it
    Plan {
        /// Catalog file
        file: PathBuf,
        /// List what each subject would gain and lose
        #[arg(long)]
        subjects: bool,
    },
    /// Put a catalog file in force, forward and back alike: the step of a deployment
    ///
    /// Exits with 0 if the file is in force, 1 if too many subjects would lose something, 2 for any other error.
    Apply {
        /// Catalog file
        file: PathBuf,
        #[command(flatten)]
        args: ApplyArgs,
    },
    /// Import the plans from Clerk's Backend API and put the result in force; plans of the catalog file take precedence
    Pull {
        /// Remove plans that Clerk no longer lists; without this flag their holders keep them
        #[arg(long)]
        remove_retired: bool,
        #[command(flatten)]
        args: ApplyArgs,
    },
    /// Convert the file of Clerk's command line to a catalog file
    ///
    /// It reads what `clerk config pull --keys billing` writes. A plan that cannot be read is left out and reported on
    /// standard error.
    #[command(after_help = "Examples:
  clerk config pull --keys billing --output billing.json
  entitlements catalog import billing.json --output catalog.toml
  clerk config pull --keys billing | entitlements catalog import /dev/stdin
  entitlements catalog import billing.json --number projects=PATTERN # as in [numbers]

Exit codes: 0 if all plans were imported; 1 if some were left out; 2 for any error")]
    Import(import::ImportArgs),
    /// List catalog versions, newest first, with the person who applied each, and why
    History {
        /// Maximum number of versions to list
        #[arg(long, default_value_t = 20)]
        limit: i64,
    },
    /// Print a catalog version as a file that `catalog apply` takes
    Show {
        /// Number of the version [default: the version in force]
        number: Option<u64>,
        /// Part of the version [default: the catalog file, if it has one; else Clerk's plans]
        #[arg(long, value_name = "PART")]
        part: Option<CatalogPart>,
    },
    /// Show the differences between two catalog versions
    Diff {
        /// Number of the version before
        before: u64,
        /// Number of the version after [default: the version in force]
        after: Option<u64>,
    },
    /// Print the features and plans as types of a programming language, so that a mistyped one does not compile
    ///
    /// The types: features, features that have a limit in at least one plan, plans for users, plans for organizations. The
    /// code is sorted, and depends on nothing but the keys: keep it in version control, and run `--check` in CI.
    #[command(after_help = "Examples:
  entitlements catalog types --language ts --output web/entitlements.ts
  entitlements catalog types --language rust --file catalog.toml > src/entitlements.rs
  entitlements catalog types --language go --package billing --output billing/entitlements.go
  entitlements catalog types --language python --check app/entitlements.py

Exit codes: 0 if the code was written, or the file of `--check` is the same; 1 if it differs; 2 for any error")]
    Types(types::TypesArgs),
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
}

/// A part of a catalog version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CatalogPart {
    /// The catalog file
    File,
    /// The plans of Clerk's Backend API
    Clerk,
    /// Both, as they are in force. If it is applied, Clerk no longer changes these plans
    All,
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
    /// Opens the database, whose schema must fit this release.
    pub(super) async fn store(&self) -> anyhow::Result<Arc<Store>> {
        let store = Store::new(self.database.options()?);
        match store.schema().await? {
            Schema::Fits => Ok(store),
            Schema::Behind => Err(WrongSchema::Behind.into()),
            Schema::Ahead => Err(WrongSchema::Ahead.into()),
        }
    }

    fn api(&self) -> anyhow::Result<BackendApi> {
        let access = self.backend.access().context(
            "CLERK_SECRET_KEY is not set: copy it from the API keys page of Clerk's dashboard",
        )?;
        backend_api(&access)
    }

    pub(super) async fn reconciler(&self) -> anyhow::Result<Reconciler> {
        let (store, telemetry) = (self.store().await?, Telemetry::default());
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
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let store = || self.direct.store();
        match &self.action {
            CatalogAction::Plan { file, subjects } => {
                CatalogEdit::of_file(store().await?, file, *subjects, format).await?.show();
            }
            CatalogAction::Apply { file, args } => {
                let edit = CatalogEdit::of_file(store().await?, file, false, format).await?;
                return edit.apply(args).await;
            }
            CatalogAction::Pull { remove_retired, args } => {
                let edit = CatalogEdit::of_clerk(&self.direct, *remove_retired, format).await?;
                return edit.apply(args).await;
            }
            CatalogAction::Import(args) => return args.run(format),
            CatalogAction::History { limit } => {
                history(&store().await?.catalog_history(*limit).await?, format);
            }
            CatalogAction::Show { number, part } => {
                show(&found(&*store().await?, *number).await?, *part, format)?;
            }
            CatalogAction::Diff { before, after } => {
                let store = store().await?;
                let before = found(&store, Some(*before)).await?;
                diff(&before, &found(&store, *after).await?, format);
            }
            CatalogAction::Types(args) => return args.run(&self.direct, format).await,
            CatalogAction::Preview { subject, plan, counts } => {
                preview::run(store().await?, subject, plan, counts, format).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The version with a number; without one, the version in force.
async fn found(store: &Store, number: Option<u64>) -> anyhow::Result<CatalogVersion> {
    match number {
        Some(number) => store.catalog_version(number).await?.with_context(|| {
            format!("there is no catalog {number}: `catalog history` lists all catalogs")
        }),
        None => store
            .catalog()
            .await?
            .context("there is no catalog yet: create one with `catalog apply FILE`"),
    }
}

fn history(versions: &[CatalogVersion], format: Format) {
    if format == Format::Json {
        return versions.iter().for_each(|version| say_json(&described(version)));
    }
    let mut table = Table::new(&["catalog", "applied", "from", "plans", "by", "reason"]);
    for version in versions {
        let (number, plans) = (version.number.to_string(), version.catalog.plans().to_string());
        let [source, by, reason] =
            [&version.source, &version.applied_by, &version.reason].map(Clone::clone);
        table.push([number, applied_at(version), source, plans, by, reason]);
    }
    table.print();
    say!("{}", counted(versions.len(), "version"));
}

fn show(version: &CatalogVersion, part: Option<CatalogPart>, format: Format) -> anyhow::Result<()> {
    let part = match part {
        None => version.file.as_ref().or(version.clerk.as_ref()),
        Some(CatalogPart::File) => version.file.as_ref(),
        Some(CatalogPart::Clerk) => version.clerk.as_ref(),
        Some(CatalogPart::All) => Some(&version.catalog),
    };
    let part = part.with_context(|| format!("catalog {} has no such part", version.number))?;
    let toml = part.to_toml();
    if format == Format::Json {
        let mut json = described(version);
        json["toml"] = json!(toml);
        say_json(&json);
        return Ok(());
    }
    // The name of a file may have any character; a line break would end the comment.
    let (number, source) = (version.number, version.source.escape_debug());
    print_line(&format!("# catalog {number}, from {source}, applied {}", applied_at(version)));
    print_text(&toml);
    Ok(())
}

fn diff(before: &CatalogVersion, after: &CatalogVersion, format: Format) {
    let changes = before.catalog.changes(&after.catalog);
    if format == Format::Json {
        let (before, after) = (before.number, after.number);
        return say_json(&json!({ "before": before, "after": after, "changes": changes }));
    }
    let title = format!("catalog {} -> catalog {}", before.number, after.number);
    say!("{}", paint(STRONG, &title));
    print_changes(&changes);
    if changes.is_empty() {
        say!("nothing changes");
    }
}

/// A version as JSON, without its content.
fn described(version: &CatalogVersion) -> Value {
    json!({
        "number": version.number,
        "appliedAt": applied_at(version),
        "source": version.source,
        "plans": version.catalog.plans(),
        "appliedBy": version.applied_by,
        "reason": version.reason,
    })
}

fn applied_at(version: &CatalogVersion) -> String {
    version.applied_at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn parse_count(text: &str) -> Result<(String, u64), &'static str> {
    let parsed = text.split_once('=').and_then(|(slug, n)| Some((slug.into(), n.parse().ok()?)));
    parsed.ok_or("needs a feature and a number, as projects=30")
}
