//! Catalog versions: numbered and immutable; the highest number is in force.

use super::{
    Author, Origin, Store, StoreError, catalog_history, catalog_rows,
    pool::{TxOutcome, retry_once},
};
use crate::domain::{Catalog, CatalogState, Kind, PlanName, PlanNames};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogVersion {
    /// The number of the version; a higher number is newer.
    pub number: u64,
    /// The plans and features of the version.
    pub catalog: Catalog,
    /// The pairs of plan id and slug seen so far. New pairs are added without a new version.
    pub names: PlanNames,
    /// The catalog file; `None`: no file was applied.
    pub file: Option<Catalog>,
    /// Clerk's plans; `None`: none were fetched.
    pub clerk: Option<Catalog>,
    /// The source of the version's change, such as a file's name.
    pub source: String,
    /// The person or deployment that applied the version; empty for the service itself.
    pub applied_by: String,
    /// The reason that was given; may be empty.
    pub reason: String,
    /// When the version came into force.
    pub applied_at: DateTime<Utc>,
}

impl CatalogVersion {
    /// The empty catalog, in force before there is a first version.
    #[must_use]
    pub fn none() -> Self {
        Self {
            number: 0,
            catalog: Catalog::default(),
            names: PlanNames::default(),
            file: None,
            clerk: None,
            source: String::new(),
            applied_by: String::new(),
            reason: String::new(),
            applied_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Whether another catalog file is in force than this one.
    #[must_use]
    pub fn differs_from_file(&self, file: &Catalog) -> bool {
        !self.file.as_ref().is_some_and(|in_force| in_force.says_the_same_as(file))
    }

    /// The number of the version, and the number of plan names.
    #[must_use]
    pub fn state(&self) -> CatalogState {
        CatalogState { number: self.number, names: self.names.count() }
    }

    /// Whether this has a higher number than `other`, or its number and more plan names.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.state() > other.state()
    }
}

/// The result of applying a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The catalog came into force with this version number.
    New(u64),
    /// The catalog was already in force with this version number.
    InForce(u64),
    /// The catalog was not applied: another catalog is in force, with this version number.
    Differs(u64),
}

/// The catalog in force, and the one that would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCatalog {
    /// The version in force.
    pub now: CatalogVersion,
    /// The catalog that would be in force.
    pub after: Catalog,
}

#[derive(Debug, Clone)]
pub(super) struct CatalogRow {
    pub number: i64,
    pub file_content: Option<String>,
    pub clerk_content: Option<String>,
    pub source: String,
    pub applied_by: String,
    pub reason: String,
    pub applied_at: DateTime<Utc>,
}

impl CatalogRow {
    pub(super) fn version(self, names: PlanNames) -> Result<CatalogVersion, StoreError> {
        let (file, clerk) =
            (parse(self.file_content.as_deref())?, parse(self.clerk_content.as_deref())?);
        Ok(CatalogVersion {
            number: number(self.number)?,
            catalog: merged(file.clone(), clerk.clone(), &names),
            names,
            file,
            clerk,
            source: self.source,
            applied_by: self.applied_by,
            reason: self.reason,
            applied_at: self.applied_at,
        })
    }
}

fn parse(text: Option<&str>) -> Result<Option<Catalog>, StoreError> {
    let catalog = text.map(Catalog::from_json).transpose();
    catalog.map_err(|e| StoreError::Corrupt(format!("catalog: {e}")))
}

fn merged(file: Option<Catalog>, clerk: Option<Catalog>, names: &PlanNames) -> Catalog {
    file.unwrap_or_default().overlaid_on(clerk.unwrap_or_default(), names)
}

impl Store {
    /// The catalog in force, if there is one.
    pub async fn catalog(&self) -> Result<Option<CatalogVersion>, StoreError> {
        self.background.run(newest).await
    }

    /// The catalog in force, if there is one, for a check that waits for it.
    pub async fn catalog_for_check(&self) -> Result<Option<CatalogVersion>, StoreError> {
        retry_once(|| self.checks.run(newest)).await
    }

