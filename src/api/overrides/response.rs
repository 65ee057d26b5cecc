//! Renders overrides and what they change.

use crate::{
    api::{
        entitlements::response::{instant, text},
        pb,
    },
    check::{AnswerDifference, EditedOverride},
    domain::{Amount, Effect, OverrideEnd, OverrideId, OverrideRecord, Until},
};

/// Renders the record of an override.
pub(in crate::api) fn record(record: &OverrideRecord) -> pb::Override {
    use pb::r#override::{Effect as Rendered, Target};
    let found = &record.found;
    let feature = |slug: &crate::domain::Slug| Target::Feature(slug.to_string());
    let plan = |slug: &crate::domain::Slug| Target::Plan(slug.to_string());
    let grant = |number| Rendered::Grant(pb::Grant { number });
    let (target, effect) = match &found.effect {
        Effect::DenyFeature(slug) => (feature(slug), Rendered::Deny(pb::Deny {})),
        Effect::DenyPlan(slug) => (plan(slug), Rendered::Deny(pb::Deny {})),
        Effect::GrantFeature(slug, amount) => (feature(slug), grant(number(*amount))),
        Effect::GrantPlan(slug) => (plan(slug), grant(None)),
    };
    pb::Override {
        id: found.id.to_string(),
        subject: record.subject.to_string(),
        target: Some(target),
        effect: Some(effect),
        starts_at: instant(Some(found.begins_at())),
        expires_at: instant(found.until.instant()),
        permanent: found.until == Until::Forever,
        owner: record.note.owner.clone(),
        reason: record.note.reason.clone(),
        reference: record.note.reference.clone(),
        on_behalf_of: record.set_by.on_behalf_of.clone(),
        replaces: id(record.replaces),
        set_by: record.set_by.caller.clone(),
        set_at: instant(Some(found.set_at)),
        end: record.end.as_ref().map(end),
    }
}

/// Renders an override that was set; one that was not set has no id.
pub(super) fn edited(edited: &EditedOverride, dry_run: bool) -> pb::Override {
    let found = record(&edited.record);
    if dry_run { pb::Override { id: String::new(), ..found } } else { found }
}

fn number(amount: Amount) -> Option<pb::grant::Number> {
    use pb::grant::Number;
    match amount {
        Amount::Plain => None,
        Amount::Unlimited => Some(Number::Unlimited(true)),
        Amount::AtLeast(limit) => Some(Number::AtLeast(limit)),
        Amount::Exactly(limit) => Some(Number::Exactly(limit)),
    }
}

fn end(end: &OverrideEnd) -> pb::OverrideEnd {
    pb::OverrideEnd {
        ended_at: instant(Some(end.at)),
        ended_by: end.by.caller.clone(),
        on_behalf_of: end.by.on_behalf_of.clone(),
        reason: end.reason.clone(),
        replaced_by: id(end.replaced_by),
    }
}

fn id(id: Option<OverrideId>) -> String {
    text(id.map(|id| id.to_string()).as_deref())
}

/// Renders the answers about one feature before and after a change. A state that was only tried has no revision.
pub(super) fn difference(difference: AnswerDifference<'_>, dry_run: bool) -> pb::Difference {
    let mut after = pb::CheckFeatureResponse::from(difference.after);
    if dry_run {
        after.revision = String::new();
    }
    pb::Difference {
        feature: difference.feature.to_string(),
        before: Some(difference.before.into()),
        after: Some(after),
    }
}
