//! Sets and ends overrides, by the rules of the catalog in force, and computes what changes for the subject.

use super::fresh_state;
use crate::{
    domain::{
        Account, Amount, Catalog, Effect, Explanation, OverrideId, OverrideRecord,
        PreparedAccounts, Question, Revision, Slug, Subject, Target, Until,
    },
    replica::Accounts,
    storage::{
        CatalogVersion, ChangeConditions, ChangedOverride, EndOverride, NewOverride,
        OverrideFilter, OverrideOutcome, OverrideRejection, Store, StoreError,
    },
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use std::{collections::BTreeSet, sync::Arc};

/// How far the clock of a caller may be off: an override that starts this long ago starts now.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Sets, ends and lists overrides.
#[derive(Debug)]
pub struct OverrideEditor {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    /// The longest time for which an override may be in force unless it is permanent; `None`: any time.
    longest: Option<TimeDelta>,
}

/// An override that was changed, or would be, with its effect.
#[derive(Debug)]
pub struct EditedOverride {
    /// The record.
    pub record: OverrideRecord,
    /// The token for the state with the change.
    pub revision: String,
    accounts: Option<[Account; 2]>,
    version: Arc<CatalogVersion>,
    at: DateTime<Utc>,
}

/// The answers about one feature before and after a change.
#[derive(Debug)]
pub struct AnswerDifference<'a> {
    /// The feature.
    pub feature: Slug,
    /// The answer without the change.
    pub before: Explanation<'a>,
    /// The answer with the change.
    pub after: Explanation<'a>,
}

/// A fault of a new override.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideFault {
    /// The catalog does not have the feature or the plan.
    #[error(
        "is not in catalog {0}: check the spelling; a name that a later catalog will have needs `allow_unknown` (on the command line: --unknown)"
    )]
    Unknown(u64),
    /// The feature has a scope, which overrides do not have.
    #[error("must be without a scope: `subject` says whose feature it is")]
    Scoped,
    /// No plan limits the feature.
    #[error("is a limit, and no plan limits the feature: leave it out")]
    NoLimit,
    /// A plan limits the feature.
    #[error("is required, because plans limit the feature: `at_least`, `exactly` or `unlimited`")]
    LimitMissing,
    /// The override starts in the past.
    #[error("is in the past: leave it out to start now")]
    StartsInPast,
    /// The override would already be over.
    #[error("is in the past")]
    ExpiresInPast,
    /// The end is not after the start.
    #[error("is not after `starts_at`")]
    EndsBeforeStart,
    /// The override is too long.
    #[error(
        "is more than {0} after the start, which ENTITLEMENTS_OVERRIDES_LONGEST forbids: choose an earlier end, or `permanent`"
    )]
    TooLong(String),
}

