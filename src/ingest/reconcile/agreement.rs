//! Whether an account answers as Clerk's own answer about it would.

use crate::domain::{
    Access, Account, Catalog, Grace, Item, Items, News, Payment, Snapshot, Verdict, entitlements,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// What differs, in words, if something does. An answer that lists no items says nothing to compare, and what is granted
/// by a plan that is not in the catalog is not known.
pub(super) fn difference(
    known: &Account,
    clerk: &News,
    catalog: &Catalog,
    now: DateTime<Utc>,
) -> Option<String> {
    if let Some(unknown) = unknown_plan(known, catalog, now) {
        return Some(unknown);
    }
    let clerk = as_clerk_says(known, clerk)?;
    let (ours, theirs) = (features(known, catalog, now), features(&clerk, catalog, now));
    let differing = ours.keys().chain(theirs.keys());
    let feature =
        differing.into_iter().find(|feature| ours.get(*feature) != theirs.get(*feature))?;
    Some(match (ours.get(feature), theirs.get(feature)) {
        (Some(_), None) => format!("`{feature}` is granted here, and not by Clerk's answer"),
        (None, Some(_)) => format!("`{feature}` is granted by Clerk's answer, and not here"),
        _ => format!("`{feature}` has another limit here than by Clerk's answer"),
    })
}

fn unknown_plan(known: &Account, catalog: &Catalog, now: DateTime<Utc>) -> Option<String> {
    let plans = catalog.shelf(known.subject.kind());
    let standing = known.standing(Grace::default());
    let unknown = known.items.iter().find(|item| {
        plans.find(item.plan_id, item.plan).is_none()
            && matches!(standing.access(item, now), Access::Granted(..))
    });
    unknown.map(|item| match item.plan.or(item.plan_id) {
        Some(plan) => format!("the plan `{plan}` of item {} is not in the catalog", item.id),
        None => format!("nothing says of which plan item {} is", item.id),
    })
}

/// The account if there were nothing but Clerk's answer. When a payment first failed, the answer need not say again.
fn as_clerk_says(known: &Account, clerk: &News) -> Option<Account> {
    let (items, deleted_at) = match clerk {
        News::Deleted { at, .. } => (Items::default(), Some(*at)),
        News::Items { snapshot: Some(Snapshot { listed: Some(_), .. }), items, .. } => {
            let items = items.iter().map(|observed| {
                let before = known.items.iter().find(|before| before.id == &*observed.item.id);
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
            (Items::pack(items).ok()?, None)
        }
        News::Items { .. } => return None,
    };
    Some(Account { deleted_at, items, ..known.clone() })
}

fn features(
    account: &Account,
    catalog: &Catalog,
    now: DateTime<Utc>,
) -> BTreeMap<String, Option<u64>> {
    let granted = entitlements(account, catalog, Grace::default(), now);
    let granted = granted.into_iter().filter_map(|found| match found.decision.verdict {
        Verdict::Allowed { limit, .. } => Some((found.feature.to_string(), limit)),
        Verdict::Denied { .. } => None,
    });
    granted.collect()
}
