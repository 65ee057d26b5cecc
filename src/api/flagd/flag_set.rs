//! One subject's entitlements as a flag set in flagd's JSON, with the times built in, so that an evaluator elsewhere
//! gives the answers that are given here, also when time passes.
//!
//! Whom an evaluator is asked about stands in its context. Whoever the set is not about is denied; of a user and an
//! organization, the ones that the context names count; if it names nobody, all of them do.

use super::{context, flags, metadata};
use crate::{
    api::entitlements::response,
    check::{Facts, Moment, Pieces, Prepared, Whom},
    domain::{Denial, Question, Subject, Verdict},
};
use serde_json::{Map, Value, json};

/// What a flag is, at a time.
type Variant = (String, Value);

/// The flag set of these subjects, as JSON.
pub(super) async fn flag_set(moment: &Moment, facts: &Facts, whom: &Whom) -> String {
    let alone: Vec<_> = facts.each_alone().collect();
    let alone: Vec<_> = alone.iter().map(|facts| moment.prepare(facts)).collect();
    let set = Set { moment, facts, together: moment.prepare(facts), alone, whom };
    let (mut all, mut pieces) = (Map::new(), Pieces::default());
    for feature in moment.features(facts) {
        let question = Question::of(feature);
        if moment.catalog().is_strict(question.wanted) {
            continue; // it may not be granted from what may be outdated, which nobody here knows of a copy
        }
        let courses = set.courses(&question, &mut pieces).await;
        let explanation = set.explanation(&question);
        if flags::has_number(moment.catalog(), question.wanted) {
            let flag = flag(&courses, &explanation, number);
            all.insert(format!("{feature}{}", flags::LIMIT), flag);
        }
        all.insert(feature.to_string(), flag(&courses, &explanation, truth));
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
        Verdict::Allowed { .. } => (metadata::ON.into(), true.into()),
        Verdict::Denied { .. } => (metadata::OFF.into(), false.into()),
    }
}

/// The number that comes with a feature. Its variants go by the number, because there may be several in time.
fn number(verdict: Verdict<'_>) -> Variant {
    match verdict {
        Verdict::Allowed { limit, .. } => {
            let name = limit.map_or("unlimited".into(), |limit| limit.to_string());
            (name, metadata::number(true, limit).into())
        }
        Verdict::Denied { .. } => (metadata::OFF.into(), 0.into()),
    }
}

/// What answers are to be decided from, and about whom.
struct Set<'a> {
    moment: &'a Moment,
    facts: &'a Facts,
    /// Of all of them together.
    together: Prepared<'a>,
    /// Of each of them.
    alone: Vec<Prepared<'a>>,
    whom: &'a Whom,
}

/// The answers as time passes: each with the Unix second at which it ends, but for the last one.
type Course<'a> = Vec<(Verdict<'a>, Option<i64>)>;

/// One flag, whose variants are made by `variant`.
fn flag(
    courses: &[(Value, Course<'_>)],
    explanation: &Map<String, Value>,
    variant: fn(Verdict<'_>) -> Variant,
) -> Value {
    let nobody = Verdict::Denied { reason: Denial::OutOfScope, subject: None, plan: None };
    let mut variants = Map::from_iter([variant(nobody)]);
    let mut rules = Vec::new();
    for (condition, course) in courses {
        let course = course.iter().map(|(verdict, until)| (variant(*verdict), *until));
        rules.extend([condition.clone(), rule(course, &mut variants)]);
    }
    rules.push(metadata::OFF.into());
    json!({
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": metadata::OFF,
        "targeting": { "if": rules },
        "metadata": explanation,
    })
}

impl<'a> Set<'a> {
    /// Why the answer to a question about all of them is what it is.
    fn explanation(&self, question: &Question<'_>) -> Map<String, Value> {
        let decision = self.together.decide(question);
        metadata::explanation(&response::feature(decision, self.moment, self.facts))
    }

    /// Whom a context may ask about, each with the condition that it does.
    fn cases(&self) -> Vec<(Value, &Prepared<'a>)> {
        let ids = context::NAMES.map(|(name, _)| json!({ "var": name }));
        let named = |subject: &Subject| json!({ "in": [subject.as_str(), ids] });
        let mut cases = Vec::new();
        if self.alone.len() > 1 {
            let both: Vec<_> = self.whom.iter().map(named).collect();
            cases.push((json!({ "and": both }), &self.together));
        }
        cases.extend(self.whom.iter().map(named).zip(&self.alone));
        cases.push((json!({ "!": [{ "or": ids }] }), &self.together));
        cases
    }

    /// What is answered in each case, as time passes.
    async fn courses(
        &self,
        question: &Question<'_>,
        pieces: &mut Pieces,
    ) -> Vec<(Value, Course<'a>)> {
        let mut courses = Vec::new();
        for (condition, asked) in self.cases() {
            courses.push((condition, self.course(asked, question, pieces).await));
        }
        courses
    }

    async fn course(
        &self,
        asked: &Prepared<'a>,
        question: &Question<'_>,
        pieces: &mut Pieces,
    ) -> Course<'a> {
        let (mut now, mut course) = (asked.decide(question), Vec::new());
        while let Some(end) = now.valid_until {
            let next = asked.decide_at(end, question);
            // Evaluators know whole seconds: a grant ends in the second of its end, and begins in the one after.
            let begins = matches!(
                (now.verdict, next.verdict),
                (Verdict::Denied { .. }, Verdict::Allowed { .. })
            );
            let end = end.timestamp() + i64::from(begins && end.timestamp_subsec_nanos() > 0);
            course.push((now.verdict, Some(end)));
            now = next;
            pieces.answered(asked.items()).await;
        }
        course.push((now.verdict, None));
        pieces.answered(asked.items()).await;
        course
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
