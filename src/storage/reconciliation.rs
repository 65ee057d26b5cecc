//! Finds the subjects to compare with Clerk's Backend API, and records the comparisons.

use super::{Store, StoreError};
use crate::domain::{Catalog, Kind, Subject};
use sqlx::PgConnection;

/// The pause after a comparison with Clerk before the subject is compared again, in minutes. It doubles with each
/// further comparison of the same revision.
const RETRY_MINUTES: i32 = 15;
/// The pause after a failed comparison, in minutes; it doubles as well.
const RETRY_MINUTES_AFTER_FAILURE: i32 = 1;
/// How often the pause doubles at most: from 15 minutes to 16 hours.
const MAX_DOUBLINGS: i32 = 6;

/// The result of a comparison with Clerk, which determines when the next one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The account agrees with Clerk now, or Clerk has no subscription for it.
    Agrees,
    /// The account still differs from Clerk.
    Differs,
    /// The comparison failed.
    Failed,
}

/// A plan that a live item names and that the catalog does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPlan {
    /// The kind of the subjects that hold the plan.
    pub kind: Kind,
    /// The plan's slug; its id if the item has no slug; empty if it has neither.
    pub name: String,
}

impl Store {
    /// The subjects to compare with Clerk: those with an item that is past its end, that is still `upcoming` after its
    /// start, or whose plan the catalog does not have, and those marked by [`Store::request_reconciliation`]. Subjects that were
    /// never compared come first. The cost grows with the number of candidates, not of all subjects.
    pub async fn candidates(
        &self,
        catalog: &Catalog,
        limit: i64,
    ) -> Result<Vec<Subject>, StoreError> {
        self.background.run(async |db| candidates(db, catalog, limit).await).await
    }

    /// Marks a subject to be compared with Clerk.
    pub async fn request_reconciliation(
        &self,
        subject: &Subject,
        why: &str,
    ) -> Result<(), StoreError> {
        self.background.run(async |db| want(db, subject, why).await).await
    }

    /// Records the result of comparing a subject with Clerk. Does nothing for a subject that is not stored.
    pub async fn compared(&self, subject: &Subject, result: Compared) -> Result<(), StoreError> {
        self.background.run(async |db| compared(db, subject, result).await).await
    }

    /// The plans of live items that the catalog does not have.
    pub async fn unknown_plans(&self, catalog: &Catalog) -> Result<Vec<UnknownPlan>, StoreError> {
        self.background.run(async |db| unknown_plans(db, catalog).await).await
    }

    /// The Clerk instances of the newest 1,000 deliveries, the most recent first.
    pub async fn instances(&self) -> Result<Vec<String>, StoreError> {
        self.background.run(instances).await
    }

    /// A page of the subjects that were not deleted, ordered by id, after a given id.
    pub async fn subjects(&self, after: &str, limit: i64) -> Result<Vec<Subject>, StoreError> {
        parsed(self.background.run(async |db| subjects(db, after, limit).await).await?)
    }

    /// The number of subjects that were not deleted. The query reads all of them.
    pub async fn count_subjects(&self) -> Result<usize, StoreError> {
        self.background.run(async |db| count(db).await).await
    }
}

