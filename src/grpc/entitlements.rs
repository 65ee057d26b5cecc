//! `entitlements.v1.Entitlements`: each method parses, asks, answers.

use super::{
    answer,
    ask::{self, Faults},
    pb,
};
use crate::{
    access::Question,
    checks::Checks,
    telemetry::{Labels, Metrics},
};
use prometheus_client::metrics::counter::Counter;
use tonic::{Request, Response, Status};

/// Answers from what this replica knows.
pub struct Api {
    checks: Checks,
    /// A counter for each reason, by its number.
    counters: Vec<Option<Counter>>,
}

impl Api {
    /// Answers with these checks.
    #[must_use]
    pub fn new(checks: Checks, metrics: &Metrics) -> Self {
        let counter = |number| {
            let reason = pb::Reason::try_from(number).ok()?.as_str_name();
            Some(metrics.checks.get_or_create_owned(&Labels([("reason", reason)])))
        };
        let last = pb::Reason::Stale as i32;
        Self { checks, counters: (0..=last).map(counter).collect() }
    }

    fn count(&self, reason: i32) {
        let counter = usize::try_from(reason).ok().and_then(|number| self.counters.get(number));
        if let Some(Some(counter)) = counter {
            counter.inc();
        }
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

        let facts = self.checks.facts(payers, &need).await.map_err(|e| answer::status(&e))?;
        let moment = self.checks.moment();
        let response = answer::feature(&moment, &facts, &question);
        self.count(response.reason);
        Ok(Response::new(response))
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
        let facts = self.checks.each(payers, &need).await.map_err(|e| answer::status(&e))?;
        let moment = self.checks.moment();
        let decided = facts.iter().zip(&asked);
        let answers: Vec<_> = decided
            .map(|(facts, (_, question))| answer::feature(&moment, facts, question))
            .collect();
        for answer in &answers {
            self.count(answer.reason);
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

        let facts = self.checks.facts(payers, &need).await.map_err(|e| answer::status(&e))?;
        let moment = self.checks.moment();
        let response = answer::plan(&moment, &facts, &question);
        self.count(response.reason);
        Ok(Response::new(response))
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

        let facts = self.checks.facts(payers, &need).await.map_err(|e| answer::status(&e))?;
        let moment = self.checks.moment();
        let is_stale = facts.stale_for().is_some();
        let told = facts.accounts().map(|account| answer::account(account, &moment, is_stale));
        Ok(Response::new(pb::ListEntitlementsResponse {
            accounts: told.collect(),
            checked_at: answer::instant(Some(moment.now)),
            stale_for: answer::stale_for(&facts),
            revision: moment.revision(&facts),
            catalog: moment.catalog_number(),
            freshness: pb::Freshness::from(self.checks.accounts().freshness().state()).into(),
        }))
    }
}