    /// The version of the catalog with this number; `None`: there is none.
    pub async fn catalog_version(&self, number: u64) -> Result<Option<CatalogVersion>, StoreError> {
        self.background.run(async |db| catalog_history::version(db, number).await).await
    }

    /// The newest versions of the catalog, newest first.
    pub async fn catalog_history(&self, limit: i64) -> Result<Vec<CatalogVersion>, StoreError> {
        self.background.run(async |db| history(db, limit).await).await
    }

    /// The catalog that would be in force if `catalog` of this author were applied.
    pub async fn planned_catalog(
        &self,
        author: Author,
        catalog: &Catalog,
    ) -> Result<PlannedCatalog, StoreError> {
        self.background.run(async |db| planned(db, author, catalog).await).await
    }

    /// Applies an author's catalog as a new version, if its content is new.
    pub async fn apply_catalog(
        &self,
        author: Author,
        catalog: &Catalog,
        origin: Origin<'_>,
    ) -> Result<Applied, StoreError> {
        let apply = async |db: &mut _| apply(db, author, catalog, origin).await;
        let applied = self.webhooks.transact(apply).await?;
        if matches!(applied, Applied::New(_)) {
            self.notifier.read_log();
        }
        Ok(applied)
    }
}

pub(super) async fn newest(db: &mut PgConnection) -> Result<Option<CatalogVersion>, StoreError> {
    let row = sqlx::query_as!(
        CatalogRow,
        "select * from entitlements.catalog_version order by number desc limit 1"
    );
    let Some(row) = row.fetch_optional(&mut *db).await? else { return Ok(None) };
    row.version(names(db).await?).map(Some)
}

/// All stored pairs of plan id and slug.
pub(super) async fn names(db: &mut PgConnection) -> Result<PlanNames, StoreError> {
    let rows = sqlx::query_as!(
        NameRow,
        "select kind, plan_id, slug from entitlements.plan_name order by seen_at, plan_id, slug"
    );
    Ok(plan_names(rows.fetch_all(db).await?))
}

/// A row of `plan_name`.
#[derive(Debug)]
pub(super) struct NameRow {
    pub kind: String,
    pub plan_id: String,
    pub slug: String,
}

/// The pairs of some rows, which are in the order of their first use.
pub(super) fn plan_names(rows: impl IntoIterator<Item = NameRow>) -> PlanNames {
    let mut names = PlanNames::default();
    for NameRow { kind, plan_id, slug } in rows {
        let kind = if kind == "user" { Kind::User } else { Kind::Organization };
        names.add(kind, PlanName { id: plan_id.into(), slug: slug.into() });
    }
    names
}

/// Stores pairs of plan id and slug. If a pair is new, writes a change-log row for the catalog and returns true: the rows of
/// the catalog are then out of date. The lock serializes transactions with pairs, which are rare, so that their numbers are
/// in the order of the commits.
pub(super) async fn insert_names(
    tx: &mut PgConnection,
    kind: Kind,
    ids: &[String],
    slugs: &[String],
    seen_at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    if ids.is_empty() {
        return Ok(false);
    }
    lock(tx).await?;
    let logged = sqlx::query!(
        "
        with new as (
            insert into entitlements.plan_name (kind, plan_id, slug, seen_at)
            select $1, id, slug, $4
            from rows from (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) as t (id, slug)
            order by id, slug -- so that two at a time cannot wait for each other
            on conflict do nothing returning 1
        )
        insert into entitlements.change_log (subject) select null from new limit 1
        ",
        kind.to_string(),
        ids,
        slugs,
        seen_at,
    )
    .execute(&mut *tx)
    .await?;
    Ok(logged.rows_affected() > 0)
}

async fn history(db: &mut PgConnection, limit: i64) -> Result<Vec<CatalogVersion>, StoreError> {
    let rows = sqlx::query_as!(
        CatalogRow,
        "select * from entitlements.catalog_version order by number desc limit $1",
        limit
    );
    let rows = rows.fetch_all(&mut *db).await?;
    let names = names(db).await?;
    rows.into_iter().map(|row| row.version(names.clone())).collect()
}

