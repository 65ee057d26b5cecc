//! `entitlements.v1.Entitlements`: each method parses, asks, answers.

use super::{
    answer,
    ask::{self, Faults},
    pb,
};
use crate::{
    access::Question,
    checks::{Checks, Pieces},
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Answers from what this replica knows.
pub struct Api {
    checks: Arc<Checks>,
}

impl Api {
    /// Answers what these checks decide.
    #[must_use]
    pub fn new(checks: Arc<Checks>) -> Self {
        Self { checks }
    }
}

#[tonic::async_trait]
impl pb::entitlements_server::Entitlements for Api {
    async fn check_feature(
        &self,
        request: Request<pb::CheckFeatureRequest>,
    ) -> Result<Response<pb::CheckFeatureResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let payers = ask::payers(&request.user_id, &request.organization_id, &mut faults);
        let question = ask::question("feature", Question::feature(&request.feature), &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let (payers, question) = faults.none(payers.zip(question))?;

        let facts = self.checks.facts(payers, &need).await.map_err(answer::status)?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, payers, &question);
        Ok(Response::new(answer::feature(decision, &moment, &facts)))
    }

    async fn check_features(
        &self,
        request: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let asked = ask::batch(&request.questions, &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let asked = faults.none(asked)?;

        let payers = asked.iter().map(|(payers, _)| *payers);
        let facts = self.checks.each(payers, &need).await.map_err(answer::status)?;
        let moment = self.checks.moment();
        let (mut answers, mut pieces) = (Vec::with_capacity(asked.len()), Pieces::default());
        // Questions about the same are often side by side.
        for alike in asked.chunk_by(|(payers, _), (next, _)| payers == next) {
            let facts = &facts[answers.len()];
            if let [(payers, question)] = alike {
                let decision = self.checks.decide(&moment, facts, *payers, question);
                answers.push(answer::feature(decision, &moment, facts));
                pieces.answered(facts.items()).await;
                continue;
            }
            let prepared = moment.prepare(facts);
            for (payers, question) in alike {
                let decision = self.checks.decide_next(&prepared, &mut pieces, *payers, question);
                answers.push(answer::feature(decision.await, &moment, facts));
            }
        }
        Ok(Response::new(pb::CheckFeaturesResponse { answers }))
    }

    async fn check_plan(
        &self,
        request: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let payers = ask::payers(&request.user_id, &request.organization_id, &mut faults);
        let question = ask::question("plan", Question::plan(&request.plan), &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let (payers, question) = faults.none(payers.zip(question))?;

        let facts = self.checks.facts(payers, &need).await.map_err(answer::status)?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, payers, &question);
        Ok(Response::new(answer::plan(decision, &moment, &facts)))
    }

    async fn list_entitlements(
        &self,
        request: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let payers = ask::payers(&request.user_id, &request.organization_id, &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let payers = faults.none(payers)?;

        let facts = self.checks.facts(payers, &need).await.map_err(answer::status)?;
        let moment = self.checks.moment();
        let is_stale = facts.stale_for().is_some();
        let mut accounts = Vec::new();
        for account in facts.accounts() {
            accounts.push(answer::account(account, &moment, is_stale).await);
        }
        Ok(Response::new(pb::ListEntitlementsResponse {
            accounts,
            checked_at: answer::instant(Some(moment.now)),
            stale_for: answer::stale_for(&facts),
            revision: moment.revision(&facts),
            catalog: moment.catalog_number(),
            freshness: pb::Freshness::from(self.checks.accounts().freshness().state()).into(),
        }))
    }
}
