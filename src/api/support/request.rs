//! Parses requests for explanations.

use crate::{
    api::{
        admin::request::page_size,
        entitlements::request::{question, subjects},
        faults::{Faults, duration, instant},
        pb,
    },
    check::{Receipt, Subjects, Viewpoint},
    domain::{InvalidRevision, Question, Revision, Subject},
};
use chrono::{DateTime, TimeDelta, Utc};
use tonic::Status;

/// How far the clock of the replica that gave an answer may be ahead of this one.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);

/// A parsed request for an explanation; [`question_of`] parses its question again on another thread.
pub(super) struct ParsedExplain<'r> {
    pub subjects: Subjects<'r>,
    pub viewpoint: Viewpoint,
}

impl<'r> ParsedExplain<'r> {
    pub fn of(request: &'r pb::ExplainRequest) -> Result<Self, Status> {
        let mut faults = Faults::default();
        let subjects = subjects(&request.user_id, &request.organization_id, &mut faults);
        let question = target(request.target.as_ref(), &mut faults);
        let viewpoint = viewpoint(request, &mut faults);
        let parsed = subjects.zip(question).zip(viewpoint);
        let ((subjects, _), viewpoint) = faults.none(parsed)?;
        Ok(Self { subjects, viewpoint })
    }
}

/// Parses the question of a request.
pub(super) fn question_of(request: &pb::ExplainRequest) -> Result<Question<'_>, Status> {
    let mut faults = Faults::default();
    let question = target(request.target.as_ref(), &mut faults);
    faults.none(question)
}

fn target<'r>(
    target: Option<&'r pb::explain_request::Target>,
    faults: &mut Faults,
) -> Option<Question<'r>> {
    use pb::explain_request::Target;
    match target {
        Some(Target::Feature(feature)) => feature_or_plan(Some(feature), None, faults),
        Some(Target::Plan(plan)) => feature_or_plan(None, Some(plan), faults),
        None => feature_or_plan(None, None, faults),
    }
}

fn feature_or_plan<'r>(
    feature: Option<&'r str>,
    plan: Option<&'r str>,
    faults: &mut Faults,
) -> Option<Question<'r>> {
    match (feature, plan) {
        (Some(feature), _) => question("feature", Question::feature(feature), faults),
        (None, Some(plan)) => question("plan", Question::plan(plan), faults),
        (None, None) => {
            faults.add("feature", "is absent, and so is plan: one of them is needed");
            None
        }
    }
}

fn viewpoint(request: &pb::ExplainRequest, faults: &mut Faults) -> Option<Viewpoint> {
    let as_of = instant("as_of", request.as_of, faults);
    let known_at = instant("known_at", request.known_at, faults);
    if known_at.is_some_and(|known_at| known_at > Utc::now()) {
        faults.add("known_at", "is in the future");
    }
    let Some(receipt) = &request.receipt else { return Some(Viewpoint::At { as_of, known_at }) };
    for (field, is_set) in
        [("as_of", request.as_of.is_some()), ("known_at", request.known_at.is_some())]
    {
        if is_set {
            faults.add(field, "must be absent: the receipt has its own instant");
        }
    }
    self::receipt(receipt, faults).map(Viewpoint::Receipt)
}

fn receipt(receipt: &pb::Receipt, faults: &mut Faults) -> Option<Receipt> {
    let revision = receipt.revision.parse::<Revision>();
    let revision =
        revision.map_err(|invalid: InvalidRevision| faults.add("receipt.revision", invalid)).ok();
    let checked_at = instant("receipt.checked_at", receipt.checked_at, faults);
    if receipt.checked_at.is_none() {
        faults.add("receipt.checked_at", "is absent: send `checked_at` of the answer");
    }
    if checked_at.is_some_and(|at: DateTime<Utc>| at > Utc::now() + MAX_CLOCK_SKEW) {
        faults.add("receipt.checked_at", "is in the future");
    }
    let stale_for = duration("receipt.stale_for", receipt.stale_for, faults);
    Some(Receipt { revision: revision?, checked_at: checked_at?, stale_for })
}

/// Parses a request for the holders of a feature or a plan: the question, and the page size.
pub(super) fn holders(request: &pb::ListSubjectsRequest) -> Result<(Question<'_>, usize), Status> {
    use pb::list_subjects_request::Target;
    let mut faults = Faults::default();
    let size = page_size(request.page_size, &mut faults);
    if !request.page_token.is_empty() && request.page_token.parse::<Subject>().is_err() {
        faults.add("page_token", "is not a valid page token: send a `next_page_token` unchanged");
    }
    let question = match &request.target {
        Some(Target::Feature(feature)) => feature_or_plan(Some(feature), None, &mut faults),
        Some(Target::Plan(plan)) => feature_or_plan(None, Some(plan), &mut faults),
        None => feature_or_plan(None, None, &mut faults),
    };
    Ok((faults.none(question)?, size as usize))
}

/// The field that names the feature or the plan.
pub(super) fn target_field(request: &pb::ListSubjectsRequest) -> &'static str {
    use pb::list_subjects_request::Target;
    match request.target {
        Some(Target::Plan(_)) => "plan",
        Some(Target::Feature(_)) | None => "feature",
    }
}

/// Parses a page token: the number of changes that are older than the previous page.
pub(super) fn position(token: &str, faults: &mut Faults) -> Option<usize> {
    if token.is_empty() {
        return None;
    }
    let parsed = token.parse().ok();
    if parsed.is_none() {
        faults.add("page_token", "is not a valid page token: send a `next_page_token` unchanged");
    }
    parsed
}
