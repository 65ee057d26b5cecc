//! Renders the entitlements of the selected subjects as a flag set in flagd's JSON. The rules contain the instants at
//! which answers change, so that an evaluator elsewhere gives this service's answers as time passes.
//!
//! The evaluator's context names the subjects of a question. A subject outside the set is denied. Of a user and an
//! organization in the set, those that the context names are evaluated; if it names none, both are.

use super::flags;
use crate::{
    api::openfeature::{self, OFF, ON},
    check::{
        CooperativeYield, EvaluatedAccounts, EvaluationContext, PreparedEvaluation, SubjectsBuf,
    },
    domain::{Denial, Question, Subject, Verdict},
};
use serde_json::{Map, Value, json};

/// The name and value of a variant.
type Variant = (String, Value);

/// Renders the flag set of these subjects as JSON.
pub(super) async fn flag_set(
    evaluation: &EvaluationContext,
    evaluated: &EvaluatedAccounts,
    subjects: &SubjectsBuf,
) -> String {
    let alone: Vec<_> = evaluated.each_alone().collect();
    let alone: Vec<_> = alone.iter().map(|evaluated| evaluation.prepare(evaluated)).collect();
    let set = FlagSet { together: evaluation.prepare(evaluated), alone, subjects };
    let (mut all, mut yielding) = (Map::new(), CooperativeYield::default());
    for feature in evaluation.features(evaluated) {
        let question = Question::of(feature);
        if evaluation.catalog().is_strict(question.wanted) {
            continue; // strict: never granted from stale data, and a copy may be stale without notice
        }
        let timelines = set.timelines(&question, &mut yielding).await;
        let explanation = set.explanation(&question);
        if flags::has_number(evaluation.catalog(), question.wanted) {
            let flag = flag(&timelines, &explanation, number);
            all.insert(format!("{feature}{}", flags::LIMIT), flag);
        }
        all.insert(feature.to_string(), flag(&timelines, &explanation, truth));
    }
    let revision = evaluation.revision(evaluated);
    let ids: Vec<_> = subjects.iter().map(Subject::as_str).collect();
    let metadata = json!({
        "flagSetId": ids.join(","),
        "version": revision,
        "revision": revision,
        "stale": evaluated.stale_for().is_some(),
    });
    json!({ "flags": all, "metadata": metadata }).to_string()
}

/// The boolean variant of a feature.
fn truth(verdict: Verdict<'_>) -> Variant {
    match verdict {
        Verdict::Allowed { .. } => (ON.into(), true.into()),
        Verdict::Denied { .. } => (OFF.into(), false.into()),
    }
}

/// The numeric variant of a feature. It is named after the number, because a flag may have several over time.
fn number(verdict: Verdict<'_>) -> Variant {
    match verdict {
        Verdict::Allowed { limit, .. } => {
            let name = limit.map_or("unlimited".into(), |limit| limit.to_string());
            (name, flags::number(true, limit).into())
        }
        Verdict::Denied { .. } => (OFF.into(), 0.into()),
    }
}

/// The data that the flags are rendered from.
struct FlagSet<'a> {
    /// The evaluation of all subjects together.
    together: PreparedEvaluation<'a>,
    /// The evaluation of each subject alone.
    alone: Vec<PreparedEvaluation<'a>>,
    subjects: &'a SubjectsBuf,
}

/// The verdicts over time, each with the Unix second at which it ends; the last one has no end.
type Timeline<'a> = Vec<(Verdict<'a>, Option<i64>)>;

/// Renders one flag; `variant` makes a variant of a verdict.
fn flag(
    timelines: &[(Value, Timeline<'_>)],
    explanation: &Value,
    variant: fn(Verdict<'_>) -> Variant,
) -> Value {
    let out_of_scope = Verdict::Denied { reason: Denial::OutOfScope, subject: None, plan: None };
    let mut variants = Map::from_iter([variant(out_of_scope)]);
    let mut rules = Vec::new();
    for (condition, timeline) in timelines {
        let timeline = timeline.iter().map(|(verdict, until)| (variant(*verdict), *until));
        rules.extend([condition.clone(), rule(timeline, &mut variants)]);
    }
    rules.push(OFF.into());
    json!({
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": OFF,
        "targeting": { "if": rules },
        "metadata": explanation,
    })
}

impl<'a> FlagSet<'a> {
    /// The explanation of the current decision about all subjects together, without what other changes than those of the
    /// flag would change.
    fn explanation(&self, question: &Question<'_>) -> Value {
        let mut fields = json!(self.together.explain(question));
        let kept = ["reason", "subject", "plan", "validUntil"];
        if let Value::Object(fields) = &mut fields {
            fields.retain(|name, _| kept.contains(&&**name));
        }
        fields
    }

    /// The combinations of subjects that a context can name, each with its condition in JSON logic.
    fn cases(&self) -> Vec<(Value, &PreparedEvaluation<'a>)> {
        let ids = openfeature::ATTRIBUTES.map(|(name, _)| json!({ "var": name }));
        let named = |subject: &Subject| json!({ "in": [subject.as_str(), ids] });
        let mut cases = Vec::new();
        if self.alone.len() > 1 {
            let both: Vec<_> = self.subjects.iter().map(named).collect();
            cases.push((json!({ "and": both }), &self.together));
        }
        cases.extend(self.subjects.iter().map(named).zip(&self.alone));
        cases.push((json!({ "!": [{ "or": ids }] }), &self.together));
        cases
    }

    /// The timeline of each case.
    async fn timelines(
        &self,
        question: &Question<'_>,
        yielding: &mut CooperativeYield,
    ) -> Vec<(Value, Timeline<'a>)> {
        let mut timelines = Vec::new();
        for (condition, prepared) in self.cases() {
            timelines.push((condition, self.timeline(prepared, question, yielding).await));
        }
        timelines
    }

    async fn timeline(
        &self,
        prepared: &PreparedEvaluation<'a>,
        question: &Question<'_>,
        yielding: &mut CooperativeYield,
    ) -> Timeline<'a> {
        let (mut now, mut timeline) = (prepared.decide(question), Vec::new());
        while let Some(end) = now.valid_until {
            let next = prepared.decide_at(end, question);
            // Evaluators count whole seconds. Round against the caller: a grant ends in the second of its end and
            // begins in the second after its start.
            let begins = matches!(
                (now.verdict, next.verdict),
                (Verdict::Denied { .. }, Verdict::Allowed { .. })
            );
            let end = end.timestamp() + i64::from(begins && end.timestamp_subsec_nanos() > 0);
            timeline.push((now.verdict, Some(end)));
            now = next;
            yielding.answered(prepared.items()).await;
        }
        timeline.push((now.verdict, None));
        yielding.answered(prepared.items()).await;
        timeline
    }
}

/// Renders the rule that selects a variant by time, and adds its variants to `variants`.
fn rule(
    timeline: impl Iterator<Item = (Variant, Option<i64>)>,
    variants: &mut Map<String, Value>,
) -> Value {
    let mut times = Vec::new();
    for ((name, value), until) in timeline {
        variants.insert(name.clone(), value);
        times.extend(until.map(|until| json!({ "<": [{ "var": "$flagd.timestamp" }, until] })));
        times.push(name.into());
    }
    if times.len() == 1 { times.remove(0) } else { json!({ "if": times }) }
}
