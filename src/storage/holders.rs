//! Finds the subjects that may hold a feature or a plan: by the plans of their items, by overrides, and by default plans.

use super::{
    Store, StoreError, accounts,
    reconciliation::{held_plans, ranges},
};
use crate::domain::{Account, Catalog, Kind, Question, Target};
use sqlx::PgConnection;

impl Store {
    /// The accounts of the next subjects, ordered by id, for which the answer to a question may be to allow. The answer
    /// itself must be decided.
    pub async fn possible_holders(
        &self,
        catalog: &Catalog,
        question: &Question<'_>,
        after: &str,
        count: i64,
    ) -> Result<Vec<Account>, StoreError> {
        let load = async |db: &mut PgConnection| {
            let found = candidates(db, catalog, question, after, count).await?;
            accounts::load_all(db, &found).await
        };
        self.background.run(load).await
    }
}

/// The plans of items, and the default plans, that have the wanted feature or are the wanted plan.
#[derive(Default)]
struct Holding {
    kinds: Vec<Kind>,
    ids: Vec<String>,
    slugs: Vec<String>,
    default_of: Vec<Kind>,
    /// The plans that overrides grant: the kind of their holders, and the slug, each at the same index.
    granted_of: Vec<Kind>,
    granted: Vec<String>,
}

impl Holding {
    fn of(
        catalog: &Catalog,
        question: &Question<'_>,
        held: &[(String, String)],
        granted: &[String],
    ) -> Self {
        let mut holding = Self::default();
        let filled = |text| Some(text).filter(|text: &&str| !text.is_empty());
        for kind in [Kind::User, Kind::Organization] {
            let plans = catalog.plan_set(kind);
            if !question.scope.covers(kind) {
                continue;
            }
            let has = |id, slug| match (plans.find(id, slug), question.wanted) {
                (Some((_, plan)), Target::Feature(feature)) => plan.features.contains_key(feature),
                (Some((slug, _)), Target::Plan(wanted)) => {
                    plans.find(None, Some(wanted)).is_some_and(|(wanted, _)| wanted == slug)
                }
                (None, _) => false,
            };
            for (id, slug) in held.iter().filter(|(id, slug)| has(filled(id), filled(slug))) {
                holding.kinds.push(kind);
                holding.ids.push(id.clone());
                holding.slugs.push(slug.clone());
            }
            for slug in granted.iter().filter(|slug| has(None, Some(slug.as_str()))) {
                holding.granted_of.push(kind);
                holding.granted.push(slug.clone());
            }
            if plans.default_plan.as_ref().is_some_and(|slug| has(None, Some(slug.as_str()))) {
                holding.default_of.push(kind);
            }
        }
        holding
    }
}

async fn candidates(
    db: &mut PgConnection,
    catalog: &Catalog,
    question: &Question<'_>,
    after: &str,
    count: i64,
) -> Result<Vec<String>, StoreError> {
    let (held, granted) = (held_plans(db).await?, granted_plans(db).await?);
    let Holding { kinds, ids, slugs, default_of, granted_of, granted } =
        Holding::of(catalog, question, &held, &granted);
    let ((from, to), (default_from, default_to)) = (ranges(&kinds), ranges(&default_of));
    let (granted_from, granted_to) = ranges(&granted_of);
    let feature = match question.wanted {
        Target::Feature(feature) => Some(feature),
        Target::Plan(_) => None,
    };
    let found = sqlx::query_scalar!(
        r#"
        select subject as "subject!" from (
            select held.subject from rows from (
                pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]),
                pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[])
            ) as plan (first, after, id, slug) cross join lateral (
                select distinct on (coalesce(plan_id, ''), coalesce(plan, ''), subject) subject
                from entitlements.item
                where coalesce(plan_id, '') = plan.id and coalesce(plan, '') = plan.slug
                    and subject >= plan.first and subject < plan.after and subject > $7
                order by coalesce(plan_id, ''), coalesce(plan, ''), subject limit $8
            ) as held
            union
            select owner.id from rows from (pg_catalog.unnest($5::text[]), pg_catalog.unnest($6::text[]))
                as kind (first, after) cross join lateral (
                select id from entitlements.subject
                where id >= kind.first and id < kind.after and id > $7 order by id limit $8
            ) as owner
            union
            (
                select distinct on (feature, subject) subject from entitlements.override
                where ended_at is null and feature = $9 and effect <> 'deny' and subject > $7
                order by feature, subject limit $8
            )
            union
            select granted.subject from rows from (
                pg_catalog.unnest($10::text[]), pg_catalog.unnest($11::text[]), pg_catalog.unnest($12::text[])
            ) as comp (first, after, plan) cross join lateral (
                select distinct on (plan, subject) subject from entitlements.override
                where ended_at is null and plan = comp.plan and effect <> 'deny'
                    and subject >= comp.first and subject < comp.after and subject > $7
                order by plan, subject limit $8
            ) as granted
        ) as candidate
        order by subject collate "C" limit $8
        "#,
        &from,
        &to,
        &ids,
        &slugs,
        &default_from,
        &default_to,
        after,
        count,
        feature,
        &granted_from,
        &granted_to,
        &granted,
    );
    Ok(found.fetch_all(db).await?)
}

/// The plans that overrides grant or deny, each once. The query skips through the index from one plan to the next.
async fn granted_plans(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let plans = sqlx::query_scalar!(
        r#"
        with recursive granted as (
            (
                select plan from entitlements.override
                where ended_at is null and plan is not null order by plan limit 1
            )
            union all
            select next.plan from granted cross join lateral (
                select plan from entitlements.override
                where ended_at is null and plan is not null and plan > granted.plan order by plan limit 1
            ) as next
        )
        select plan as "plan!" from granted
        "#
    );
    Ok(plans.fetch_all(db).await?)
}
