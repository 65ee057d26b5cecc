//! Renders decisions as flags, and computes the tag of the state that determines all flags of some subjects.

use crate::{
    api::openfeature::{REASON, variant},
    check::{CooperativeYield, EvaluatedAccounts, EvaluationContext, Evaluator, SubjectsBuf},
    domain::{Explanation, Question, Revision},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// Renders one flag.
pub(super) fn flag(key: &str, answer: &Explanation<'_>) -> Value {
    json!({
        "key": key,
        "value": answer.allowed,
        "variant": variant(answer.allowed),
        "reason": REASON,
        "metadata": answer,
    })
}

/// Renders the flag of every feature in a plan or in an override of these subjects.
pub(super) async fn flags(
    checks: &Evaluator,
    evaluation: &EvaluationContext,
    evaluated: &EvaluatedAccounts,
    subjects: &SubjectsBuf,
) -> Vec<Value> {
    let (prepared, mut yielding) = (evaluation.prepare(evaluated), CooperativeYield::default());
    let mut flags = Vec::new();
    for feature in evaluation.features(evaluated) {
        let (subjects, question) = (subjects.as_subjects(), Question::of(feature));
        let answer = checks.answer_next(&prepared, &mut yielding, subjects, &question).await;
        flags.push(flag(feature.as_str(), &answer));
    }
    flags
}

/// The tag of the state that determines all flags of these subjects: the revision of accounts and catalog, the next
/// instant at which time alone changes a flag, whether the data may be stale, and the version of this service.
/// Equal tags mean equal flags, so an unchanged answer needs no decisions.
pub(super) fn tag(evaluation: &EvaluationContext, evaluated: &EvaluatedAccounts) -> String {
    let boundary = next_boundary(evaluation, evaluated).map_or(0, |at| at.timestamp_millis());
    format!(
        "{}~{boundary}~{}~{}",
        evaluation.revision(evaluated),
        u8::from(evaluated.stale_for().is_some()),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The revision at the start of a tag; `None` if [`tag`] did not make it.
pub(super) fn revision(tag: &str) -> Option<Revision> {
    let (revision, _) = tag.split_once('~')?;
    revision.parse().ok()
}

/// The next instant at which time alone changes a flag.
pub(super) fn next_boundary(
    evaluation: &EvaluationContext,
    evaluated: &EvaluatedAccounts,
) -> Option<DateTime<Utc>> {
    let (catalog, now) = (evaluation.catalog(), evaluation.now);
    evaluated.accounts().filter_map(|account| account.next_boundary(catalog, now)).min()
}
