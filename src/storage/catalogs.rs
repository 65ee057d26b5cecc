//! The versions of the catalog: numbered, never changed, the highest is in force.

use super::{StoreError, pool::End};
use crate::domain::{Catalog, Kind, PlanName, PlanNames};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number: higher is newer.
    pub number: u64,
    /// What it says.
    pub catalog: Catalog,
    /// The names that plans were seen with: they become more without a new version.
    pub names: PlanNames,
    /// Where what is new in it came from.
    pub source: String,
    /// Since when it is, or was, in force.
    pub applied_at: DateTime<Utc>,
}

impl Version {
    /// What is in force before there is any version: nothing.
    #[must_use]
    pub fn none() -> Self {
        let (catalog, source) = (Catalog::default(), String::new());
        let names = PlanNames::default();
        Self { number: 0, catalog, names, source, applied_at: DateTime::UNIX_EPOCH }
    }

    /// Whether this says more than another: later versions do, and the same with more names.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.number, self.names.count()) > (other.number, other.names.count())
    }
}

/// Who says what is in a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A file. One that was in force and was replaced does not come back by itself.
    File,
    /// A file that an operator puts in force, whatever was before.
    Operator,
    /// Clerk's Backend API, which always tells how things are now. Plans that it lists no longer stay, as retired.
    Clerk,
    /// The same, without the plans that it lists no longer.
    ClerkWithoutRetired,
}

impl Author {
    fn is_clerk(self) -> bool {
        matches!(self, Self::Clerk | Self::ClerkWithoutRetired)
    }
}

/// What became of putting a catalog in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in force now, as this version.
    New(u64),
    /// It was in force already.
    InForce(u64),
    /// It was in force as `then`, and a later version, `now`, has replaced it: it stays replaced.
    Replaced {
        /// The last version with this content.
        then: u64,
        /// The version in force.
        now: u64,
    },
}

struct Row {
    number: i64,
    file: Option<String>,
    clerk: Option<String>,
    source: String,
    applied_at: DateTime<Utc>,
}

impl Row {
    fn version(self, names: PlanNames) -> Result<Version, StoreError> {
        Ok(Version {
            number: number(self.number)?,
            catalog: parse(self.file.as_deref())?.over(parse(self.clerk.as_deref())?, &names),
            names,
            source: self.source,
            applied_at: self.applied_at,
        })
    }
}

fn parse(text: Option<&str>) -> Result<Catalog, StoreError> {
    let catalog = text.map(Catalog::from_json).transpose();
    let catalog = catalog.map_err(|e| StoreError::Corrupt(format!("catalog: {e}")))?;
    Ok(catalog.unwrap_or_default())
}

/// The version in force.
pub(super) async fn newest(db: &mut PgConnection) -> Result<Option<Version>, StoreError> {
    let row = sqlx::query_as!(Row, "select * from catalog order by number desc limit 1");
    let Some(row) = row.fetch_optional(&mut *db).await? else { return Ok(None) };
    row.version(names(db).await?).map(Some)
}

/// All names that plans were seen with.
async fn names(db: &mut PgConnection) -> Result<PlanNames, StoreError> {
    let rows =
        sqlx::query!("select kind, plan_id, slug from plan_name order by seen_at, plan_id, slug");
    let mut names = PlanNames::default();
    for row in rows.fetch_all(db).await? {
        let kind = if row.kind == "user" { Kind::User } else { Kind::Organization };
        names.add(kind, PlanName { id: row.plan_id.into(), slug: row.slug.into() });
    }
    Ok(names)
}

