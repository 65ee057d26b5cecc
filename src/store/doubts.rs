//! Which subjects look as if a delivery was lost, and whether all were taken over from Clerk once.

use super::StoreError;
use crate::access::{Catalog, Kind, Subject};
use sqlx::PgConnection;

/// Who takes over all subscriptions from Clerk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backfill {
    /// Nobody: it was done.
    Done,
    /// The caller, for a minute from each time it asks.
    Ours,
    /// Another replica.
    Theirs,
}

/// How long a subject that was compared with Clerk is not compared again, in minutes.
const RESTS: f64 = 15.0;

/// Subjects with an item past its end, begun though upcoming, or of an unknown plan, or with a parked delivery,
/// that were not compared with Clerk lately. It costs time by their number, not by that of all subjects.
pub(super) async fn doubtful(
    db: &mut PgConnection,
    catalog: &Catalog,
    limit: i64,
) -> Result<Vec<Subject>, StoreError> {
    let (users, organizations) = unknown_as(db, catalog).await?;
    let subjects = sqlx::query_scalar!(
        r#"
        with doubt as (
            select subject from item
            where status = 'active' and canceled_at is null and period_end < now()
            union
            select subject from item where status = 'upcoming' and period_start < now()
            union
            select subject from item
            where status = 'active' and plan = any ($1) and subject like 'user\_%'
            union
            select subject from item
            where status = 'active' and plan = any ($2) and subject like 'org\_%'
            union
            select subject from delivery where result = 'parked' and subject is not null
        )
        select subject as "subject!"
        from doubt join subject using (subject)
        where deleted_at is null
            and (reconciled_at is null or reconciled_at < now() - make_interval(mins => 1) * $3)
        order by reconciled_at nulls first
        limit $4
        "#,
        &users,
        &organizations,
        RESTS,
        limit,
    )
    .fetch_all(db)
    .await?;
    parsed(subjects)
}

/// The plans held that the catalog does not know as a user's, and those it does not know as an
/// organization's. The index is read from one plan to the next, not item by item.
async fn unknown_as(
    db: &mut PgConnection,
    catalog: &Catalog,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let held = sqlx::query_scalar!(
        r#"
        with recursive held as (
            (select plan from item where status = 'active' and plan is not null order by plan limit 1)
            union all
            select (
                select item.plan from item
                where status = 'active' and item.plan > held.plan order by item.plan limit 1
            )
            from held where held.plan is not null
        )
        select plan as "plan!" from held where plan is not null
        "#
    )
    .fetch_all(db)
    .await?;
    let unknown = |kind| {
        let known = &catalog.shelf(kind).plans;
        held.iter().filter(|plan| !known.contains_key(plan.as_str())).cloned().collect()
    };
    Ok((unknown(Kind::User), unknown(Kind::Organization)))
}

/// The plans of active items that grant nothing because the catalog does not know them.
pub(super) async fn unknown_plans(
    db: &mut PgConnection,
    catalog: &Catalog,
) -> Result<Vec<(Kind, String)>, StoreError> {
    let (users, organizations) = unknown_as(db, catalog).await?;
    let held = sqlx::query!(
        r#"
        select true as "by_user!", told as "plan!" from unnest($1::text[]) as told
        where exists (
            select from item
            where status = 'active' and item.plan = told and subject like 'user\_%'
        )
        union all
        select false, told from unnest($2::text[]) as told
        where exists (
            select from item
            where status = 'active' and item.plan = told and subject like 'org\_%'
        )
        "#,
        &users,
        &organizations,
    )
    .fetch_all(db)
    .await?;
    let kind = |by_user| if by_user { Kind::User } else { Kind::Organization };
    Ok(held.into_iter().map(|row| (kind(row.by_user), row.plan)).collect())
}

/// Notes that a subject was compared with Clerk.
pub(super) async fn reconciled(db: &mut PgConnection, subject: &Subject) -> Result<(), StoreError> {
    let id = subject.as_str();
    sqlx::query!("update subject set reconciled_at = clock_timestamp() where subject = $1", id)
        .execute(db)
        .await?;
    Ok(())
}

/// Claims the backfill; `again` where it is held already.
pub(super) async fn claim_backfill(
    db: &mut PgConnection,
    again: bool,
) -> Result<Backfill, StoreError> {
    let found = sqlx::query!(
        r#"
        with claim as (
            insert into backfill (claimed_until) values (now() + interval '1 minute')
            on conflict (singleton) do update set claimed_until = excluded.claimed_until
            where backfill.done_at is null and ($1 or backfill.claimed_until < now())
            returning true
        )
        select
            exists (select from claim) as "ours!",
            exists (select from backfill where done_at is not null) as "done!"
        "#,
        again
    )
    .fetch_one(db)
    .await?;
    Ok(match (found.done, found.ours) {
        (true, _) => Backfill::Done,
        (false, true) => Backfill::Ours,
        (false, false) => Backfill::Theirs,
    })
}

/// Notes that all subscriptions were taken over.
pub(super) async fn backfilled(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "
        insert into backfill (claimed_until, done_at) values (now(), clock_timestamp())
        on conflict (singleton) do update set done_at = excluded.done_at
        "
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The known subjects after one, by id.
pub(super) async fn subjects(
    db: &mut PgConnection,
    after: &str,
    limit: i64,
) -> Result<Vec<Subject>, StoreError> {
    let subjects = sqlx::query_scalar!(
        "
        select subject from subject
        where subject > $1 and deleted_at is null order by subject limit $2
        ",
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    parsed(subjects)
}

/// The Clerk instance that the newest deliveries came from. What Clerk's Backend API said names none.
pub(super) async fn instance(db: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let newest = sqlx::query_scalar!(
        "
        with lately as (select instance from delivery order by received_at desc limit 1000)
        select instance from lately where instance is not null limit 1
        "
    );
    Ok(newest.fetch_optional(db).await?.flatten())
}

/// How many subjects are known.
pub(super) async fn count(db: &mut PgConnection) -> Result<usize, StoreError> {
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from subject where deleted_at is null"#);
    Ok(usize::try_from(count.fetch_one(db).await?).unwrap_or_default())
}

fn parsed(subjects: Vec<String>) -> Result<Vec<Subject>, StoreError> {
    let parse = |id: String| id.parse().map_err(|_| StoreError::Corrupt(format!("subject {id}")));
    subjects.into_iter().map(parse).collect()
}
