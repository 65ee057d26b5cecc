//! `entitlements.v1.Entitlements`: each method parses, asks, answers.

use super::{
    answer::{self, Basis},
    ask::{self, Faults},
    pb,
};
use crate::{
    access::{self, Account, Decision, Grace, Question, Revision, Subject},
    accounts::{Accounts, Need},
    store::Version,
    telemetry::{Labels, Metrics},
};
use chrono::{DateTime, Utc};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// Answers from what this replica knows.
pub struct Api {
    accounts: Arc<Accounts>,
    grace: Grace,
    metrics: Arc<Metrics>,
}

/// The facts that answers are decided from, and the instant at which they are.
struct Facts {
    catalog: Arc<Version>,
    accounts: BTreeMap<Subject, Arc<Account>>,
    now: DateTime<Utc>,
    stale_for: Option<Duration>,
}

impl Facts {
    /// What the answers about these subjects are based on.
    fn basis(&self, subjects: &[Subject]) -> Basis {
        let catalog = Revision::of_catalog(self.catalog.number);
        let revision = subjects.iter().fold(catalog, |revision, subject| {
            revision.and(subject, self.accounts[subject].revision)
        });
        Basis { revision: revision.to_string(), now: self.now, stale_for: self.stale_for }
    }
}

impl Api {
    /// Decides with this grace.
    #[must_use]
    pub fn new(accounts: Arc<Accounts>, grace: Grace, metrics: Arc<Metrics>) -> Self {
        Self { accounts, grace, metrics }
    }

    /// Reads each subject once.
    async fn facts(&self, subjects: &[Subject], need: &Need) -> Result<Facts, Status> {
        let unavailable = |error| answer::status(&error);
        let catalog = self.accounts.catalog_for(need).await.map_err(unavailable)?;
        let (mut accounts, mut stale_for) = (BTreeMap::new(), None);
        for subject in subjects {
            if !accounts.contains_key(subject) {
                let known = self.accounts.get(subject, need).await.map_err(unavailable)?;
                stale_for = stale_for.max(known.stale_for);
                accounts.insert(subject.clone(), known.account);
            }
        }
        Ok(Facts { catalog, accounts, now: Utc::now(), stale_for })
    }

    fn decide(&self, facts: &Facts, subjects: &[Subject], question: &Question) -> Decision {
        let accounts: Vec<&Account> =
            subjects.iter().map(|subject| &*facts.accounts[subject]).collect();
        let catalog = &facts.catalog.catalog;
        let decision = access::decide(&accounts, catalog, self.grace, question, facts.now);
        match facts.stale_for {
            Some(_) => decision.although_stale(catalog, &question.wanted),
            None => decision,
        }
    }

    fn count(&self, reason: i32) {
        let reason = pb::Reason::try_from(reason).unwrap_or_default().as_str_name();
        self.metrics.checks.get_or_create(&Labels([("reason", reason)])).inc();
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
        let subjects = ask::subjects("", &request.user_id, &request.organization_id, &mut faults);
        let question =
            ask::question("feature".into(), Question::feature(&request.feature), &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let (subjects, question) = faults.none(subjects.zip(question))?;

        let facts = self.facts(&subjects, &need).await?;
        let decision = self.decide(&facts, &subjects, &question);
        let response = answer::feature(decision, facts.basis(&subjects));
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

        let all: Vec<Subject> = asked.iter().flat_map(|(subjects, _)| subjects.clone()).collect();
        let facts = self.facts(&all, &need).await?;
        let mut answers = Vec::with_capacity(asked.len());
        for (subjects, question) in &asked {
            let decision = self.decide(&facts, subjects, question);
            let response = answer::feature(decision, facts.basis(subjects));
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
        let subjects = ask::subjects("", &request.user_id, &request.organization_id, &mut faults);
        let question = ask::question("plan".into(), Question::plan(&request.plan), &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let (subjects, question) = faults.none(subjects.zip(question))?;

        let facts = self.facts(&subjects, &need).await?;
        let decision = self.decide(&facts, &subjects, &question);
        let response = answer::plan(decision, facts.basis(&subjects));
        self.count(response.reason);
        Ok(Response::new(response))
    }

    async fn list_entitlements(
        &self,
        request: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::default();
        let subjects = ask::subjects("", &request.user_id, &request.organization_id, &mut faults);
        let need = ask::need(request.consistency, request.max_staleness, &mut faults);
        let subjects = faults.none(subjects)?;

        let facts = self.facts(&subjects, &need).await?;
        let told = subjects.iter().map(|subject| {
            let account = &facts.accounts[subject];
            let is_stale = facts.stale_for.is_some();
            answer::account(account, &facts.catalog.catalog, self.grace, facts.now, is_stale)
        });
        let basis = facts.basis(&subjects);
        Ok(Response::new(pb::ListEntitlementsResponse {
            accounts: told.collect(),
            checked_at: basis.checked_at(),
            stale_for: basis.stale_for(),
            revision: basis.revision,
            catalog: facts.catalog.number,
            freshness: pb::Freshness::from(self.accounts.freshness().state()).into(),
        }))
    }
}
