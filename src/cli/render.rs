//! Renders parts of answers for the terminal.

use super::output::{BAD, GOOD, paint};
use crate::api::pb::{
    CheckFeatureResponse, Grant, Override, OverrideEnd, Reason, Source, Statement,
    grant::Number,
    r#override::{Effect, Target},
    statement::Kind,
};
use chrono::{DateTime, SecondsFormat};
use prost_types::Timestamp;
use std::fmt::Display;

/// Renders an instant; an absent one as `-`.
pub(super) fn instant(at: Option<Timestamp>) -> String {
    let at = at.and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.unsigned_abs()));
    at.map_or("-".into(), |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Renders a reason in the colour of its effect.
pub(super) fn reason(reason: Reason, allows: bool) -> String {
    paint(if allows { GOOD } else { BAD }, reason.as_str_name())
}

/// Renders an answer, such as `allowed, REASON_PLAN, plan pro, of user_…`.
pub(super) fn answer(answer: &CheckFeatureResponse) -> String {
    let verdict = if answer.allowed { paint(GOOD, "allowed") } else { paint(BAD, "denied") };
    let parts = [
        Some(verdict),
        Some(answer.reason().as_str_name().into()),
        (!answer.plan.is_empty()).then(|| format!("plan {}", answer.plan)),
        (!answer.subject.is_empty()).then(|| format!("of {}", answer.subject)),
        answer.limit.map(|limit| format!("limit {limit}")),
        answer.valid_until.map(|until| format!("valid until {}", instant(Some(until)))),
        answer.stale_for.map(|age| format!("{} s behind the database", age.seconds)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Prints the first of some entries, one in a line, and the number of the others.
pub(super) fn list<T, D: Display>(indent: &str, entries: &[T], max: usize, line: impl Fn(&T) -> D) {
    entries.iter().take(max).for_each(|entry| say!("{indent}{}", line(entry)));
    match entries.len().saturating_sub(max) {
        0 => {}
        more => say!("{indent}and {more} more"),
    }
}

/// Renders a record and what it says in one line.
pub(super) fn source(source: &Source) -> String {
    match &source.statement {
        Some(said) => format!("{}: {}", record(source), statement(said)),
        None => record(source),
    }
}

/// Renders a record, such as `msg_1, recorded 2026-11-03T15:10:00Z, in effect since 2026-11-03T13:58:00Z`.
pub(super) fn record(source: &Source) -> String {
    if let Some(found) = &source.r#override {
        return format!("override {}, set {}", overriding(found), instant(found.set_at));
    }
    if source.statement.is_none() {
        return format!("catalog {}, applied {}", source.catalog, instant(source.known_at));
    }
    let message = match source.message.as_str() {
        "" => "an operator",
        message => message,
    };
    let replayed = if source.replayed { " by a replay" } else { "" };
    let (known_at, effective_at) = (instant(source.known_at), instant(source.effective_at));
    format!("{message}, recorded {known_at}{replayed}, in effect since {effective_at}")
}

/// Renders an override without its subject, such as
/// `0197f4c1-…: grants projects, at least 40, until 2026-12-31T00:00:00Z; owner ada; pilot, #4711`.
pub(super) fn overriding(found: &Override) -> String {
    let starts = match (found.starts_at, found.set_at) {
        (starts_at, set_at) if starts_at == set_at => String::new(),
        (starts_at, _) => format!(", from {}", instant(starts_at)),
    };
    let until = match found.expires_at {
        Some(at) => format!("until {}", instant(Some(at))),
        None => "permanent".into(),
    };
    let Override { owner, reason, .. } = found;
    let reference = match &*found.reference {
        "" => String::new(),
        reference => format!(" ({reference})"),
    };
    // A dry run has no id.
    let id = if found.id.is_empty() { String::new() } else { format!("{}: ", found.id) };
    format!("{id}{}{starts}, {until}; owner {owner}; {reason}{reference}", effect(found))
}

/// Renders the effect of an override, such as `grants projects, at least 40`.
pub(super) fn effect(found: &Override) -> String {
    let target = match &found.target {
        Some(Target::Feature(feature)) => feature.clone(),
        Some(Target::Plan(plan)) => format!("plan {plan}"),
        None => "nothing".into(),
    };
    let number = match &found.effect {
        Some(Effect::Grant(Grant { number })) => number.as_ref(),
        Some(Effect::Deny(_)) | None => None,
    };
    let number = match number {
        Some(Number::AtLeast(limit)) => format!(", at least {limit}"),
        Some(Number::Exactly(limit)) => format!(", exactly {limit}"),
        Some(Number::Unlimited(_)) => ", unlimited".into(),
        None => String::new(),
    };
    let verb = if matches!(found.effect, Some(Effect::Deny(_))) { "denies" } else { "grants" };
    format!("{verb} {target}{number}")
}

/// A number of things, such as `1 subject` or `3 subjects`.
pub(super) fn counted(count: usize, thing: &str) -> String {
    let stem = thing.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
    match (count, stem) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {thing}s"),
    }
}

/// Renders the end of an override, such as `ended 2026-12-01T00:00:00Z: the pilot is over`.
pub(super) fn ended(end: &OverrideEnd) -> String {
    let at = instant(end.ended_at);
    match &*end.replaced_by {
        "" => format!("ended {at}: {}", end.reason),
        id => format!("replaced {at} by {id}"),
    }
}

/// Renders a statement, such as `item csub_item_1: pro, active, period to 2026-12-01T00:00:00Z`.
pub(super) fn statement(statement: &Statement) -> String {
    match statement.kind() {
        Kind::Item => {
            let plan = if statement.plan.is_empty() { "plan not named" } else { &statement.plan };
            let end = statement.period_end.map(|end| format!(", period to {}", instant(Some(end))));
            let end = end.unwrap_or_default();
            format!("item {}: {plan}, {}{end}", statement.item, statement.status)
        }
        Kind::Subscription => {
            let canceled = if statement.canceled { ", canceled" } else { "" };
            format!("subscription that lists {}{canceled}", statement.listed_items.join(", "))
        }
        Kind::Deletion => "deleted".into(),
        Kind::Undeletion => "deletion reverted".into(),
        Kind::Unspecified => "unknown statement".into(),
    }
}
