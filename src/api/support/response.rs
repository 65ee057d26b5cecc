//! Renders explanations and changes as protobuf responses.

use crate::{
    api::{
        entitlements::response::{instant, item, text},
        overrides, pb,
    },
    check::PastEvaluation,
    clerk::OBSERVATION_ID_PREFIX,
    domain::{
        Catalog, ChangeCause, Explanation, FeatureChange, FeatureState, HistoryChange, Kind,
        Observation, OverrideRecord, PlanPreview, Question, Statement, Step, StepKind, Subject,
    },
    storage::CatalogVersion,
};
use chrono::TimeDelta;

/// The most causes of a difference that an explanation lists.
const MAX_CAUSES: usize = 20;

/// Renders the answer of an evaluation, and the comparison with another one.
pub(super) fn explanation(
    evaluation: &PastEvaluation<'_>,
    compared: Option<&PastEvaluation<'_>>,
    question: &Question<'_>,
) -> pb::ExplainResponse {
    let steps = evaluation.steps(question);
    pb::ExplainResponse {
        answer: Some(evaluation.answer(question).into()),
        steps: steps.iter().map(|found| step(evaluation, found)).collect(),
        later: evaluation.later(question).into_iter().map(Into::into).collect(),
        catalog: Some(catalog(evaluation.version)),
        comparison: compared.map(|other| comparison(evaluation, other, question)),
        granting_plans: granting_plans(&evaluation.version.catalog, question),
    }
}

fn granting_plans(catalog: &Catalog, question: &Question<'_>) -> Vec<pb::GrantingPlan> {
    let kinds = [Kind::User, Kind::Organization];
    let plans = kinds.into_iter().filter(|kind| question.scope.covers(*kind)).flat_map(|kind| {
        let plans = catalog.plan_set(kind).granting(question.wanted);
        plans.map(move |(slug, limit)| pb::GrantingPlan {
            kind: kind.to_string(),
            plan: slug.to_string(),
            limit,
        })
    });
    plans.collect()
}

fn step(evaluation: &PastEvaluation<'_>, step: &Step<'_>) -> pb::Step {
    use pb::step::Kind;
    let kind = match step.kind {
        StepKind::Item(_) => Kind::Item,
        StepKind::Override(_) => Kind::Override,
        StepKind::DefaultPlan => Kind::DefaultPlan,
        StepKind::Deletion => Kind::Deletion,
        StepKind::Scope => Kind::Scope,
        StepKind::Catalog => Kind::Catalog,
        StepKind::Staleness => Kind::Staleness,
    };
    let rendered = match step.kind {
        StepKind::Item(found) => evaluation
            .item_state(step.subject, &found)
            .map(|(access, plan)| item(&found, access, plan)),
        _ => None,
    };
    pb::Step {
        kind: kind.into(),
        decisive: step.is_decisive,
        reason: pb::Reason::from(step.reason).into(),
        subject: text(step.subject.map(Subject::as_str)),
        plan: text(step.plan),
        limit: step.limit,
        until: instant(step.until),
        item: rendered,
        source: step_source(evaluation, step),
    }
}

/// The record that a step is known from.
fn step_source(evaluation: &PastEvaluation<'_>, step: &Step<'_>) -> Option<pb::Source> {
    let account = evaluation.account(step.subject);
    match step.kind {
        StepKind::Item(found) => account?.source(found.id).map(source),
        StepKind::Deletion => account?.deletion.map(source),
        StepKind::DefaultPlan | StepKind::Catalog | StepKind::Staleness => {
            Some(catalog_source(evaluation.version)).filter(|source| source.catalog > 0)
        }
        StepKind::Override(found) => account?.record(found.id).map(override_source),
        StepKind::Scope => None,
    }
}

fn override_source(record: &OverrideRecord) -> pb::Source {
    pb::Source {
        known_at: instant(Some(record.found.set_at)),
        effective_at: instant(Some(record.found.begins_at())),
        r#override: Some(overrides::response::record(record)),
        ..pb::Source::default()
    }
}

