//! A change of the catalog: its differences, its effect, and the guard against losses.

use super::{DirectDatabase, SUBJECTS_PER_PAGE, effect::CatalogEffect};
use crate::{
    cli::output::{BAD, Format, GOOD, WARN, paint, say_json},
    config::read_catalog,
    domain::{Catalog, CatalogChange, ChangeKind},
    ingest::reconcile::ClerkPlans,
    storage::{Applied, Author, Origin, PlannedCatalog, Store},
};
use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use std::{env, path::Path, process::ExitCode, sync::Arc};

/// Consent to losses, and the origin of the new version.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// Apply it however many subjects lose something
    #[arg(long)]
    yes: bool,

    /// Maximum number of subjects that may lose a feature, a plan, some of its time, or a part of its limit
    #[arg(long, value_name = "COUNT", default_value_t = 0, env = "ENTITLEMENTS_MOST_LOSSES")]
    most_losses: usize,

    /// Person or deployment that applies it, for the history [default: the user of the operating system]
    #[arg(long, value_name = "NAME", env = "ENTITLEMENTS_APPLIED_BY")]
    by: Option<String>,

    /// Reason, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// A catalog that is about to be applied, compared with the one in force.
pub(super) struct CatalogEdit {
    store: Arc<Store>,
    author: Author,
    /// The content of the author.
    content: Catalog,
    source: String,
    planned: PlannedCatalog,
    changes: Vec<CatalogChange>,
    effect: CatalogEffect,
    /// The plans of Clerk that could not be read, with the reasons.
    left_out: Vec<String>,
    format: Format,
}

impl CatalogEdit {
    /// Compares a catalog file with the catalog in force.
    pub async fn of_file(
        store: Arc<Store>,
        file: &Path,
        lists_subjects: bool,
        format: Format,
    ) -> anyhow::Result<Self> {
        let (content, source) = read_catalog(file)?;
        let author = Author::Operator(None);
        Self::new(store, author, content, source, lists_subjects, format).await
    }

    /// Compares Clerk's plans with the catalog in force.
    pub async fn of_clerk(
        direct: &DirectDatabase,
        remove_retired: bool,
        format: Format,
    ) -> anyhow::Result<Self> {
        let ClerkPlans { author, catalog, left_out } =
            direct.reconciler().await?.clerk_plans(remove_retired).await?;
        let (store, source) = (direct.store().await?, "Clerk".to_owned());
        let edit = Self::new(store, author, catalog, source, false, format).await?;
        Ok(Self { left_out, ..edit })
    }

    async fn new(
        store: Arc<Store>,
        author: Author,
        content: Catalog,
        source: String,
        lists_subjects: bool,
        format: Format,
    ) -> anyhow::Result<Self> {
        let planned = store.planned_catalog(author, &content).await?;
        let (before, after) = (&planned.now.catalog, &planned.after);
        let changes = before.changes(after);
        let mut effect = CatalogEffect::new(before, after, lists_subjects);
        if !changes.is_empty() {
            compare(&store, before, after, &mut effect).await?;
        }
        // Only the version that was compared is replaced.
        let author = author.after(planned.now.number);
        let left_out = Vec::new();
        Ok(Self { store, author, content, source, planned, changes, effect, left_out, format })
    }

    /// Shows the differences and the effect.
    pub fn show(&self) {
        match self.format {
            Format::Json => say_json(&self.json()),
            Format::Text if self.changes.is_empty() => {
                say!("nothing changes: catalog {} has this content", self.planned.now.number);
            }
            Format::Text => self.print(),
        }
    }

    fn print(&self) {
        print_changes(&self.changes);
        for note in self.planned.after.number_notes() {
            say!("{}", paint(WARN, &format!("note: {note}")));
        }
        if !self.changes.is_empty() {
            self.effect.print();
        }
    }

    fn json(&self) -> Value {
        json!({
            "inForce": self.planned.now.number,
            "changes": self.changes,
            "effect": self.effect.json(),
            "leftOut": self.left_out,
            "notes": self.planned.after.number_notes(),
        })
    }

    fn print_left_out(&self) {
        for why in &self.left_out {
            say!("{}", paint(WARN, &format!("plan not refreshed: {why}")));
        }
    }

    /// Shows the differences and the effect, and applies the catalog unless too many subjects lose something.
    pub async fn apply(self, args: &ApplyArgs) -> anyhow::Result<ExitCode> {
        if self.format == Format::Text {
            self.print_left_out();
        }
        let has_losses = self.effect.losers() > args.most_losses || self.effect.unrecorded_lose();
        if has_losses && !args.yes {
            self.refuse();
            return Ok(ExitCode::FAILURE);
        }
        let by = args.by.clone().unwrap_or_else(os_user);
        let origin = Origin { source: &self.source, applied_by: &by, reason: args.reason.trim() };
        let applied = self.store.apply_catalog(self.author, &self.content, origin).await?;
        let (result, number) = match applied {
            Applied::New(number) => ("applied", number),
            Applied::InForce(number) => ("in_force", number),
            Applied::Differs(number) => bail!(
                "catalog {number} came into force while this one was compared, so nothing was applied: run the command \
                 again"
            ),
        };
        if self.format == Format::Json {
            let mut json = self.json();
            (json["result"], json["number"]) = (json!(result), json!(number));
            say_json(&json);
            return Ok(ExitCode::SUCCESS);
        }
        if matches!(applied, Applied::New(_)) {
            self.print();
            say!("{}", paint(GOOD, &format!("catalog {number} is in force now")));
        } else {
            say!("nothing changes: catalog {number} has this content");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn refuse(&self) {
        if self.format == Format::Json {
            let mut json = self.json();
            json["result"] = json!("refused");
            return say_json(&json);
        }
        self.print();
        let (refused, losses) = (paint(BAD, "not applied"), self.effect.losses());
        let consent = if self.effect.unrecorded_lose() {
            "--yes".into()
        } else {
            format!("--yes, or --most-losses {}", self.effect.losers())
        };
        say!("{refused}: {losses}; nothing was changed. To apply it, add {consent}");
    }
}

/// Prints the differences between two catalogs, one in a line.
pub(super) fn print_changes(changes: &[CatalogChange]) {
    for change in changes {
        let style = match change.change {
            ChangeKind::Added => GOOD,
            ChangeKind::Removed => BAD,
            ChangeKind::Changed => WARN,
        };
        say!("{}", paint(style, &change.to_string()));
    }
}

/// Evaluates every subject in the database with both catalogs.
async fn compare(
    store: &Store,
    before: &Catalog,
    after: &Catalog,
    effect: &mut CatalogEffect,
) -> anyhow::Result<()> {
    let mut from = String::new();
    loop {
        let page = store.accounts(&from, SUBJECTS_PER_PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.subject.to_string();
        for account in &page {
            effect.add(account, before, after);
        }
    }
}

/// The user of the operating system; in a container, which names none, its number.
fn os_user() -> String {
    let name = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    let name = name.filter(|name| !name.trim().is_empty());
    name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
