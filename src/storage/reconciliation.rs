//! Which subjects are to be compared with Clerk, and whether all were taken over from Clerk once.

use super::{Store, StoreError};
use crate::domain::{Catalog, Kind, Subject};
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

/// How long a subject that was compared with Clerk is not compared again, in minutes; twice as long after each further
/// comparison of the same revision.
const REST: i32 = 15;
/// The same where the comparison failed.
const REST_AFTER_FAILURE: i32 = 1;
/// How often a rest is doubled: to 16 hours.
const DOUBLINGS: i32 = 6;

/// What a comparison with Clerk brought, for when the next one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The account agrees with Clerk now, or Clerk knows nothing of it.
    Agrees,
    /// It could not be made to agree.
    Differs,
    /// The comparison failed.
    Failed,
}

/// A plan that a live item names and the catalog does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPlan {
    /// Of which kind of payer.
    pub kind: Kind,
    /// Its slug, or its id where no slug was said, or nothing.
    pub name: String,
}

impl Store {
    /// Subjects that are to be compared with Clerk: with an item past its end, begun though upcoming, or of a plan
    /// that the catalog does not know; or noted by [`Store::want_compared`]. Those first that were never compared. It costs time by
    /// their number, not by that of all subjects.
    pub async fn candidates(
        &self,
        catalog: &Catalog,
        limit: i64,
    ) -> Result<Vec<Subject>, StoreError> {
        self.upkeep.run(async |db| candidates(db, catalog, limit).await).await
    }

    /// Notes that a subject is to be compared with Clerk.
    pub async fn want_compared(&self, subject: &Subject, why: &str) -> Result<(), StoreError> {
        self.upkeep.run(async |db| want(db, subject, why).await).await
    }

    /// Notes what comparing a subject with Clerk brought. A subject that is not known is not noted.
    pub async fn compared(&self, subject: &Subject, result: Compared) -> Result<(), StoreError> {
        self.upkeep.run(async |db| compared(db, subject, result).await).await
    }

    /// The plans held in live items that this catalog does not know.
    pub async fn unknown_plans(&self, catalog: &Catalog) -> Result<Vec<UnknownPlan>, StoreError> {
        self.upkeep.run(async |db| unknown_plans(db, catalog).await).await
    }

    /// The Clerk instances that the newest deliveries came from, that of the newest one first.
    pub async fn instances(&self) -> Result<Vec<String>, StoreError> {
        self.upkeep.run(instances).await
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
            select subject from item
            where status = 'active' and canceled_at is null and period_end < pg_catalog.now()
            union
            select subject from item where status = 'upcoming' and period_start < pg_catalog.now()
            union
            select held.subject from unknown cross join lateral (
                -- By the index on plans, also where nothing is known of how they are spread.
                select subject, status from item
                where coalesce(plan_id, '') = unknown.id and coalesce(plan, '') = unknown.slug
                    and subject >= unknown.first and subject < unknown.after
                order by coalesce(plan_id, ''), coalesce(plan, ''), subject limit $6
            ) as held
            -- What is over is compared once: no answer depends on its plan.
            join subject using (subject)
            where held.status not in ('ended', 'expired', 'abandoned') or reconciled_at is null
            union
            select subject from subject where reconcile_for is not null
        )
        select subject as "subject!"
        from candidate join subject using (subject)
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
        OF_ONE_PLAN,
    )
    .fetch_all(db)
    .await?;
    parsed(subjects)
}

/// How many holders of one unknown plan are looked at each time.
const OF_ONE_PLAN: i64 = 10_000;

/// Pairs of id and slug, and the kind of the subjects that hold them.
#[derive(Default)]
struct Unknown {
    kinds: Vec<Kind>,
    ids: Vec<String>,
    slugs: Vec<String>,
}