fn source(observation: &Observation) -> pb::Source {
    pb::Source {
        message: observation.message.to_string(),
        catalog: 0,
        known_at: instant(Some(observation.known_at)),
        effective_at: instant(Some(observation.stated_at())),
        replayed: observation.is_replay,
        statement: Some(statement(&observation.statement)),
        r#override: None,
    }
}

fn catalog_source(version: &CatalogVersion) -> pb::Source {
    let applied_at = instant(Some(version.applied_at));
    pb::Source {
        catalog: version.number,
        known_at: applied_at,
        effective_at: applied_at,
        ..pb::Source::default()
    }
}

fn statement(statement: &Statement) -> pb::Statement {
    use pb::statement::Kind;
    match statement {
        Statement::Item(observed) => pb::Statement {
            kind: Kind::Item.into(),
            item: observed.item.id.to_string(),
            plan: text(observed.item.plan.as_deref().or(observed.item.plan_id.as_deref())),
            status: observed.item.status.to_string(),
            period_end: instant(observed.item.period_end),
            ..pb::Statement::default()
        },
        Statement::Snapshot(snapshot) => pb::Statement {
            kind: Kind::Subscription.into(),
            listed_items: snapshot.listed.iter().flatten().map(ToString::to_string).collect(),
            canceled: snapshot.canceled,
            ..pb::Statement::default()
        },
        Statement::Deleted(_) => {
            pb::Statement { kind: Kind::Deletion.into(), ..pb::Statement::default() }
        }
        Statement::Undeleted => {
            pb::Statement { kind: Kind::Undeletion.into(), ..pb::Statement::default() }
        }
    }
}

fn catalog(version: &CatalogVersion) -> pb::CatalogVersion {
    let grace = version.catalog.grace;
    let duration = |grace: TimeDelta| grace.to_std().ok()?.try_into().ok();
    pb::CatalogVersion {
        number: version.number,
        source: version.source.clone(),
        applied_at: instant(Some(version.applied_at)).filter(|_| version.number > 0),
        grace_past_due: grace.past_due.and_then(duration),
        grace_renewal: grace.renewal.and_then(duration),
        grace_trial: duration(grace.trial),
    }
}

fn comparison(
    evaluation: &PastEvaluation<'_>,
    other: &PastEvaluation<'_>,
    question: &Question<'_>,
) -> pb::Comparison {
    let (ours, theirs) = (evaluation.answer(question), other.answer(question));
    let differs = outcome(&ours) != outcome(&theirs);
    let causes = if differs { causes(evaluation, other, question) } else { Vec::new() };
    let known_at = instant(Some(other.known_at));
    pb::Comparison { differs, known_at, answer: Some(theirs.into()), causes }
}

/// The fields in which answers may differ.
fn outcome<'a>(answer: &'a Explanation<'_>) -> impl PartialEq + use<'a> {
    let subject = answer.subject.map(Subject::as_str);
    (answer.allowed, answer.reason.name(), subject, answer.plan, answer.limit)
}

/// The records that only one of both used: first those behind the decisive steps, then the newest ones; and the catalog
/// of the newer one.
fn causes(
    evaluation: &PastEvaluation<'_>,
    other: &PastEvaluation<'_>,
    question: &Question<'_>,
) -> Vec<pb::Source> {
    let decisive = [evaluation, other].map(|one| {
        let steps = one.steps(question);
        steps.first().and_then(|decisive| step_source(one, decisive)).unwrap_or_default()
    });
    let overrides = evaluation.changed_overrides(other, question);
    let mut causes: Vec<_> = overrides.into_iter().map(override_source).collect();
    causes.extend(evaluation.difference(other).into_iter().map(source));
    causes.sort_by_key(|one| !decisive.iter().any(|decisive| is_same_record(one, decisive)));
    causes.truncate(MAX_CAUSES - 1);
    // Plan names differ with the message that names them, which may be about another subject.
    let (ours, theirs) = (evaluation.version.state(), other.version.state());
    if ours.number != theirs.number || (causes.is_empty() && ours != theirs) {
        let newest = if ours > theirs { evaluation.version } else { other.version };
        causes.push(catalog_source(newest));
    }
    causes
}