/// Remembers pairs of id and slug that belong together; logs a change of the catalog if one is new.
pub(super) async fn remember(
    tx: &mut PgConnection,
    kind: Kind,
    ids: &[String],
    slugs: &[String],
    seen_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        with new as (
            insert into plan_name (kind, plan_id, slug, seen_at)
            select $1, id, slug, $4
            from rows from (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) as t (id, slug)
            order by id, slug -- so that two at a time cannot wait for each other
            on conflict do nothing returning 1
        )
        insert into change (subject) select null from new limit 1
        ",
        kind.to_string(),
        ids,
        slugs,
        seen_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// All versions, newest first, at most so many.
pub(super) async fn history(db: &mut PgConnection, limit: i64) -> Result<Vec<Version>, StoreError> {
    let rows = sqlx::query_as!(Row, "select * from catalog order by number desc limit $1", limit);
    let rows = rows.fetch_all(&mut *db).await?;
    let names = names(db).await?;
    rows.into_iter().map(|row| row.version(names.clone())).collect()
}

/// What would be in force if this author said this.
pub(super) async fn planned(
    db: &mut PgConnection,
    author: Author,
    catalog: Catalog,
) -> Result<Catalog, StoreError> {
    let row = sqlx::query!("select file, clerk from catalog order by number desc limit 1");
    let row = row.fetch_optional(&mut *db).await?;
    let (file, clerk) = row.map(|row| (row.file, row.clerk)).unwrap_or_default();
    let names = names(db).await?;
    Ok(if author.is_clerk() {
        parse(file.as_deref())?.over(catalog, &names)
    } else {
        catalog.over(parse(clerk.as_deref())?, &names)
    })
}

/// Adds a version in which this author says something new.
pub(super) async fn apply(
    tx: &mut PgConnection,
    author: Author,
    catalog: &Catalog,
    source: &str,
) -> Result<End<Applied>, StoreError> {
    // Stronger locks can be prevented by any role, which need not be allowed to write for PREPARE to lock.
    sqlx::query!("lock table catalog in share update exclusive mode").execute(&mut *tx).await?;
    let newest =
        sqlx::query!("select number, file, clerk from catalog order by number desc limit 1");
    let newest = newest.fetch_optional(&mut *tx).await?;
    let newest = newest.map(|row| (Some(row.number), row.file, row.clerk));
    let (now, file, clerk) = newest.unwrap_or_default();
    let said = said(author, catalog, clerk.as_deref())?;
    let content = said.to_json();
    let before = if author.is_clerk() { &clerk } else { &file };
    if let Some(now) = now
        && before.as_deref() == Some(&*content)
    {
        return Ok(End::RollBack(Applied::InForce(number(now)?)));
    }
    if let (Author::File, Some(now)) = (author, now)
        && let Some(then) = last_with(tx, &content).await?
    {
        let replaced = Applied::Replaced { then: number(then)?, now: number(now)? };
        return Ok(End::RollBack(replaced));
    }
    remember_plans(tx, &said).await?;
    let (file, clerk) =
        if author.is_clerk() { (file, Some(content)) } else { (Some(content), clerk) };
    let new = sqlx::query_scalar!(
        "
        with logged as (insert into change (subject) values (null))
        insert into catalog (file, clerk, source) values ($1, $2, $3) returning number
        ",
        file,
        clerk,
        source
    )
    .fetch_one(tx)
    .await?;
    Ok(End::Commit(Applied::New(number(new)?)))
}

/// The last version in which the file said this.
async fn last_with(tx: &mut PgConnection, content: &str) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar!("select pg_catalog.max(number) from catalog where file = $1", content)
        .fetch_one(tx)
        .await?)
}

/// What an author's part of a new version says. Plans that Clerk lists no longer stay, as retired.
fn said(author: Author, catalog: &Catalog, clerk: Option<&str>) -> Result<Catalog, StoreError> {
    let mut said = catalog.clone();
    if author == Author::Clerk {
        said.keep_retired(&parse(clerk)?);
    }
    Ok(said)
}

/// Remembers the names of all plans that have an id.
async fn remember_plans(tx: &mut PgConnection, said: &Catalog) -> Result<(), StoreError> {
    for kind in [Kind::User, Kind::Organization] {
        let plans = said.shelf(kind).plans.iter();
        let names = plans.filter_map(|(slug, plan)| Some((plan.id.as_deref()?.to_owned(), slug)));
        let (ids, slugs): (Vec<_>, Vec<_>) = names.map(|(id, slug)| (id, slug.to_string())).unzip();
        remember(tx, kind, &ids, &slugs, Utc::now()).await?;
    }
    Ok(())
}

fn number(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("catalog number {number}")))
}
