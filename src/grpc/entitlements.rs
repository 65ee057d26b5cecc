//! `entitlements.v1.Entitlements`: each method parses, asks, answers.

use super::{
    answer,
    ask::{self, Faults},
    denials::Denials,
    pb,
};
use crate::{
    access::{Decision, Question},
    accounts::Need,
    checks::{Checks, Facts, Moment, Payers},
    telemetry::{Labels, Metrics, Sampler, Share},
};
use prometheus_client::metrics::counter::Counter;
use tonic::{Request, Response, Status};

/// Answers from what this replica knows.
pub struct Api {
    checks: Checks,
    /// A counter for each reason, by its number.
    counters: Vec<Option<Counter>>,
    denials: Denials,
    /// Which failures are logged: while the database is away, every check of what is not cached fails.
    failures: Sampler,
}

impl Api {
    /// Answers with these checks; logs this share of the denials.
    #[must_use]
    pub fn new(checks: Checks, metrics: &Metrics, log_denials: Option<Share>) -> Self {
        let counter = |number| {
            let reason = pb::Reason::try_from(number).ok()?.as_str_name();
            Some(metrics.checks.get_or_create_owned(&Labels([("reason", reason)])))
        };
        let last = pb::Reason::Stale as i32;
        let counters = (0..=last).map(counter).collect();
        let failures = Sampler::new(Share::PerSecond(1));
        Self { checks, counters, denials: Denials::new(log_denials), failures }
    }

    async fn facts(&self, payers: Payers<'_>, need: &Need) -> Result<Facts, Status> {
        let facts = self.checks.facts(payers, need).await;
        facts.map_err(|error| answer::status(&error, &self.failures))
    }

    fn decide<'a>(
        &self,
        moment: &'a Moment,
        facts: &'a Facts,
        payers: Payers<'_>,
        question: &Question<'_>,
    ) -> Decision<'a> {
        let decision = moment.decide(facts, question);
        self.denials.note(payers, question, &decision);
        decision
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

        let facts = self.facts(payers, &need).await?;
        let moment = self.checks.moment();
        let decision = self.decide(&moment, &facts, payers, &question);
        let response = answer::feature(decision, &moment, &facts);
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
        let facts = self.checks.each(payers, &need).await;
        let facts = facts.map_err(|error| answer::status(&error, &self.failures))?;
        let moment = self.checks.moment();
        let mut answers = Vec::with_capacity(asked.len());
        for (facts, (payers, question)) in facts.iter().zip(&asked) {
            let decision = self.decide(&moment, facts, *payers, question);
            let response = answer::feature(decision, &moment, facts);
            self.count(response.reason);
            answers.push(response);
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

        let facts = self.facts(payers, &need).await?;
        let moment = self.checks.moment();
        let decision = self.decide(&moment, &facts, payers, &question);
        let response = answer::plan(decision, &moment, &facts);
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

        let facts = self.facts(payers, &need).await?;
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
