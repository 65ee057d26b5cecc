//! One subject's entitlements as a flag set in flagd's JSON, with the times built in, so that an evaluator elsewhere
//! gives the answers that are given here, also when time passes.
//!
//! Whom an evaluator is asked about stands in its context. Whoever the set is not about is denied; of a user and an
//! organization, the ones that the context names count; if it names nobody, all of them do.

use super::{context, flags, words};
use crate::{
    access::{Denial, Question, Subject, Verdict},
    checks::{Facts, Moment, Whom},
    grpc::answer,
};
use serde_json::{Map, Value, json};

/// What a flag is, at a time.
type Variant = (String, Value);

/// The flag set of these subjects, as JSON.
pub(super) fn flag_set(moment: &Moment, facts: &Facts, whom: &Whom) -> String {
    let alone = facts.each_alone().collect();
    let set = Set { moment, facts, alone, whom };
    let mut all = Map::new();
    for feature in moment.features(facts) {
        let question = Question::of(feature);
        if moment.catalog().is_strict(question.wanted) {
            continue; // it may not be granted from what may be outdated, which nobody here knows of a copy
        }
        if flags::has_number(moment.catalog(), question.wanted) {
            all.insert(format!("{feature}{}", flags::LIMIT), set.flag(&question, number));
        }
        all.insert(feature.to_string(), set.flag(&question, truth));
    }
    let revision = moment.revision(facts);
    let ids: Vec<_> = whom.iter().map(Subject::as_str).collect();
    let metadata = json!({
        "flagSetId": ids.join(","),
        "version": revision,
        "revision": revision,
        "stale": facts.stale_for().is_some(),
    });
    json!({ "flags": all, "metadata": metadata }).to_string()
}

/// A feature as a boolean.
fn truth(verdict: Verdict<'_>) -> Variant {
    match verdict {
        Verdict::Allowed { .. } => (words::ON.into(), true.into()),
        Verdict::Denied { .. } => (words::OFF.into(), false.into()),
    }
}

/// The number that comes with a feature. Its variants go by the number, because there may be several in time.
fn number(verdict: Verdict<'_>) -> Variant {
    match verdict {
        Verdict::Allowed { limit, .. } => {
            let name = limit.map_or("unlimited".into(), |limit| limit.to_string());
            (name, words::number(true, limit).into())
        }
        Verdict::Denied { .. } => (words::OFF.into(), 0.into()),
    }
}

/// What answers are to be decided from, and about whom.
struct Set<'a> {
    moment: &'a Moment,
    /// Of all of them together.
    facts: &'a Facts,
    /// Of each of them.
    alone: Vec<Facts>,
    whom: &'a Whom,
}

impl Set<'_> {
    /// One flag, whose variants are made by `variant`.
    fn flag(&self, question: &Question<'_>, variant: fn(Verdict<'_>) -> Variant) -> Value {
        let nobody = Verdict::Denied { reason: Denial::OutOfScope, subject: None, plan: None };
        let mut variants = Map::from_iter([variant(nobody)]);
        let mut rules = Vec::new();
        for (condition, asked) in self.cases() {
            let course = self.course(asked, question).into_iter();
            let course = course.map(|(verdict, until)| (variant(verdict), until));
            rules.extend([condition, rule(course, &mut variants)]);
        }
        rules.push(words::OFF.into());
        let decision = self.moment.decide(self.facts, question);
        let told = answer::feature(decision, self.moment, self.facts);
        json!({
            "state": "ENABLED",
            "variants": variants,
            "defaultVariant": words::OFF,
            "targeting": { "if": rules },
            "metadata": words::explanation(&told),
        })
    }

    /// Whom a context may ask about, each with the condition that it does.
    fn cases(&self) -> Vec<(Value, &Facts)> {
        let ids = context::NAMES.map(|(name, _)| json!({ "var": name }));
        let named = |subject: &Subject| json!({ "in": [subject.as_str(), ids] });
        let mut cases = Vec::new();
        if self.alone.len() > 1 {
            let both: Vec<_> = self.whom.iter().map(named).collect();
            cases.push((json!({ "and": both }), self.facts));
        }
        cases.extend(self.whom.iter().map(named).zip(&self.alone));
        cases.push((json!({ "!": [{ "or": ids }] }), self.facts));
        cases
    }

    /// The answers as time passes: each with the Unix second at which it ends, but for the last one.
    fn course<'f>(
        &'f self,
        facts: &'f Facts,
        question: &Question<'_>,
    ) -> Vec<(Verdict<'f>, Option<i64>)> {
        let (mut at, mut course) = (self.moment.now, Vec::new());
        loop {
            let now = self.moment.decide_at(at, facts, question);
            let Some(end) = now.valid_until else {
                course.push((now.verdict, None));
                return course;
            };
            at = end;
            let next = self.moment.decide_at(at, facts, question).verdict;
            // Evaluators know whole seconds: a grant ends in the second of its end, and begins in the one after.
            let begins =
                matches!((now.verdict, next), (Verdict::Denied { .. }, Verdict::Allowed { .. }));
            let end = end.timestamp() + i64::from(begins && end.timestamp_subsec_nanos() > 0);
            course.push((now.verdict, Some(end)));
        }
    }
}

/// What says which variant is due when; collects the variants.
fn rule(
    course: impl Iterator<Item = (Variant, Option<i64>)>,
    variants: &mut Map<String, Value>,
) -> Value {
    let mut times = Vec::new();
    for ((name, value), until) in course {
        variants.insert(name.clone(), value);
        times.extend(until.map(|until| json!({ "<": [{ "var": "$flagd.timestamp" }, until] })));
        times.push(name.into());
    }
    if times.len() == 1 { times.remove(0) } else { json!({ "if": times }) }
}
