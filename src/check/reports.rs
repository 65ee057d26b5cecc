//! Reports for support about subjects: who holds a feature or a plan, and what another plan would change.

use super::fresh_state;
use crate::{
    domain::{
        Catalog, Explanation, InvalidSlug, Kind, PlanPreview, Question, QuestionScope, Slug,
        Subject, Target, TooLong, Verdict, decide, preview,
    },
    replica::Accounts,
    storage::{Store, StoreError},
};
use chrono::{SubsecRound, Utc};
use std::{collections::BTreeMap, sync::Arc};

/// The most accounts that one page reads; a page may be shorter than wanted.
const MAX_READ: usize = 2_000;
/// The accounts that one query reads at least.
const MIN_BATCH: usize = 100;

/// Reads the newest accounts from the database.
#[derive(Debug)]
pub struct SubjectReports {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
}

/// Why holders cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum HoldersError {
    /// The catalog does not have the feature or the plan, or there is no such scope, and no override grants it.
    #[error("is not in catalog {0}, and no override grants it: check the spelling")]
    Unknown(u64),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn is_known(question: &Question<'_>, catalog: &Catalog) -> bool {
    question.scope != QuestionScope::Unknown && catalog.knows(question.wanted)
}

/// Why a plan cannot be previewed.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The catalog does not have the plan.
    #[error("is not a plan for {0}s in catalog {1}: check the spelling")]
    UnknownPlan(Kind, u64),
    /// The catalog does not have a feature that is counted.
    #[error("names `{0}`, which catalog {1} does not have: check the spelling")]
    UnknownFeature(Slug, u64),
    /// A counted feature is not a slug.
    #[error("has a key that {0}")]
    InvalidFeature(#[from] InvalidSlug),
    /// The subject was deleted.
    #[error("was deleted by Clerk: no plan gives it anything")]
    SubjectDeleted,
    /// The slug is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SubjectReports {
    /// Creates the reports.
    #[must_use]
    pub fn new(store: Arc<Store>, accounts: Arc<Accounts>) -> Self {
        Self { store, accounts }
    }

    /// The next subjects, ordered by id, for which the answer to a question is to allow, each with its answer. Returns also
    /// the id after which the next page begins; `None`: this page is the last one.
    ///
    /// # Errors
    ///
    /// If nothing has the feature or the plan, or the database cannot be read.
    pub async fn holders<T>(
        &self,
        question: &Question<'_>,
        mut after: String,
        size: usize,
        render: impl Fn(&Subject, Explanation<'_>) -> T,
    ) -> Result<(Vec<T>, Option<String>), HoldersError> {
        let is_first = after.is_empty();
        let version = self.accounts.catalog().clone();
        let (mut holders, mut read) = (Vec::new(), 0);
        let batch = size.clamp(MIN_BATCH, MAX_READ);
        while holders.len() < size && read < MAX_READ {
            let count = i64::try_from(batch).unwrap_or(i64::MAX);
            let found = self.store.possible_holders(&version.catalog, question, &after, count);
            let found = found.await?;
            let is_last = found.len() < batch;
            read += found.len();
            let checked_at = Utc::now().trunc_subsecs(3);
            for account in &found {
                if holders.len() == size {
                    return Ok((holders, Some(after)));
                }
                after = account.subject.to_string();
                let decision = decide(&[account], &version.catalog, question, checked_at);
                if !matches!(decision.verdict, Verdict::Allowed { .. }) {
                    continue;
                }
                let state = fresh_state(account, &version, checked_at);
                holders.push(render(&account.subject, Explanation::new(decision, state)));
            }
            if is_last && is_first && holders.is_empty() && !is_known(question, &version.catalog) {
                return Err(HoldersError::Unknown(version.number));
            }
            if is_last {
                return Ok((holders, None));
            }
        }
        Ok((holders, Some(after)))
    }

    /// Previews a subject on another plan; `counts` are the numbers in use, by feature.
    ///
    /// # Errors
    ///
    /// If the catalog does not have the plan or a feature, the subject was deleted, or the database cannot be read.
    pub async fn preview(
        &self,
        subject: &Subject,
        plan: &str,
        counts: &BTreeMap<String, u64>,
    ) -> Result<PlanPreview, PreviewError> {
        let version = self.accounts.catalog().clone();
        let (catalog, number) = (&version.catalog, version.number);
        let found = catalog.plan_set(subject.kind()).find(None, Some(plan));
        let (plan, _) = found.ok_or(PreviewError::UnknownPlan(subject.kind(), number))?;
        let mut parsed = BTreeMap::new();
        for (feature, count) in counts {
            let feature = feature.parse::<Slug>()?;
            if !catalog.knows(Target::Feature(feature.as_str())) {
                return Err(PreviewError::UnknownFeature(feature, number));
            }
            parsed.insert(feature, *count);
        }
        let account = self.store.account(subject).await?;
        if account.deleted_at.is_some() {
            return Err(PreviewError::SubjectDeleted);
        }
        Ok(preview(&account, catalog, plan, &parsed, Utc::now())?)
    }
}