/// The plans held that the catalog does not know, for each kind of payer; "" where no id, or no slug, was said. The
/// index is read from one plan to the next, not item by item.
async fn unknown(db: &mut PgConnection, catalog: &Catalog) -> Result<Unknown, StoreError> {
    let held = sqlx::query!(
        r#"
        with recursive held as (
            (
                select coalesce(plan_id, '') as id, coalesce(plan, '') as slug from item
                order by coalesce(plan_id, ''), coalesce(plan, '') limit 1
            )
            union all
            select next.id, next.slug from held cross join lateral (
                select coalesce(plan_id, '') as id, coalesce(plan, '') as slug from item
                where (coalesce(plan_id, ''), coalesce(plan, '')) > (held.id, held.slug)
                order by coalesce(plan_id, ''), coalesce(plan, '') limit 1
            ) as next
        )
        select id as "id!", slug as "slug!" from held
        "#
    )
    .fetch_all(db)
    .await?;
    let mut unknown = Unknown::default();
    for kind in [Kind::User, Kind::Organization] {
        let known = catalog.shelf(kind);
        let said = |text| Some(text).filter(|text: &&str| !text.is_empty());
        for plan in held.iter().filter(|p| known.find(said(&p.id), said(&p.slug)).is_none()) {
            unknown.kinds.push(kind);
            unknown.ids.push(plan.id.clone());
            unknown.slugs.push(plan.slug.clone());
        }
    }
    Ok(unknown)
}

/// Where the ids of subjects of these kinds begin and end, as the database orders them.
fn ranges(kinds: &[Kind]) -> (Vec<String>, Vec<String>) {
    let prefixes = kinds.iter().map(|kind| kind.prefix());
    // In ASCII, "`" comes right after "_", with which the prefixes end.
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
            select status from item
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
        OF_ONE_PLAN,
    )
    .fetch_all(db)
    .await?;
    let found = held.into_iter().filter_map(|place| usize::try_from(place - 1).ok());
    let name = |at: usize| if slugs[at].is_empty() { ids[at].clone() } else { slugs[at].clone() };
    Ok(found.map(|at| UnknownPlan { kind: kinds[at], name: name(at) }).collect())
}

/// Notes that a subject is to be compared with Clerk, also one that was not known; locks its row.
pub(super) async fn want(
    db: &mut PgConnection,
    subject: &Subject,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        insert into subject (subject, revision, reconcile_for, reconcile_at)
        values ($1, 0, $2, pg_catalog.now())
        on conflict (subject) do update set
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
    let rest = if result == Compared::Failed { REST_AFTER_FAILURE } else { REST };
    sqlx::query!(
        "
        with before as (
            select case when revision is distinct from reconciled_revision then 0
                else least(reconcile_tries, $4) end as tries
            from subject where subject = $1
        )
        update subject set
            reconcile_for = case when $2 then null else reconcile_for end,
            reconcile_at = pg_catalog.clock_timestamp()
                + pg_catalog.make_interval(mins => $3 * pg_catalog.power(2, tries)::integer),
            reconcile_tries = tries + 1,
            reconciled_at = pg_catalog.clock_timestamp(),
            reconciled_revision = revision
        from before where subject = $1
        ",
        subject.as_str(),
        agrees,
        rest,
        DOUBLINGS,
    )
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
            insert into backfill (claimed_until) values (pg_catalog.now() + interval '1 minute')
            on conflict (singleton) do update set claimed_until = excluded.claimed_until
            where backfill.done_at is null and ($1 or backfill.claimed_until < pg_catalog.now())
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
        insert into backfill (claimed_until, done_at) values (pg_catalog.now(), pg_catalog.clock_timestamp())
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

async fn instances(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let newest = sqlx::query_scalar!(
        r#"
        with lately as (
            select instance, received_at from delivery order by received_at desc limit 1000
        )
        select instance as "instance!" from lately where instance is not null
        group by instance order by pg_catalog.max(received_at) desc
        "#
    );
    Ok(newest.fetch_all(db).await?)
}

/// How many subjects are known.
pub(super) async fn count(db: &mut PgConnection) -> Result<usize, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select pg_catalog.count(*) as "count!" from subject where deleted_at is null"#
    );
    Ok(usize::try_from(count.fetch_one(db).await?).unwrap_or_default())
}

fn parsed(subjects: Vec<String>) -> Result<Vec<Subject>, StoreError> {
    let parse = |id: String| id.parse().map_err(|_| StoreError::Corrupt(format!("subject {id}")));
    subjects.into_iter().map(parse).collect()
}
