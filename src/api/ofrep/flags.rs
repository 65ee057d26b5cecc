//! Decisions as flags, and the tag of a state that all flags of some subjects follow from.

use crate::{
    api::http_protocols::explanation,
    check::{Checks, Facts, Moment, Pieces, Whom},
    domain::{Decision, Question, Revision},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

/// One flag.
pub(super) fn flag(key: &str, decision: &Decision<'_>, facts: &Facts, revision: &str) -> Value {
    let told = decision.verdict.told();
    let metadata = explanation(decision, facts, revision, "validUntil");
    json!({
        "key": key,
        "value": told.allowed,
        "variant": if told.allowed { "on" } else { "off" },
        "reason": "TARGETING_MATCH",
        "metadata": metadata,
    })
}

/// Every feature that some plan has, or some override of these subjects names.
pub(super) async fn flags(
    checks: &Checks,
    moment: &Moment,
    facts: &Facts,
    whom: &Whom,
) -> Vec<Value> {
    let revision = moment.revision(facts);
    let (prepared, mut pieces) = (moment.prepare(facts), Pieces::default());
    let mut flags = Vec::new();
    for feature in moment.features(facts) {
        let (payers, question) = (whom.payers(), Question::of(feature));
        let decision = checks.decide_next(&prepared, &mut pieces, payers, &question).await;
        flags.push(flag(feature.as_str(), &decision, facts, &revision));
    }
    flags
}

/// What all flags of these subjects follow from: the state of subjects and catalog, the names that
/// plans were seen with, the next instant at which time
/// alone changes something, whether the facts may be outdated, the settings, and how flags are written. Two equal
/// tags have equal flags, so that nothing need be decided to find out that nothing changed.
pub(super) fn tag(moment: &Moment, facts: &Facts) -> String {
    let boundary = next_boundary(moment, facts).map_or(0, |at| at.timestamp_millis());
    let grace = moment.grace();
    let days = |grace: Option<TimeDelta>| grace.map_or(-1, |grace| grace.num_milliseconds());
    format!(
        "{}~{boundary}~{}~{}.{}.{}~{}~{}",
        moment.revision(facts),
        u8::from(facts.stale_for().is_some()),
        days(grace.past_due),
        days(grace.renewal),
        days(Some(grace.trial)),
        moment.plan_names(facts),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The revision that a tag begins with; `None` if it is not a tag of [`tag`].
pub(super) fn revision(tag: &str) -> Option<Revision> {
    let (revision, _) = tag.split_once('~')?;
    revision.parse().ok()
}

/// The next instant at which time alone changes something.
pub(super) fn next_boundary(moment: &Moment, facts: &Facts) -> Option<DateTime<Utc>> {
    facts.accounts().filter_map(|a| a.next_boundary(moment.grace(), moment.now)).min()
}
