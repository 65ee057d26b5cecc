//! The grant and denial candidates at one instant: the best one decides. Also when that may change.

use super::Verdict;
use crate::domain::{Account, Denial, Grant, OverrideId, Until};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;

/// The best grant candidate and the best denial candidate of those added so far.
#[derive(Default)]
pub(super) struct Candidates<'a> {
    pub best: Option<GrantCandidate<'a>>,
    pub denial: Option<DenialCandidate<'a>>,
    /// Whether another grant would become the best if the reason of the best got worse.
    is_contested: bool,
    /// Whether a grant has no limit, which counts as the largest; else the largest limit; and until when it is granted.
    reach: Option<(bool, Option<u64>, Until)>,
    /// The newest override that sets the limit exactly, with its age.
    exact: Option<((DateTime<Utc>, OverrideId), GrantCandidate<'a>)>,
    /// Until when overrides deny.
    denied_until: Option<Until>,
    /// When the first override or default plan begins.
    begins: Option<Until>,
}

/// An item, a default plan or an override that grants.
#[derive(Clone, Copy)]
pub(super) struct GrantCandidate<'a> {
    pub reason: Grant,
    pub until: Until,
    /// Until when it grants for this `reason`; later it may grant for another one until `until`.
    pub steady_until: Until,
    pub account: &'a Account,
    pub plan: Option<&'a str>,
    pub limit: Option<u64>,
}

/// A reason to deny, with the account and the plan that it comes from.
#[derive(Clone, Copy)]
pub(super) struct DenialCandidate<'a> {
    pub reason: Denial,
    pub account: &'a Account,
    pub plan: Option<&'a str>,
}

impl<'a> Candidates<'a> {
    pub fn grants(&mut self, found: GrantCandidate<'a>) {
        self.reach = self.reach.max(Some((found.limit.is_none(), found.limit, found.until)));
        let Some(best) = &mut self.best else {
            self.best = Some(found);
            return;
        };
        let is_peer = found.lasts() == best.lasts();
        let is_same = is_peer && found.is_of(best);
        if found.rank() > best.rank() {
            self.is_contested = is_peer && (self.is_contested || !is_same);
            self.best = Some(found);
        } else if is_same && found.reason == best.reason {
            best.steady_until = best.steady_until.max(found.steady_until);
        } else if is_peer && !is_same {
            self.is_contested = true;
        }
    }

    /// Adds an override that sets the limit exactly. The newest one counts.
    pub fn sets(&mut self, age: (DateTime<Utc>, OverrideId), found: GrantCandidate<'a>) {
        self.grants(found);
        if self.exact.as_ref().is_none_or(|(newest, _)| age > *newest) {
            self.exact = Some((age, found));
        }
    }

    /// The override that sets the limit exactly.
    pub fn exact(&self) -> Option<&GrantCandidate<'a>> {
        self.exact.as_ref().map(|(_, found)| found)
    }

    pub fn refuses(&mut self, reason: Denial, account: &'a Account, plan: Option<&'a str>) {
        if self.denial.is_none_or(|denial| reason > denial.reason) {
            self.denial = Some(DenialCandidate { reason, account, plan });
        }
    }

    /// Adds an override that denies.
    pub fn denies(&mut self, account: &'a Account, until: Until) {
        self.denied_until = self.denied_until.max(Some(until));
        self.refuses(Denial::OverrideDenies, account, None);
    }

    /// Adds an override or a default plan that begins at an instant.
    pub fn begins(&mut self, at: Until) {
        self.begins = Some(self.begins.map_or(at, |begins| begins.min(at)));
    }

    /// The exact limit, else the largest limit of all grants; `None`: one of them has no limit.
    pub fn limit(&self) -> Option<u64> {
        let largest = || self.reach.and_then(|(_, limit, _)| limit);
        self.exact().map_or_else(largest, |found| found.limit)
    }

    /// The next instant at which the verdict may change. While the best candidate grants, the end of another one
    /// changes nothing, unless that is the last one with the largest limit.
    pub fn next_change(&self) -> Until {
        if let Some(until) = self.denied_until {
            return until;
        }
        if let Some(exact) = self.exact() {
            return self.begins.map_or(exact.until, |begins| begins.min(exact.until));
        }
        let best = self.best.as_ref();
        let ends =
            best.map(|found| if self.is_contested { found.steady_until } else { found.until });
        let falls = self.reach.map(|(.., until)| until);
        [ends, falls, self.begins].into_iter().flatten().min().unwrap_or(Until::Forever)
    }
}

impl<'a> GrantCandidate<'a> {
    /// A grant whose reason stays the same until its end.
    pub fn steady(
        reason: Grant,
        account: &'a Account,
        plan: Option<&'a str>,
        limit: Option<u64>,
        until: Until,
    ) -> Self {
        Self { reason, until, steady_until: until, account, plan, limit }
    }

    /// Overrides are first, then the grant that lasts longest. The other parts only make the order total.
    fn rank(&self) -> impl Ord + use<'a> {
        let unlimited = self.limit.is_none();
        (self.lasts(), self.reason, unlimited, self.limit, Reverse(self.plan))
    }

    /// The part of the rank that time does not change.
    fn lasts(&self) -> (bool, Until) {
        (self.reason == Grant::OverrideGrants, self.until)
    }

    /// Whether both come from the same plan, or both from overrides, of the same account.
    fn is_of(&self, other: &Self) -> bool {
        self.plan == other.plan && std::ptr::eq(self.account, other.account)
    }

    pub fn allows(&self, limit: Option<u64>, is_exact: bool) -> Verdict<'a> {
        let (reason, subject, plan) = (self.reason, &self.account.subject, self.plan);
        Verdict::Allowed { reason, subject, plan, limit, is_exact }
    }
}

impl<'a> From<DenialCandidate<'a>> for Verdict<'a> {
    fn from(found: DenialCandidate<'a>) -> Self {
        let (reason, subject) = (found.reason, Some(&found.account.subject));
        Self::Denied { reason, subject, plan: found.plan }
    }
}
