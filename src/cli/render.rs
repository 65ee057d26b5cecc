//! Renders parts of answers for the terminal.

use crate::api::pb::{CheckFeatureResponse, Source, Statement, statement::Kind};
use chrono::{DateTime, SecondsFormat};
use prost_types::Timestamp;
use std::fmt::Display;

/// Renders an instant; an absent one as `-`.
pub(super) fn instant(at: Option<Timestamp>) -> String {
    let at = at.and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.unsigned_abs()));
    at.map_or("-".into(), |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Renders an answer, such as `allowed, REASON_PLAN, plan pro, of user_…`.
pub(super) fn answer(answer: &CheckFeatureResponse) -> String {
    let parts = [
        Some(if answer.allowed { "allowed" } else { "denied" }.to_owned()),
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
