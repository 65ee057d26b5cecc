//! The preview of another plan: what a subject would gain and lose, and where it uses more than the plan allows.

use super::{
    Account, Catalog, FeatureChange, FeatureState, Item, PackedItems, Slug, Status, TooLong,
    changes::states,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// The effect of another plan on a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPreview {
    /// The features whose answer would change, ordered by slug.
    pub changes: Vec<FeatureChange>,
    /// The features of which the subject uses more than it would be allowed, ordered by slug.
    pub over: Vec<OverLimit>,
}

/// A feature of which a subject uses more than a plan allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// The feature.
    pub feature: Slug,
    /// The number in use.
    pub count: u64,
    /// The limit; 0 if the feature is denied. A number that is equal to the limit is not over it.
    pub limit: u64,
}

/// Previews a plan: one active item of it replaces all items of the subject, and the overrides stay. `counts` are the
/// numbers in use.
///
/// # Errors
///
/// If the slug of the plan is too long for an item.
pub fn preview(
    account: &Account,
    catalog: &Catalog,
    plan: &Slug,
    counts: &BTreeMap<Slug, u64>,
    now: DateTime<Utc>,
) -> Result<PlanPreview, TooLong> {
    let items = PackedItems::pack([item_of(plan, now)])?;
    let (before, after) = (
        states(account, catalog, now),
        states(&Account { items, ..account.clone() }, catalog, now),
    );
    let over = counts.iter().filter_map(|(feature, count)| {
        let limit = match after.get(feature) {
            Some(FeatureState { allowed: true, limit, .. }) => (*limit)?,
            Some(FeatureState { allowed: false, .. }) | None => 0,
        };
        (*count > limit).then(|| OverLimit { feature: feature.clone(), count: *count, limit })
    });
    let over = over.collect();
    let changes = after.into_iter().filter_map(|(feature, after)| {
        let before = before.get(&feature).cloned().unwrap_or(FeatureState::UNKNOWN);
        let is_same = before.is_same_answer(&after);
        (!is_same).then_some(FeatureChange { feature, before, after })
    });
    Ok(PlanPreview { changes: changes.collect(), over })
}

fn item_of(plan: &Slug, now: DateTime<Utc>) -> Item {
    Item {
        id: "preview".into(),
        plan: Some(plan.as_str().into()),
        plan_id: None,
        status: Status::Active,
        free_trial: false,
        was_active: true,
        period_start: Some(now),
        period_end: None,
        canceled_at: None,
        past_due_at: None,
        seats: None,
        updated_at: now,
    }
}
