//! Parses requests into domain types. One error lists all invalid fields of a request.

use crate::{
    api::{
        faults::{Faults, duration},
        pb,
    },
    check::{Subjects, SubjectsParser},
    domain::{Kind, Question, Revision},
    replica::Consistency,
};
use std::fmt::Display;
use tonic::Status;

/// A parsed check of one question.
pub(super) struct Check<'r> {
    pub(super) subjects: Subjects<'r>,
    pub(super) question: Question<'r>,
    pub(super) consistency: Consistency,
}

impl<'r> Check<'r> {
    pub(super) fn of_feature(request: &'r pb::CheckFeatureRequest) -> Result<Self, Status> {
        let mut faults = Faults::default();
        let subjects = subjects(&request.user_id, &request.organization_id, &mut faults);
        let question = question("feature", Question::feature(&request.feature), &mut faults);
        let recent = (request.consistency.as_ref(), request.max_staleness);
        Self::of(subjects, question, recent, faults)
    }

    pub(super) fn of_plan(request: &'r pb::CheckPlanRequest) -> Result<Self, Status> {
        let mut faults = Faults::default();
        let subjects = subjects(&request.user_id, &request.organization_id, &mut faults);
        let question = question("plan", Question::plan(&request.plan), &mut faults);
        let recent = (request.consistency.as_ref(), request.max_staleness);
        Self::of(subjects, question, recent, faults)
    }

    fn of(
        subjects: Option<Subjects<'r>>,
        question: Option<Question<'r>>,
        (requested, max_staleness): (Option<&pb::Consistency>, Option<prost_types::Duration>),
        mut faults: Faults,
    ) -> Result<Self, Status> {
        let consistency = consistency(requested, max_staleness, &mut faults);
        let (subjects, question) = faults.none(subjects.zip(question))?;
        Ok(Self { subjects, question, consistency })
    }
}

/// Parses the subjects of a question; at least one id must be set.
pub(in crate::api) fn subjects<'i>(
    user_id: &'i str,
    organization_id: &'i str,
    faults: &mut Faults,
) -> Option<Subjects<'i>> {
    if user_id.is_empty() && organization_id.is_empty() {
        faults.add("user_id", "is empty, and so is organization_id: at least one is needed");
        return None;
    }
    let mut parser = SubjectsParser::default();
    let fields = [
        (Kind::User, "user_id", user_id),
        (Kind::Organization, "organization_id", organization_id),
    ];
    for (kind, field, id) in fields.into_iter().filter(|(_, _, id)| !id.is_empty()) {
        parser.add(Some(kind), id).unwrap_or_else(|invalid| faults.add(field, invalid));
    }
    parser.subjects()
}

/// Unwraps a parsed question, or adds the fault of `field`.
pub(in crate::api) fn question<'q, E: Display>(
    field: &str,
    parsed: Result<Question<'q>, E>,
    faults: &mut Faults,
) -> Option<Question<'q>> {
    parsed.map_err(|invalid| faults.add(field, invalid)).ok()
}

/// Parses how recent the answer must be.
pub(super) fn consistency(
    requested: Option<&pb::Consistency>,
    max_staleness: Option<prost_types::Duration>,
    faults: &mut Faults,
) -> Consistency {
    use pb::consistency::Requirement;
    let mut consistency = Consistency::default();
    match requested.and_then(|c| c.requirement.as_ref()) {
        Some(Requirement::AtLeast(text)) => match text.parse::<Revision>() {
            Ok(revision) => consistency.at_least = Some(revision),
            Err(invalid) => faults.add("consistency.at_least", invalid),
        },
        Some(Requirement::FullyConsistent(true)) => consistency.fully_consistent = true,
        Some(Requirement::FullyConsistent(false)) => {
            faults.add("consistency.fully_consistent", "must be true where it is present");
        }
        None => {}
    }
    consistency.max_staleness = duration("max_staleness", max_staleness, faults);
    consistency
}

/// Parses a batch of 1 to 100 questions.
pub(super) fn batch<'q>(
    questions: &'q [pb::CheckFeatureRequest],
    faults: &mut Faults,
) -> Option<Vec<(Subjects<'q>, Question<'q>)>> {
    if !(1..=100).contains(&questions.len()) {
        faults.add("questions", format_args!("are {}, and must be 1 to 100", questions.len()));
        return None;
    }
    let mut parsed = Vec::with_capacity(questions.len());
    for (i, question) in questions.iter().enumerate() {
        let mut own = Faults::default();
        for (field, is_set) in [
            ("consistency", question.consistency.is_some()),
            ("max_staleness", question.max_staleness.is_some()),
        ] {
            if is_set {
                own.add(field, "must be set once, beside `questions`");
            }
        }
        let subjects = subjects(&question.user_id, &question.organization_id, &mut own);
        let question = Question::feature(&question.feature);
        parsed.extend(subjects.zip(self::question("feature", question, &mut own)));
        faults.add_all("questions", i, own);
    }
    Some(parsed)
}
