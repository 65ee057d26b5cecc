//! `entitlements.v1.Entitlements`: each method parses, asks, answers.

pub(super) mod request;
pub(super) mod response;

use super::pb;
use crate::{
    check::{Checks, Pieces},
    domain::Question,
};
use request::Faults;
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
        let payers = request::payers(&request.user_id, &request.organization_id, &mut faults);
        let question =
            request::question("feature", Question::feature(&request.feature), &mut faults);
        let need = request::need(request.consistency, request.max_staleness, &mut faults);
        let (payers, question) = faults.none(payers.zip(question))?;

        let facts = self.checks.facts(payers, &need).await.map_err(response::status)?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, payers, &question);
        Ok(Response::new(response::feature(decision, &moment, &facts)))
    }

    async fn check_features(
        &self,
        request: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let asked = request::batch(&request.questions, &mut faults);
        let need = request::need(request.consistency, request.max_staleness, &mut faults);
        let asked = faults.none(asked)?;

        let payers = asked.iter().map(|(payers, _)| *payers);
        let facts = self.checks.each(payers, &need).await.map_err(response::status)?;
        let moment = self.checks.moment();
        let (mut answers, mut pieces) = (Vec::with_capacity(asked.len()), Pieces::default());
        // Questions about the same are often side by side.
        for alike in asked.chunk_by(|(payers, _), (next, _)| payers == next) {
            let facts = &facts[answers.len()];
            if let [(payers, question)] = alike {
                let decision = self.checks.decide(&moment, facts, *payers, question);
                answers.push(response::feature(decision, &moment, facts));
                pieces.answered(facts.items()).await;
                continue;
            }
            let prepared = moment.prepare(facts);
            for (payers, question) in alike {
                let decision = self.checks.decide_next(&prepared, &mut pieces, *payers, question);
                answers.push(response::feature(decision.await, &moment, facts));
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
        let payers = request::payers(&request.user_id, &request.organization_id, &mut faults);
        let question = request::question("plan", Question::plan(&request.plan), &mut faults);
        let need = request::need(request.consistency, request.max_staleness, &mut faults);
        let (payers, question) = faults.none(payers.zip(question))?;

        let facts = self.checks.facts(payers, &need).await.map_err(response::status)?;
        let moment = self.checks.moment();
        let decision = self.checks.decide(&moment, &facts, payers, &question);
        Ok(Response::new(response::plan(decision, &moment, &facts)))
    }

    async fn list_entitlements(
        &self,
        request: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let payers = request::payers(&request.user_id, &request.organization_id, &mut faults);
        let need = request::need(request.consistency, request.max_staleness, &mut faults);
        let payers = faults.none(payers)?;

        let facts = self.checks.facts(payers, &need).await.map_err(response::status)?;
        let moment = self.checks.moment();
        let is_stale = facts.stale_for().is_some();
        let mut accounts = Vec::new();
        for account in facts.accounts() {
            accounts.push(response::account(account, &moment, is_stale).await);
        }
        Ok(Response::new(pb::ListEntitlementsResponse {
            accounts,
            checked_at: response::instant(Some(moment.now)),
            stale_for: response::stale_for(&facts),
            revision: moment.revision(&facts),
            catalog: moment.catalog_number(),
            freshness: pb::Freshness::from(self.checks.accounts().freshness().state()).into(),
        }))
    }
}