async fn candidates(
    db: &mut PgConnection,
    catalog: &Catalog,
    limit: i64,
) -> Result<Vec<Subject>, StoreError> {
    let Unknown { kinds, ids, slugs } = unknown(db, catalog).await?;
    let (from, to) = ranges(&kinds);
    let subjects = sqlx::query_scalar!(
        r#"
        with unknown as (
            select * from rows from (
                pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]),
                pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[])
            ) as t (first, after, id, slug)
        ), candidate as (
            select subject from entitlements.item
            where status = 'active' and canceled_at is null and period_end < pg_catalog.now()
            union
            select subject from entitlements.item
            where status = 'upcoming' and period_start < pg_catalog.now()
            union
            select held.subject from unknown cross join lateral (
                -- By the index on plans, also where nothing is known of how they are spread.
                select subject, status from entitlements.item
                where coalesce(plan_id, '') = unknown.id and coalesce(plan, '') = unknown.slug
                    and subject >= unknown.first and subject < unknown.after
                order by coalesce(plan_id, ''), coalesce(plan, ''), subject limit $6
            ) as held
            -- What is over is compared once: no answer depends on its plan.
            join entitlements.subject on subject.id = held.subject
            where held.status not in ('ended', 'expired', 'abandoned') or reconciled_at is null
            union
            select id from entitlements.subject where reconcile_for is not null
        )
        select id as "subject!"
        from candidate join entitlements.subject on subject.id = candidate.subject
        where deleted_at is null
            and (reconcile_at is null or reconcile_at <= pg_catalog.now()
                or (revision <> reconciled_revision
                    and reconciled_at < pg_catalog.now() - interval '1 minute'))
        order by reconciled_at nulls first
        limit $5
        "#,
        &from,
        &to,
        &ids,
        &slugs,
        limit,
        MAX_CANDIDATES_PER_PLAN,
    )
    .fetch_all(db)
    .await?;
    parsed(subjects)
}

/// How many holders of one unknown plan a query reads at most.
const MAX_CANDIDATES_PER_PLAN: i64 = 10_000;

/// Plans that the catalog does not have: the kind of their holders, the id and the slug, each at the same index.
#[derive(Default)]
struct Unknown {
    kinds: Vec<Kind>,
    ids: Vec<String>,
    slugs: Vec<String>,
}

/// The plans of all items: the id and the slug of each; a missing one is "". The query skips through the index from one
/// plan to the next instead of reading each item.
pub(super) async fn held_plans(db: &mut PgConnection) -> Result<Vec<(String, String)>, StoreError> {
    let held = sqlx::query!(
        r#"
        with recursive held as (
            (
                select coalesce(plan_id, '') as id, coalesce(plan, '') as slug from entitlements.item
                order by coalesce(plan_id, ''), coalesce(plan, '') limit 1
            )
            union all
            select next.id, next.slug from held cross join lateral (
                select coalesce(plan_id, '') as id, coalesce(plan, '') as slug from entitlements.item
                where (coalesce(plan_id, ''), coalesce(plan, '')) > (held.id, held.slug)
                order by coalesce(plan_id, ''), coalesce(plan, '') limit 1
            ) as next
        )
        select id as "id!", slug as "slug!" from held
        "#
    )
    .fetch_all(db)
    .await?;
    Ok(held.into_iter().map(|plan| (plan.id, plan.slug)).collect())
}

/// The plans of all items that the catalog does not have, for each kind of subject.
async fn unknown(db: &mut PgConnection, catalog: &Catalog) -> Result<Unknown, StoreError> {
    let held = held_plans(db).await?;
    let mut unknown = Unknown::default();
    for kind in [Kind::User, Kind::Organization] {
        let known = catalog.plan_set(kind);
        let filled = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let is_unknown = |id, slug| known.find(filled(id), filled(slug)).is_none();
        for (id, slug) in held.iter().filter(|(id, slug)| is_unknown(id, slug)) {
            unknown.kinds.push(kind);
            unknown.ids.push(id.clone());
            unknown.slugs.push(slug.clone());
        }
    }
    Ok(unknown)
}

/// For each kind, the half-open range of subject ids in the database's order.
pub(super) fn ranges(kinds: &[Kind]) -> (Vec<String>, Vec<String>) {
    let prefixes = kinds.iter().map(|kind| kind.prefix());
    // Each prefix ends with "_", and "`" is the next character in ASCII.
    prefixes.map(|prefix| (prefix.to_owned(), prefix.replace('_', "`"))).unzip()
}