async fn planned(
    db: &mut PgConnection,
    author: Author,
    catalog: &Catalog,
) -> Result<PlannedCatalog, StoreError> {
    let now = newest(db).await?.unwrap_or_else(CatalogVersion::none);
    let content = new_content(author, catalog, now.clerk.as_ref());
    let mut names = now.names.clone();
    for (kind, name) in content.names() {
        names.add(kind, name); // as the names that are stored with the version
    }
    let (file, clerk) = if author.is_clerk() {
        (now.file.clone(), Some(content))
    } else {
        (Some(content), now.clerk.clone())
    };
    let after = merged(file, clerk, &names);
    Ok(PlannedCatalog { now, after })
}

/// Waits for other transactions that change the catalog or the plan names. A stronger lock could be blocked by any role:
/// PREPARE of a write takes its lock without write privileges.
pub(super) async fn lock(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("lock table entitlements.catalog_version in share update exclusive mode")
        .execute(tx)
        .await?;
    Ok(())
}

/// Adds a version with the author's new content and the other author's unchanged content.
async fn apply(
    tx: &mut PgConnection,
    author: Author,
    catalog: &Catalog,
    origin: Origin<'_>,
) -> Result<TxOutcome<Applied>, StoreError> {
    lock(tx).await?;
    let newest = sqlx::query!(
        "
        select number, file_content, clerk_content from entitlements.catalog_version
        order by number desc limit 1
        "
    );
    let newest = newest.fetch_optional(&mut *tx).await?;
    let newest = newest.map(|row| (Some(row.number), row.file_content, row.clerk_content));
    let (now, file, clerk) = newest.unwrap_or_default();
    let known_clerk = parse(clerk.as_deref())?;
    let new = new_content(author, catalog, known_clerk.as_ref());
    let before = if author.is_clerk() { known_clerk } else { parse(file.as_deref())? };
    let is_same = before.is_some_and(|before| before.says_the_same_as(&new));
    if let (Some(now), true) = (now, is_same) {
        return Ok(TxOutcome::RollBack(Applied::InForce(number(now)?)));
    }
    let content = new.to_json();
    let now = number(now.unwrap_or_default())?;
    if !author.may_replace(now) {
        return Ok(TxOutcome::RollBack(Applied::Differs(now)));
    }
    insert_names_of(tx, &new).await?;
    let (file, clerk) =
        if author.is_clerk() { (file, Some(content)) } else { (Some(content), clerk) };
    let added = sqlx::query_scalar!(
        "
        with logged as (insert into entitlements.change_log (subject) values (null))
        insert into entitlements.catalog_version (file_content, clerk_content, source, applied_by, reason)
        values ($1, $2, $3, $4, $5) returning number
        ",
        file,
        clerk,
        origin.source,
        origin.applied_by,
        origin.reason
    )
    .fetch_one(&mut *tx)
    .await?;
    catalog_rows::write(tx).await?;
    Ok(TxOutcome::Commit(Applied::New(number(added)?)))
}

/// The author's content of a new version. For Clerk, plans that it no longer lists are kept as retired.
fn new_content(author: Author, catalog: &Catalog, clerk: Option<&Catalog>) -> Catalog {
    let mut new = catalog.clone();
    if let (Author::Clerk(_), Some(clerk)) = (author, clerk) {
        new.keep_retired(clerk);
    }
    new
}

/// Stores the id and slug of each plan of a catalog that has an id.
async fn insert_names_of(tx: &mut PgConnection, catalog: &Catalog) -> Result<(), StoreError> {
    for kind in [Kind::User, Kind::Organization] {
        let names = catalog.names().filter(|(of, _)| *of == kind);
        let (ids, slugs): (Vec<_>, Vec<_>) =
            names.map(|(_, name)| (name.id.to_string(), name.slug.to_string())).unzip();
        insert_names(tx, kind, &ids, &slugs, Utc::now()).await?;
    }
    Ok(())
}

fn number(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("catalog number {number}")))
}
