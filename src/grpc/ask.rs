//! Requests into our types. All that is wrong with a request is told at once, by field.

use super::pb;
use crate::{
    access::{Kind, Question, Revision, Subject},
    accounts::Need,
    store::{Filter, Position},
};
use chrono::DateTime;
use std::{fmt::Display, time::Duration};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// Collects what is wrong with a request.
#[derive(Default)]
pub(super) struct Faults(ErrorDetails);

impl Faults {
    fn add(&mut self, field: impl Into<String>, what: impl Display) {
        self.0.add_bad_request_violation(field, what.to_string());
    }

    /// The value, if nothing was wrong.
    pub(super) fn none<T>(self, value: Option<T>) -> Result<T, Status> {
        let violations =
            self.0.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        match (value, violations) {
            (Some(value), []) => Ok(value),
            (_, violations) => {
                let told: Vec<_> =
                    violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
                let message = told.join("; ");
                Err(Status::with_error_details(
                    tonic::Code::InvalidArgument,
                    message,
                    self.0.clone(),
                ))
            }
        }
    }
}

/// Who is asked about: the user first, then the organization.
pub(super) fn subjects(
    at: &str,
    user_id: &str,
    organization_id: &str,
    faults: &mut Faults,
) -> Option<Vec<Subject>> {
    if user_id.is_empty() && organization_id.is_empty() {
        faults.add(
            format!("{at}user_id"),
            "is empty, and so is organization_id: at least one is needed",
        );
        return None;
    }
    let ids = [
        (Kind::User, "user_id", user_id),
        (Kind::Organization, "organization_id", organization_id),
    ];
    let mut subjects = Vec::with_capacity(2);
    for (kind, field, id) in ids.into_iter().filter(|(_, _, id)| !id.is_empty()) {
        match Subject::of(kind, id) {
            Ok(subject) => subjects.push(subject),
            Err(invalid) => faults.add(format!("{at}{field}"), invalid),
        }
    }
    Some(subjects)
}

/// A question, by the field that holds it.
pub(super) fn question<E: Display>(
    field: String,
    parsed: Result<Question, E>,
    faults: &mut Faults,
) -> Option<Question> {
    parsed.map_err(|invalid| faults.add(field, invalid)).ok()
}

/// How recent the answer must be.
pub(super) fn need(
    consistency: Option<pb::Consistency>,
    max_staleness: Option<prost_types::Duration>,
    faults: &mut Faults,
) -> Need {
    use pb::consistency::Requirement;
    let mut need = Need::default();
    match consistency.and_then(|c| c.requirement) {
        Some(Requirement::AtLeast(text)) => match text.parse::<Revision>() {
            Ok(revision) => need.at_least = Some(revision),
            Err(invalid) => faults.add("consistency.at_least", invalid),
        },
        Some(Requirement::FullyConsistent(true)) => need.fully_consistent = true,
        Some(Requirement::FullyConsistent(false)) => {
            faults.add("consistency.fully_consistent", "must be true where it is present");
        }
        None => {}
    }
    if let Some(duration) = max_staleness {
        match Duration::try_from(duration) {
            Ok(duration) => need.max_staleness = Some(duration),
            Err(_) => faults.add("max_staleness", "must be a duration that is not negative"),
        }
    }
    need
}

/// Up to 100 questions.
pub(super) fn batch(
    questions: &[pb::CheckFeatureRequest],
    faults: &mut Faults,
) -> Option<Vec<(Vec<Subject>, Question)>> {
    if !(1..=100).contains(&questions.len()) {
        faults.add("questions", format!("are {}, and must be 1 to 100", questions.len()));
        return None;
    }
    let mut asked = Vec::with_capacity(questions.len());
    for (i, question) in questions.iter().enumerate() {
        let at = format!("questions[{i}].");
        for (field, is_set) in [
            ("consistency", question.consistency.is_some()),
            ("max_staleness", question.max_staleness.is_some()),
        ] {
            if is_set {
                faults.add(format!("{at}{field}"), "must be set once, beside `questions`");
            }
        }
        let subjects = subjects(&at, &question.user_id, &question.organization_id, faults);
        let parsed = Question::feature(&question.feature);
        let wanted = self::question(format!("{at}feature"), parsed, faults);
        asked.extend(subjects.zip(wanted));
    }
    Some(asked)
}

/// Which deliveries.
pub(super) fn filter(filter: Option<pb::DeliveryFilter>, faults: &mut Faults) -> Filter {
    let filter = filter.unwrap_or_default();
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let subject = given(filter.subject)
        .and_then(|id| id.parse().map_err(|invalid| faults.add("filter.subject", invalid)).ok());
    let result = given(filter.result);
    if let Some(result) = &result
        && !["applied", "superseded", "ignored", "parked"].contains(&&**result)
    {
        faults.add("filter.result", "must be applied, superseded, ignored or parked");
    }
    let mut instant = |field: &str, at: Option<prost_types::Timestamp>| {
        let at = at?;
        let nanos = u32::try_from(at.nanos).ok();
        let parsed = nanos.and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos));
        if parsed.is_none() {
            faults.add(field, "must be a timestamp");
        }
        parsed
    };
    let from = instant("filter.received_from", filter.received_from);
    let until = instant("filter.received_until", filter.received_until);
    Filter { svix_id: given(filter.svix_id), subject, result, from, until }
}

/// How many at most.
pub(super) fn page_size(size: u32, faults: &mut Faults) -> u32 {
    if size > 1000 {
        faults.add("page_size", "must be at most 1000");
    }
    if size == 0 { 100 } else { size }
}

/// Where the next page begins.
pub(super) fn position(field: &str, token: &str, faults: &mut Faults) -> Option<Position> {
    if token.is_empty() {
        return None;
    }
    let parsed = token.split_once('.').and_then(|(micros, svix_id)| {
        let received_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some(Position { received_at, svix_id: svix_id.into() })
    });
    if parsed.is_none() {
        faults.add(field, "must be a `next_page_token` as an earlier answer gave it");
    }
    parsed
}