async fn unknown_plans(
    db: &mut PgConnection,
    catalog: &Catalog,
) -> Result<Vec<UnknownPlan>, StoreError> {
    let Unknown { kinds, ids, slugs } = unknown(db, catalog).await?;
    let (from, to) = ranges(&kinds);
    let held = sqlx::query_scalar!(
        r#"
        select place as "place!"
        from rows from (
            pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]),
            pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[])
        ) with ordinality as t (first, after, id, slug, place)
        cross join lateral (
            select status from entitlements.item
            where coalesce(plan_id, '') = t.id and coalesce(plan, '') = t.slug
                and subject >= t.first and subject < t.after
            order by coalesce(plan_id, ''), coalesce(plan, ''), subject limit $5
        ) as held
        where status in ('active', 'past_due', 'canceled')
        group by place order by place
        "#,
        &from,
        &to,
        &ids,
        &slugs,
        MAX_CANDIDATES_PER_PLAN,
    )
    .fetch_all(db)
    .await?;
    let found = held.into_iter().filter_map(|place| usize::try_from(place - 1).ok());
    let name = |at: usize| if slugs[at].is_empty() { ids[at].clone() } else { slugs[at].clone() };
    Ok(found.map(|at| UnknownPlan { kind: kinds[at], name: name(at) }).collect())
}

/// Marks a subject to be compared with Clerk, and locks its row, which is created if it is missing.
pub(super) async fn want(
    db: &mut PgConnection,
    subject: &Subject,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        insert into entitlements.subject (id, revision, reconcile_for, reconcile_at)
        values ($1, 0, $2, pg_catalog.now())
        on conflict (id) do update set
            reconcile_for = excluded.reconcile_for,
            reconcile_at = excluded.reconcile_at,
            reconcile_tries = 0
        where subject.deleted_at is null
        ",
        subject.as_str(),
        why
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn compared(
    db: &mut PgConnection,
    subject: &Subject,
    result: Compared,
) -> Result<(), StoreError> {
    let agrees = result == Compared::Agrees;
    let pause =
        if result == Compared::Failed { RETRY_MINUTES_AFTER_FAILURE } else { RETRY_MINUTES };
    sqlx::query!(
        "
        with before as (
            select case when revision is distinct from reconciled_revision then 0
                else least(reconcile_tries, $4) end as tries
            from entitlements.subject where id = $1
        )
        update entitlements.subject set
            reconcile_for = case when $2 then null else reconcile_for end,
            reconcile_at = pg_catalog.clock_timestamp()
                + pg_catalog.make_interval(mins => $3 * pg_catalog.power(2, tries)::integer),
            reconcile_tries = tries + 1,
            reconciled_at = pg_catalog.clock_timestamp(),
            reconciled_revision = revision
        from before where id = $1
        ",
        subject.as_str(),
        agrees,
        pause,
        MAX_DOUBLINGS,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The ids of the next subjects that were not deleted.
pub(super) async fn subjects(
    db: &mut PgConnection,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let subjects = sqlx::query_scalar!(
        "
        select id from entitlements.subject
        where id > $1 and deleted_at is null order by id limit $2
        ",
        after,
        limit
    );
    Ok(subjects.fetch_all(db).await?)
}

async fn instances(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let newest = sqlx::query_scalar!(
        r#"
        with lately as (
            select instance, received_at from entitlements.delivery order by received_at desc limit 1000
        )
        select instance as "instance!" from lately where instance is not null
        group by instance order by pg_catalog.max(received_at) desc
        "#
    );
    Ok(newest.fetch_all(db).await?)
}

async fn count(db: &mut PgConnection) -> Result<usize, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select pg_catalog.count(*) as "count!" from entitlements.subject where deleted_at is null"#
    );
    Ok(usize::try_from(count.fetch_one(db).await?).unwrap_or_default())
}

fn parsed(subjects: Vec<String>) -> Result<Vec<Subject>, StoreError> {
    let parse = |id: String| id.parse().map_err(|_| StoreError::Corrupt(format!("subject {id}")));
    subjects.into_iter().map(parse).collect()
}
