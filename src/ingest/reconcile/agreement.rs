//! Compares an account with Clerk's answer, by the features that each grants.

use crate::domain::{
    Access, Account, Catalog, Item, PackedItems, Payment, Snapshot, SubscriptionUpdate, Verdict,
    entitlements,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Describes the first difference; `None`: the account agrees with Clerk's answer, or the answer lists no items. A live
/// item whose plan is not in the catalog counts as a difference, because its features are unknown.
pub(super) fn difference(
    account: &Account,
    clerk: &SubscriptionUpdate,
    catalog: &Catalog,
    now: DateTime<Utc>,
) -> Option<String> {
    if let Some(unknown) = unknown_plan(account, catalog, now) {
        return Some(unknown);
    }
    let clerk = as_clerk_says(account, clerk)?;
    let (ours, theirs) = (features(account, catalog, now), features(&clerk, catalog, now));
    let differing = ours.keys().chain(theirs.keys());
    let feature =
        differing.into_iter().find(|feature| ours.get(*feature) != theirs.get(*feature))?;
    Some(match (ours.get(feature), theirs.get(feature)) {
        (Some(_), None) => format!("`{feature}` is granted here, but not by Clerk's answer"),
        (None, Some(_)) => format!("`{feature}` is granted by Clerk's answer, but not here"),
        _ => format!("`{feature}` has another limit here than in Clerk's answer"),
    })
}

fn unknown_plan(account: &Account, catalog: &Catalog, now: DateTime<Utc>) -> Option<String> {
    let plans = catalog.plan_set(account.subject.kind());
    let standing = account.standing(catalog.grace);
    let unknown = account.items.iter().find(|item| {
        plans.find(item.plan_id, item.plan).is_none()
            && matches!(standing.access(item, now), Access::Granted(..))
    });
    unknown.map(|item| match item.plan.or(item.plan_id) {
        Some(plan) => format!("the plan `{plan}` of item {} is not in the catalog", item.id),
        None => format!("the plan of item {} is unknown", item.id),
    })
}

/// The account as Clerk's answer alone would make it, except that the first failure of a payment and whether an item
/// was ever active are taken from the account, because the answer need not repeat them.
fn as_clerk_says(account: &Account, clerk: &SubscriptionUpdate) -> Option<Account> {
    let (items, deleted_at) = match clerk {
        SubscriptionUpdate::Deleted { at, .. } => (PackedItems::default(), Some(*at)),
        SubscriptionUpdate::Items {
            snapshot: Some(Snapshot { listed: Some(_), .. }),
            items,
            ..
        } => {
            let items = items.iter().map(|observed| {
                let before = account.items.iter().find(|before| before.id == &*observed.item.id);
                let failed_at = match observed.payment {
                    Payment::FailedBy(at) => Some(at),
                    Payment::UpToDate | Payment::Unknown => None,
                };
                let first = before.as_ref().and_then(|before| before.past_due_at);
                let first = failed_at.map(|at| first.map_or(at, |first| first.min(at)));
                let was_active = before.is_some_and(|before| before.was_active);
                Item {
                    past_due_at: first,
                    was_active: was_active || observed.item.was_active,
                    ..observed.item.clone()
                }
            });
            (PackedItems::pack(items).ok()?, None)
        }
        SubscriptionUpdate::Items { .. } => return None,
    };
    Some(Account { deleted_at, items, ..account.clone() })
}

fn features(
    account: &Account,
    catalog: &Catalog,
    now: DateTime<Utc>,
) -> BTreeMap<String, Option<u64>> {
    let granted = entitlements(account, catalog, now);
    let granted = granted.into_iter().filter_map(|found| match found.decision.verdict {
        Verdict::Allowed { limit, .. } => Some((found.feature.to_string(), limit)),
        Verdict::Denied { .. } => None,
    });
    granted.collect()
}
