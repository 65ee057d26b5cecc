//! `entitlements.v1.Entitlements`: each method parses the request, asks the evaluator and renders the answer.

pub(super) mod request;
pub(super) mod response;

use super::{faults::Faults, pb};
use crate::{
    check::{CooperativeYield, EvaluatedAccounts, Evaluator, Subjects},
    domain::Explanation,
    replica::Consistency,
};
use request::Check;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Implements the Entitlements service.
pub struct EntitlementsApi {
    checks: Arc<Evaluator>,
}

impl EntitlementsApi {
    /// Creates the service on this evaluator.
    #[must_use]
    pub fn new(checks: Arc<Evaluator>) -> Self {
        Self { checks }
    }

    async fn check<A>(&self, check: Check<'_>) -> Result<Response<A>, Status>
    where
        A: for<'a> From<Explanation<'a>>,
    {
        let Check { subjects, question, consistency } = check;
        let evaluated = self.evaluated_accounts(subjects, &consistency).await?;
        let evaluation = self.checks.context();
        let answer = self.checks.answer(&evaluation, &evaluated, subjects, &question);
        Ok(Response::new(answer.into()))
    }

    async fn evaluated_accounts(
        &self,
        subjects: Subjects<'_>,
        consistency: &Consistency,
    ) -> Result<EvaluatedAccounts, Status> {
        self.checks.evaluated_accounts(subjects, consistency).await.map_err(response::status)
    }
}

#[tonic::async_trait]
impl pb::entitlements_server::Entitlements for EntitlementsApi {
    async fn check_feature(
        &self,
        request: Request<pb::CheckFeatureRequest>,
    ) -> Result<Response<pb::CheckFeatureResponse>, Status> {
        self.check(Check::of_feature(request.get_ref())?).await
    }

    async fn check_features(
        &self,
        request: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let questions = request::batch(&request.questions, &mut faults);
        let consistency =
            request::consistency(request.consistency.as_ref(), request.max_staleness, &mut faults);
        let questions = faults.none(questions)?;

        let subjects = questions.iter().map(|(subjects, _)| *subjects);
        let evaluated = self.checks.each(subjects, &consistency).await.map_err(response::status)?;
        let evaluation = self.checks.context();
        let (mut answers, mut yielding) =
            (Vec::with_capacity(questions.len()), CooperativeYield::default());
        // Consecutive questions often have the same subjects: these share one prepared evaluation.
        for group in questions.chunk_by(|(subjects, _), (next, _)| subjects == next) {
            let evaluated = &evaluated[answers.len()];
            if let [(subjects, question)] = group {
                let answer = self.checks.answer(&evaluation, evaluated, *subjects, question);
                answers.push(answer.into());
                yielding.answered(evaluated.items()).await;
                continue;
            }
            let prepared = evaluation.prepare(evaluated);
            for (subjects, question) in group {
                let answer = self.checks.answer_next(&prepared, &mut yielding, *subjects, question);
                answers.push(answer.await.into());
            }
        }
        Ok(Response::new(pb::CheckFeaturesResponse { answers }))
    }

    async fn check_plan(
        &self,
        request: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        self.check(Check::of_plan(request.get_ref())?).await
    }

    async fn list_entitlements(
        &self,
        request: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let subjects = request::subjects(&request.user_id, &request.organization_id, &mut faults);
        let consistency =
            request::consistency(request.consistency.as_ref(), request.max_staleness, &mut faults);
        let subjects = faults.none(subjects)?;

        let evaluated = self.evaluated_accounts(subjects, &consistency).await?;
        let evaluation = self.checks.context();
        let state = evaluation.state(&evaluated);
        let mut accounts = Vec::new();
        for alone in evaluated.each_alone() {
            accounts.push(response::account(&alone, &evaluation).await);
        }
        Ok(Response::new(pb::ListEntitlementsResponse {
            accounts,
            checked_at: response::instant(Some(state.checked_at)),
            stale_for: response::age(state.stale_for),
            revision: state.revision,
            catalog: evaluation.catalog_number(),
            freshness: pb::Freshness::from(self.checks.accounts().freshness().state()).into(),
        }))
    }
}