/// Whether both are the same message or override.
fn is_same_record(one: &pb::Source, other: &pb::Source) -> bool {
    let id = |source: &pb::Source| source.r#override.as_ref().map(|found| found.id.clone());
    (&one.message, id(one)) == (&other.message, id(other))
}

/// Renders a change.
pub(super) fn change(change: &HistoryChange<'_>) -> pb::Change {
    let observations = match change.cause {
        ChangeCause::Observations(observations) => observations,
        ChangeCause::Override(_)
        | ChangeCause::OverrideEnd(..)
        | ChangeCause::Catalog(_)
        | ChangeCause::Time => &[],
    };
    let catalog = match change.cause {
        ChangeCause::Catalog(number) => number,
        ChangeCause::Observations(_)
        | ChangeCause::Override(_)
        | ChangeCause::OverrideEnd(..)
        | ChangeCause::Time => 0,
    };
    let record = match change.cause {
        ChangeCause::Override(record) | ChangeCause::OverrideEnd(record, _) => Some(record),
        ChangeCause::Observations(_) | ChangeCause::Catalog(_) | ChangeCause::Time => None,
    };
    pb::Change {
        cause: cause(change.cause).into(),
        known_at: instant(Some(change.known_at)),
        effective_at: instant(Some(change.effective_at)),
        message: text(observations.first().map(|first| &*first.message)),
        catalog,
        statements: observations.iter().map(|found| statement(&found.statement)).collect(),
        superseded: change.is_superseded,
        features: change.features.iter().map(feature).collect(),
        r#override: record.map(overrides::response::record),
    }
}

fn cause(cause: ChangeCause<'_>) -> pb::change::Cause {
    use pb::change::Cause;
    match cause {
        ChangeCause::Observations(observations) => match observations.first() {
            Some(Observation { statement: Statement::Undeleted, .. }) => Cause::Undeletion,
            Some(first) if first.is_replay => Cause::Replay,
            Some(first) if first.message.starts_with(OBSERVATION_ID_PREFIX) => {
                Cause::Reconciliation
            }
            Some(_) | None => Cause::Webhook,
        },
        ChangeCause::Override(_) => Cause::Override,
        ChangeCause::OverrideEnd(..) => Cause::OverrideEnd,
        ChangeCause::Catalog(_) => Cause::Catalog,
        ChangeCause::Time => Cause::Time,
    }
}

fn feature(change: &FeatureChange) -> pb::FeatureChange {
    let state = |state: &FeatureState| pb::FeatureState {
        allowed: state.allowed,
        reason: pb::Reason::from(state.reason).into(),
        plan: text(state.plan.as_deref()),
        limit: state.limit,
    };
    let (before, after) = (state(&change.before), state(&change.after));
    pb::FeatureChange {
        feature: change.feature.to_string(),
        before: Some(before),
        after: Some(after),
    }
}

/// Renders the preview of a plan.
#[must_use]
pub fn preview(preview: &PlanPreview) -> pb::PreviewPlanResponse {
    let mut response = pb::PreviewPlanResponse::default();
    for change in &preview.changes {
        let list = match (change.before.allowed, change.after.allowed) {
            (false, _) => &mut response.gained,
            (true, false) => &mut response.lost,
            (true, true) => &mut response.changed,
        };
        list.push(feature(change));
    }
    let over = preview.over.iter().map(|over| pb::OverLimit {
        feature: over.feature.to_string(),
        count: over.count,
        limit: over.limit,
    });
    response.over = over.collect();
    response
}
