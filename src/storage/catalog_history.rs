//! Earlier states of the catalog, to explain earlier answers.

use super::{
    Store, StoreError,
    catalogs::{CatalogRow, CatalogVersion, NameRow, names, plan_names},
};
use crate::domain::{CatalogState, PlanNames};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// A state of the catalog to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogPoint {
    /// The state from which an answer was decided.
    State(CatalogState),
    /// The state that was in force at an instant, with the plan names that were known at another.
    At {
        /// The version that was in force then; `None`: the newest.
        in_force: Option<DateTime<Utc>>,
        /// Only plan names that were known then; `None`: all.
        known: Option<DateTime<Utc>>,
    },
}

/// The catalog at a point; the empty catalog if there was none. `None` if it never had this state.
pub(super) async fn load(
    db: &mut PgConnection,
    point: CatalogPoint,
) -> Result<Option<CatalogVersion>, StoreError> {
    let (row, names) = match point {
        CatalogPoint::State(state) => {
            (numbered(db, state.number).await?, first_names(db, state.names).await?)
        }
        CatalogPoint::At { in_force, known } => {
            (in_force_at(db, in_force).await?, names_at(db, in_force, known).await?)
        }
    };
    let version = match row {
        Some(row) => row.version(names)?,
        None => CatalogVersion { names, ..CatalogVersion::none() },
    };
    Ok(match point {
        CatalogPoint::State(state) => Some(version).filter(|version| version.state() == state),
        CatalogPoint::At { .. } => Some(version),
    })
}

/// The version with a number, with all plan names.
pub(super) async fn version(
    db: &mut PgConnection,
    number: u64,
) -> Result<Option<CatalogVersion>, StoreError> {
    let Some(row) = numbered(db, number).await? else { return Ok(None) };
    row.version(names(db).await?).map(Some)
}

async fn numbered(db: &mut PgConnection, number: u64) -> Result<Option<CatalogRow>, StoreError> {
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let row = sqlx::query_as!(
        CatalogRow,
        "select * from entitlements.catalog_version where number = $1",
        number
    );
    Ok(row.fetch_optional(db).await?)
}

async fn in_force_at(
    db: &mut PgConnection,
    at: Option<DateTime<Utc>>,
) -> Result<Option<CatalogRow>, StoreError> {
    let row = sqlx::query_as!(
        CatalogRow,
        "
        select * from entitlements.catalog_version
        where applied_at <= coalesce($1, 'infinity'::timestamptz) order by number desc limit 1
        ",
        at
    );
    Ok(row.fetch_optional(db).await?)
}

/// The plan names that were committed first.
async fn first_names(db: &mut PgConnection, count: u64) -> Result<PlanNames, StoreError> {
    let rows = sqlx::query_as!(
        NameRow,
        "
        select kind, plan_id, slug
        from (select * from entitlements.plan_name order by number limit $1) as first
        order by seen_at, plan_id, slug
        ",
        i64::try_from(count).unwrap_or(i64::MAX)
    );
    Ok(plan_names(rows.fetch_all(db).await?))
}

/// The plan names that occurred before an instant, of those that were known at another.
async fn names_at(
    db: &mut PgConnection,
    seen: Option<DateTime<Utc>>,
    known: Option<DateTime<Utc>>,
) -> Result<PlanNames, StoreError> {
    let rows = sqlx::query_as!(
        NameRow,
        "
        select kind, plan_id, slug from entitlements.plan_name
        where least(seen_at, known_at) <= coalesce($1, 'infinity'::timestamptz) and known_at <= coalesce($2, 'infinity'::timestamptz)
        order by seen_at, plan_id, slug
        ",
        seen,
        known
    );
    Ok(plan_names(rows.fetch_all(db).await?))
}

/// The most versions of the catalog that a history considers.
const MAX_VERSIONS: i64 = 1_000;

impl Store {
    /// Each state of the catalog, with the time from which it was in force, oldest first: a state begins with a version or
    /// with a plan name. Only the newest versions are read.
    pub async fn catalog_states(&self) -> Result<Vec<(DateTime<Utc>, CatalogVersion)>, StoreError> {
        self.background.run(states).await
    }
}

async fn states(db: &mut PgConnection) -> Result<Vec<(DateTime<Utc>, CatalogVersion)>, StoreError> {
    let rows = sqlx::query_as!(
        CatalogRow,
        "select * from entitlements.catalog_version order by number desc limit $1",
        MAX_VERSIONS
    );
    let rows = rows.fetch_all(&mut *db).await?;
    let names = sqlx::query!(
        "
        select kind, plan_id, slug, known_at from entitlements.plan_name
        order by seen_at, plan_id, slug
        "
    );
    let names = names.fetch_all(db).await?;
    let applied = rows.iter().map(|row| row.applied_at);
    let times: BTreeSet<_> = applied.chain(names.iter().map(|name| name.known_at)).collect();
    let mut states = Vec::new();
    for time in times {
        let Some(row) = rows.iter().find(|row| row.applied_at <= time) else { continue };
        let known = names.iter().filter(|name| name.known_at <= time).map(|name| NameRow {
            kind: name.kind.clone(),
            plan_id: name.plan_id.clone(),
            slug: name.slug.clone(),
        });
        states.push((time, row.clone().version(plan_names(known))?));
    }
    Ok(states)
}
