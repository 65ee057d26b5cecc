//! Requests into our types. All that is wrong with a request is told at once, by field.

use crate::api::pb;
use crate::{
    check::Payers,
    domain::{Id, Kind, Question, Revision},
    replica::Need,
    storage::{Filter, Position},
};
use chrono::DateTime;
use std::{fmt::Display, time::Duration};
use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Collects what is wrong with a request: fields, and what is wrong with each.
#[derive(Default)]
pub(in crate::api) struct Faults(Vec<FieldViolation>);

impl Faults {
    pub(in crate::api) fn add(&mut self, field: &str, what: impl Display) {
        self.0.push(FieldViolation::new(field, what.to_string()));
    }

    /// The same of a message that is number `i` of a repeated field.
    fn add_all(&mut self, field: &str, i: usize, inner: Self) {
        for FieldViolation { field: of, description, .. } in inner.0 {
            self.add(&format!("{field}[{i}].{of}"), description);
        }
    }

    /// The value, if nothing was wrong.
    pub(in crate::api) fn none<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.into()),
        }
    }
}

impl From<Faults> for Status {
    fn from(Faults(violations): Faults) -> Self {
        let told: Vec<_> =
            violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        let details = ErrorDetails::with_bad_request(violations);
        Status::with_error_details(tonic::Code::InvalidArgument, told.join("; "), details)
    }
}

/// Who is asked about.
pub(in crate::api) fn payers<'i>(
    user_id: &'i str,
    organization_id: &'i str,
    faults: &mut Faults,
) -> Option<Payers<'i>> {
    if user_id.is_empty() && organization_id.is_empty() {
        faults.add("user_id", "is empty, and so is organization_id: at least one is needed");
        return None;
    }
    let mut parse = |kind, field, id: &'i str| {
        let id = Some(id).filter(|id| !id.is_empty())?;
        Id::of(kind, id).map_err(|invalid| faults.add(field, invalid)).ok()
    };
    let user = parse(Kind::User, "user_id", user_id);
    Payers::of(user, parse(Kind::Organization, "organization_id", organization_id))
}

/// A question, and the field that holds it.
pub(in crate::api) fn question<'q, E: Display>(
    field: &str,
    parsed: Result<Question<'q>, E>,
    faults: &mut Faults,
) -> Option<Question<'q>> {
    parsed.map_err(|invalid| faults.add(field, invalid)).ok()
}

/// How recent the answer must be.
pub(in crate::api) fn need(
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
pub(in crate::api) fn batch<'q>(
    questions: &'q [pb::CheckFeatureRequest],
    faults: &mut Faults,
) -> Option<Vec<(Payers<'q>, Question<'q>)>> {
    if !(1..=100).contains(&questions.len()) {
        faults.add("questions", format_args!("are {}, and must be 1 to 100", questions.len()));
        return None;
    }
    let mut asked = Vec::with_capacity(questions.len());
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
        let payers = payers(&question.user_id, &question.organization_id, &mut own);
        let parsed = Question::feature(&question.feature);
        asked.extend(payers.zip(self::question("feature", parsed, &mut own)));
        faults.add_all("questions", i, own);
    }
    Some(asked)
}

/// Which deliveries.
pub(in crate::api) fn filter(filter: Option<pb::DeliveryFilter>, faults: &mut Faults) -> Filter {
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
pub(in crate::api) fn page_size(size: u32, faults: &mut Faults) -> u32 {
    if size > 1000 {
        faults.add("page_size", "must be at most 1000");
    }
    if size == 0 { 100 } else { size }
}

/// Where the next page begins.
pub(in crate::api) fn position(field: &str, token: &str, faults: &mut Faults) -> Option<Position> {
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