/// Why an override cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    /// A field of the request is wrong.
    #[error("{0}: {1}")]
    Invalid(&'static str, OverrideFault),
    /// The state of the subject or of the override forbids it.
    #[error(transparent)]
    Rejected(OverrideRejection),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OverrideEditor {
    /// Creates the editor.
    #[must_use]
    pub fn new(store: Arc<Store>, accounts: Arc<Accounts>, longest: Option<TimeDelta>) -> Self {
        Self { store, accounts, longest }
    }

    /// Sets an override. `allow_unknown` accepts a feature or a plan that the catalog lacks.
    ///
    /// # Errors
    ///
    /// If a field is wrong, the state forbids it, or the database cannot be used.
    pub async fn set(
        &self,
        mut new: NewOverride,
        allow_unknown: bool,
        conditions: &ChangeConditions,
    ) -> Result<EditedOverride, OverrideError> {
        let version = self.accounts.catalog().clone();
        let now = Utc::now();
        // A retry is answered as before, even if it would be refused now.
        let is_repeated = self.store.is_repeated(&new).await?.map_err(OverrideError::Rejected)?;
        if !is_repeated {
            check_target(&new, &version, allow_unknown)?;
            self.check_times(&new, now)?;
        }
        new.from = new.from.filter(|from| *from > now);
        let outcome = self.store.set_override(&new, conditions).await?;
        let changed = self.invalidate(outcome, conditions)?;
        let at = changed.record.found.begins_at().max(changed.record.found.set_at);
        Ok(EditedOverride::new(changed, version, at))
    }

    fn check_times(&self, new: &NewOverride, now: DateTime<Utc>) -> Result<(), OverrideError> {
        let invalid = |field, fault| Err(OverrideError::Invalid(field, fault));
        if new.from.is_some_and(|from| from < now - MAX_CLOCK_SKEW) {
            return invalid("override.starts_at", OverrideFault::StartsInPast);
        }
        let Until::Instant(until) = new.until else { return Ok(()) };
        if until <= now {
            return invalid("override.expires_at", OverrideFault::ExpiresInPast);
        }
        let from = new.from.unwrap_or(now).max(now);
        if until <= from {
            return invalid("override.expires_at", OverrideFault::EndsBeforeStart);
        }
        match self.longest {
            Some(longest) if until - from > longest + MAX_CLOCK_SKEW => {
                invalid("override.expires_at", OverrideFault::TooLong(in_days(longest)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Ends an override before its time.
    ///
    /// # Errors
    ///
    /// If the state forbids it, or the database cannot be used.
    pub async fn end(
        &self,
        end: &EndOverride,
        conditions: &ChangeConditions,
    ) -> Result<EditedOverride, OverrideError> {
        let version = self.accounts.catalog().clone();
        let outcome = self.store.end_override(end, conditions).await?;
        let changed = self.invalidate(outcome, conditions)?;
        let at = changed.record.end.as_ref().map_or_else(Utc::now, |end| end.at);
        let at = at.max(changed.record.found.begins_at());
        Ok(EditedOverride::new(changed, version, at))
    }

    /// This replica follows the change at once; the others follow the change log.
    fn invalidate(
        &self,
        outcome: OverrideOutcome,
        conditions: &ChangeConditions,
    ) -> Result<ChangedOverride, OverrideError> {
        let changed = outcome.map_err(OverrideError::Rejected)?;
        if !conditions.dry_run {
            self.accounts.invalidate(&changed.record.subject);
        }
        Ok(changed)
    }

    /// The token for the newest state of a subject.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn revision(&self, subject: &Subject) -> Result<String, StoreError> {
        let revision = self.store.revision(subject).await?;
        Ok(Revision::token(self.accounts.catalog().state(), [(subject, revision)]))
    }

    /// Some overrides, the newest first, before one that was listed already.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn list(
        &self,
        filter: &OverrideFilter,
        before: Option<OverrideId>,
        count: i64,
    ) -> Result<Vec<OverrideRecord>, StoreError> {
        self.store.overrides(filter, before, count).await
    }
}

/// A duration, in days if it is a number of whole days.
fn in_days(duration: TimeDelta) -> String {
    match duration.num_days() {
        days if TimeDelta::days(days) == duration => format!("{days} days"),
        _ => humantime::format_duration(duration.to_std().unwrap_or_default()).to_string(),
    }
}

/// Whether the catalog has the target, and limits the feature as the override says.
fn check_target(
    new: &NewOverride,
    version: &CatalogVersion,
    allow_unknown: bool,
) -> Result<(), OverrideError> {
    let catalog = &version.catalog;
    let unknown = OverrideFault::Unknown(version.number);
    if let Some(plan) = new.effect.plan() {
        let plans = catalog.plan_set(new.subject.kind());
        return match plans.find(None, Some(plan.as_str())) {
            None if !allow_unknown => Err(OverrideError::Invalid("override.plan", unknown)),
            Some(_) | None => Ok(()),
        };
    }
    let Some(feature) = new.effect.feature() else { return Ok(()) };
    if feature.as_str().contains(':') {
        return Err(OverrideError::Invalid("override.feature", OverrideFault::Scoped));
    }
    match (catalog.knows(Target::Feature(feature.as_str())), allow_unknown) {
        (true, _) => check_amount(&new.effect, catalog),
        (false, true) => Ok(()),
        (false, false) => Err(OverrideError::Invalid("override.feature", unknown)),
    }
}

fn check_amount(effect: &Effect, catalog: &Catalog) -> Result<(), OverrideError> {
    let fault = match effect {
        Effect::GrantFeature(feature, amount) => match (amount, catalog.limits(feature.as_str())) {
            (Amount::Plain, true) => OverrideFault::LimitMissing,
            (Amount::AtLeast(_) | Amount::Exactly(_), false) => OverrideFault::NoLimit,
            (Amount::Plain | Amount::Unlimited, false)
            | (Amount::AtLeast(_) | Amount::Exactly(_) | Amount::Unlimited, true) => {
                return Ok(());
            }
        },
        Effect::DenyFeature(_) | Effect::DenyPlan(_) | Effect::GrantPlan(_) => return Ok(()),
    };
    Err(OverrideError::Invalid("override.grant", fault))
}

impl EditedOverride {
    fn new(changed: ChangedOverride, version: Arc<CatalogVersion>, at: DateTime<Utc>) -> Self {
        let ChangedOverride { record, accounts, revision } = changed;
        let revision = Revision::token(version.state(), [(&record.subject, revision)]);
        Self { record, revision, accounts, version, at: at.trunc_subsecs(3) }
    }

    /// Renders the answers that change, each about the subject alone, as of the beginning or the end of the override.
    /// None for a retry of a request that is so old that its history was removed.
    pub fn differences<T>(&self, render: impl Fn(AnswerDifference<'_>) -> T) -> Vec<T> {
        let Some([before, after]) = &self.accounts else { return Vec::new() };
        let catalog = &self.version.catalog;
        let features: BTreeSet<_> =
            before.features(catalog).into_iter().chain(after.features(catalog)).collect();
        let prepared = [before, after].map(|account| PreparedAccounts::new([account], catalog));
        let mut differences = Vec::new();
        for feature in features {
            let question = Question::of(feature);
            let [then, now] = [0, 1].map(|which| prepared[which].decide(&question, self.at));
            if then == now {
                continue;
            }
            differences.push(render(AnswerDifference {
                feature: feature.clone(),
                before: Explanation::new(then, fresh_state(before, &self.version, self.at)),
                after: Explanation::new(now, fresh_state(after, &self.version, self.at)),
            }));
        }
        differences
    }
}
