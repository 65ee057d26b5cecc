//! The catalog in force as rows, from which the functions in SQL decide. They are written in the transaction that puts a
//! version in force or stores a new pair of plan id and slug.

use super::{
    Store, StoreError,
    catalogs::{self, CatalogVersion},
    pool::TxOutcome,
};
use crate::domain::{Catalog, FoundBy, Kind};
use chrono::Duration;
use sqlx::{PgConnection, postgres::types::PgInterval};

/// The most milliseconds of a grace, 10,000 years: as good as for ever, and no sum with a time is out of range.
const MAX_GRACE_MS: i64 = 10_000 * 366 * 86_400_000;

impl Store {
    /// Writes the rows if they are not those of the newest version.
    pub async fn complete_catalog_rows(&self) -> Result<(), StoreError> {
        let complete = async |tx: &mut _| complete(tx).await.map(TxOutcome::Commit);
        self.webhooks.transact(complete).await
    }
}

/// Writes the rows of the newest version, if there is one. The caller holds the lock of the catalog.
pub(super) async fn write(tx: &mut PgConnection) -> Result<(), StoreError> {
    let Some(version) = catalogs::newest(&mut *tx).await? else { return Ok(()) };
    write_version(&mut *tx, &version).await?;
    write_features(&mut *tx, &version.catalog).await?;
    write_plans(tx, &version.catalog).await
}

/// Writes the rows if they are not those of the newest version, as after the migration that added their tables, or after a
/// replica of an earlier release put a version in force.
pub(super) async fn complete(tx: &mut PgConnection) -> Result<(), StoreError> {
    let differ = sqlx::query_scalar!(
        r#"
        select exists (select from entitlements.catalog_version) and not exists (
            select from entitlements.catalog_in_force
            where number = (select pg_catalog.max(v.number) from entitlements.catalog_version as v)
                and names = (select pg_catalog.count(*) from entitlements.plan_name)
        ) as "differ!"
        "#
    );
    if differ.fetch_one(&mut *tx).await? {
        catalogs::lock(&mut *tx).await?;
        write(tx).await?;
    }
    Ok(())
}

async fn write_version(tx: &mut PgConnection, version: &CatalogVersion) -> Result<(), StoreError> {
    let grace = version.catalog.grace;
    let interval = |grace: Duration| {
        let ms = grace.num_milliseconds().min(MAX_GRACE_MS);
        PgInterval { months: 0, days: 0, microseconds: ms * 1000 }
    };
    sqlx::query!("delete from entitlements.catalog_in_force").execute(&mut *tx).await?;
    let insert = sqlx::query!(
        "
        insert into entitlements.catalog_in_force (number, names, past_due, renewal, trial)
        values ($1, $2, $3, $4, $5)
        ",
        stored(version.number),
        stored(version.names.count()),
        grace.past_due.map(interval),
        grace.renewal.map(interval),
        interval(grace.trial)
    );
    insert.execute(tx).await?;
    Ok(())
}

async fn write_features(tx: &mut PgConnection, catalog: &Catalog) -> Result<(), StoreError> {
    let (mut kinds, mut plans) = (Vec::new(), Vec::new());
    let (mut features, mut limits) = (Vec::new(), Vec::new());
    for kind in [Kind::User, Kind::Organization] {
        for (slug, plan) in &catalog.plan_set(kind).plans {
            for (feature, limit) in &plan.features {
                kinds.push(kind.to_string());
                plans.push(slug.to_string());
                features.push(feature.to_string());
                limits.push(limit.map(stored));
            }
        }
    }
    sqlx::query!("delete from entitlements.catalog_feature").execute(&mut *tx).await?;
    let insert = sqlx::query!(
        r#"
        insert into entitlements.catalog_feature (kind, plan, feature, "limit")
        select * from rows from (
            pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]),
            pg_catalog.unnest($4::bigint[])
        ) as t
        "#,
        &kinds,
        &plans,
        &features,
        &limits as &[Option<i64>]
    );
    insert.execute(tx).await?;
    Ok(())
}

async fn write_plans(tx: &mut PgConnection, catalog: &Catalog) -> Result<(), StoreError> {
    let (mut kinds, mut names) = (Vec::new(), Vec::new());
    let (mut rules, mut plans) = (Vec::new(), Vec::new());
    for kind in [Kind::User, Kind::Organization] {
        let plan_set = catalog.plan_set(kind);
        let default = plan_set.default_plan();
        let default = default.map(|(plan, _)| (0, "", plan));
        let found = plan_set.findable().map(|(by, name, plan)| (rule(by), name, plan));
        for (rule, name, plan) in default.into_iter().chain(found) {
            kinds.push(kind.to_string());
            names.push(name.to_owned());
            rules.push(rule);
            plans.push(plan.to_string());
        }
    }
    sqlx::query!("delete from entitlements.catalog_plan").execute(&mut *tx).await?;
    let insert = sqlx::query!(
        "
        insert into entitlements.catalog_plan (kind, name, rule, plan)
        select * from rows from (
            pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::smallint[]),
            pg_catalog.unnest($4::text[])
        ) as t
        ",
        &kinds,
        &names,
        &rules,
        &plans
    );
    insert.execute(tx).await?;
    Ok(())
}

/// The rank of a way to find a plan; 0 is the default plan.
fn rule(by: FoundBy) -> i16 {
    match by {
        FoundBy::Id => 1,
        FoundBy::Slug => 2,
        FoundBy::SeenId => 3,
        FoundBy::FormerSlug => 4,
    }
}

/// A number as it is stored. Catalogs with greater limits are rejected.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
