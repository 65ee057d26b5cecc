//! Property tests of decisions on generated accounts.

use super::{item, org, user, with_grace};
use crate::domain::*;
use chrono::{DateTime, Duration, Utc};
use proptest::{collection::vec, option, prelude::*, sample::select};

const STATUSES: [&str; 10] = [
    "active",
    "past_due",
    "canceled",
    "ended",
    "expired",
    "abandoned",
    "upcoming",
    "incomplete",
    "paused",
    "active",
];
const PLANS: [&str; 6] = ["free", "pro", "max", "team", "gold", "pro"];
pub(super) const FEATURES: [&str; 9] = [
    "reports",
    "export",
    "assistant",
    "projects",
    "sso",
    "nothing",
    "user:export",
    "org:sso",
    "x:sso",
];

pub(super) fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    (0..60i64).prop_map(|day| super::at("2026-01-01") + Duration::days(day))
}

prop_compose! {
    pub(super) fn an_item()(
        plan in option::weighted(0.9, select(&PLANS[..])),
        status in select(&STATUSES[..]),
        free_trial: bool,
        period_start in option::of(instant()),
        period_end in option::of(instant()),
        canceled_at in option::weighted(0.2, instant()),
        past_due_at in option::of(instant()),
        updated_at in instant(),
        seats in option::weighted(0.2, option::of(any::<u64>()).prop_map(Seats)),
        plan_id in option::of("cplan_[a-z]{3}"),
        was_active: bool,
    ) -> Item {
        let base = item(plan.unwrap_or("free"));
        let (plan, plan_id) = (plan.and(base.plan), plan_id.map(Into::into));
        let status = status.into();
        Item {
            plan, plan_id, status, free_trial, period_start, period_end, canceled_at, past_due_at, was_active, seats,
            updated_at, ..base
        }
    }
}

fn an_amount() -> impl Strategy<Value = Amount> {
    let limit = || 0..50u64;
    prop_oneof![
        1 => Just(Amount::Plain),
        1 => Just(Amount::Unlimited),
        1 => limit().prop_map(Amount::AtLeast),
        2 => limit().prop_map(Amount::Exactly),
    ]
}

fn an_effect() -> impl Strategy<Value = Effect> {
    let feature = || select(&FEATURES[2..5]).prop_map(|slug| slug.parse().unwrap());
    let plan = || select(&PLANS[..]).prop_map(|slug| slug.parse().unwrap());
    prop_oneof![
        2 => feature().prop_map(Effect::DenyFeature),
        4 => (feature(), an_amount()).prop_map(|(feature, amount)| Effect::GrantFeature(feature, amount)),
        1 => plan().prop_map(Effect::DenyPlan),
        2 => plan().prop_map(Effect::GrantPlan),
    ]
}

prop_compose! {
    pub(super) fn an_override()(
        effect in an_effect(),
        starts in option::of(instant()),
        lasts in option::of(1..40i64),
        set_at in instant(),
        id in any::<u64>(),
    ) -> Override {
        let from = starts.unwrap_or(set_at);
        let until = lasts.map_or(Until::Forever, |days| Until::Instant(from + Duration::days(days)));
        Override { id: OverrideId(uuid::Uuid::from_u64_pair(0, id)), effect, from: starts, until, set_at }
    }
}

prop_compose! {
    pub(super) fn an_account()(
        items in vec(an_item(), 0..4),
        overrides in vec(an_override(), 0..5),
        is_org: bool,
        deleted_at in option::weighted(0.1, instant()),
    ) -> Account {
        let account = if is_org { org(items) } else { user(items) };
        Account { overrides: overrides.into(), deleted_at, ..account }
    }
}

prop_compose! {
    pub(super) fn a_catalog()(
        past_due in option::of(0..9i64), renewal in option::of(0..9i64), trial in 0..9i64,
    ) -> Catalog {
        let [past_due, renewal] = [past_due, renewal].map(|days| days.map(Duration::days));
        with_grace(Grace { past_due, renewal, trial: Duration::days(trial) })
    }
}

fn ask<'a>(
    accounts: &'a [Account],
    catalog: &'a Catalog,
    feature: &str,
    now: DateTime<Utc>,
) -> Decision<'a> {
    let accounts: Vec<_> = accounts.iter().collect();
    decide(&accounts, catalog, &Question::feature(feature).unwrap(), now)
}

/// The subject, plan and limit of a grant. The reason is left out, because it may be refined.
pub(super) fn grant_of<'a>(
    verdict: &Verdict<'a>,
) -> Option<(&'a Subject, Option<&'a str>, Option<u64>)> {
    match *verdict {
        Verdict::Allowed { subject, plan, limit, .. } => Some((subject, plan, limit)),
        Verdict::Denied { .. } => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1_000)))]

    /// Packing items loses nothing.
    #[test]
    fn items_come_out_as_they_went_in(items in vec(an_item(), 0..5), id in "[ -~]{1,128}") {
        let items: Vec<_> = items.into_iter().map(|item| Item { id: (&*id).into(), ..item }).collect();
        let packed = PackedItems::pack(items.iter().cloned()).unwrap();
        let unpacked: Vec<_> = packed.iter().collect();
        prop_assert_eq!(format!("{unpacked:?}"), format!("{items:?}"));
    }

    /// An answer is valid before `valid_until`, and not at it.
    #[test]
    fn an_answer_is_valid_exactly_until_its_valid_until(
        accounts in vec(an_account(), 1..3), catalog in a_catalog(),
        feature in select(&FEATURES[..]), now in instant(), later in 0..100i64,
    ) {
        let decision = ask(&accounts, &catalog, feature, now);
        let then = now + Duration::hours(later * 12);
        let at_then = ask(&accounts, &catalog, feature, then);
        if let Some(until) = decision.valid_until {
            prop_assert!(until > now);
            let at_end = ask(&accounts, &catalog, feature, until);
            prop_assert_ne!(grant_of(&at_end.verdict), grant_of(&decision.verdict));
            let just_before = ask(&accounts, &catalog, feature, until - Duration::milliseconds(1));
            prop_assert_eq!(grant_of(&just_before.verdict), grant_of(&decision.verdict));
        }
        if decision.valid_until.is_none_or(|until| then < until) {
            prop_assert_eq!(grant_of(&at_then.verdict), grant_of(&decision.verdict));
        }
    }

    /// A subject that holds a plan that the catalog lacks may do at least what a subject without any item may do.
    #[test]
    fn an_unknown_plan_never_gives_less_than_the_default_plan(
        account in an_account(), catalog in a_catalog(), feature in select(&FEATURES[..]), now in instant(),
    ) {
        let without_items = [Account { items: PackedItems::default(), ..account.clone() }];
        let account = [account];
        let least = ask(&without_items, &catalog, feature, now);
        let has_unknown_plan = account[0].default_plan(&catalog, now).is_some();
        if let (Verdict::Allowed { .. }, true) = (least.verdict, has_unknown_plan) {
            let found = ask(&account, &catalog, feature, now);
            let is_allowed = matches!(found.verdict, Verdict::Allowed { .. });
            prop_assert!(is_allowed, "{:?}", found.verdict);
        }
    }

    /// Only known-good statuses of known plans, default plans and overrides ever grant.
    #[test]
    fn only_live_items_default_plans_and_overrides_grant(
        accounts in vec(an_account(), 1..3), catalog in a_catalog(),
        feature in select(&FEATURES[..]), now in instant(),
    ) {
        let decision = ask(&accounts, &catalog, feature, now);
        if let Verdict::Allowed { reason, subject, plan, .. } = decision.verdict {
            let account = accounts.iter().find(|a| a.subject == *subject).unwrap();
            let kind = subject.kind();
            prop_assert!(accounts.iter().filter(|a| a.subject == *subject).any(|a| a.deleted_at.is_none()));
            match (reason, plan) {
                (Grant::OverrideGrants, plan) => {
                    let grants = |o: &Override| match (&o.effect, plan) {
                        (Effect::GrantFeature(..), None) => true,
                        (Effect::GrantPlan(slug), Some(plan)) => slug.as_str() == plan,
                        _ => false,
                    };
                    let of_subject = accounts.iter().filter(|a| a.subject == *subject);
                    let mut overrides = of_subject.flat_map(|account| &account.overrides);
                    prop_assert!(overrides.any(|o| o.is_in_force(now) && grants(o)));
                }
                (Grant::DefaultForUnknownPlan, plan) => {
                    let plans = catalog.plan_set(kind);
                    prop_assert_eq!(plan, plans.default_plan.as_ref().map(Slug::as_str));
                    let is_unknown = |i: &Item<&str>| plans.find(i.plan_id, i.plan).is_none();
                    let of_subject = accounts.iter().filter(|a| a.subject == *subject);
                    prop_assert!(of_subject.flat_map(|a| a.items.iter()).any(|i| is_unknown(&i)));
                }
                (Grant::DefaultPlan, plan) => {
                    let default = catalog.plan_set(kind).default_plan.as_ref();
                    prop_assert_eq!(plan, default.map(Slug::as_str));
                }
                (_, Some(plan)) => {
                    prop_assert!(catalog.plan_set(kind).plans.contains_key(plan));
                    let held = |a: &Account| a.items.iter().any(|i| i.plan == Some(plan)
                        && matches!(i.status, Status::Active | Status::PastDue | Status::Canceled));
                    prop_assert!(accounts.iter().filter(|a| a.subject == account.subject).any(held));
                }
                (reason, None) => prop_assert!(false, "{reason:?} without a plan"),
            }
        }
    }

    /// Uniting the lists of a user and an organization, without what either denies, gives what a check of both allows.
    #[test]
    fn the_lists_of_both_without_their_denials_are_what_a_check_allows(
        one in an_account(), other in an_account(), catalog in a_catalog(), now in instant(), later in 0..100i64,
    ) {
        let accounts = [one, other];
        for feature in &FEATURES[..6] {
            let is_it = |entry: &Entitlement<'_>| entry.feature.as_str() == *feature;
            let parts = accounts.each_ref().map(|account| {
                let allowed = entitlements(account, &catalog, now).into_iter().find(is_it);
                let denied = denials(account, &catalog, now).into_iter().find(is_it);
                (allowed.map(|entry| entry.decision), denied.map(|entry| entry.decision))
            });
            let is_denied = parts.iter().any(|(_, denied)| denied.is_some());
            let allowed: Vec<_> = parts.iter().filter_map(|(allowed, _)| *allowed).collect();
            let answer = |at| grant_of(&ask(&accounts, &catalog, feature, at).verdict).map(|(_, _, limit)| limit);
            let is_allowed = !is_denied && !allowed.is_empty();
            prop_assert_eq!(answer(now).is_some(), is_allowed, "{}", feature);
            let limits = |exact: bool| allowed.iter().filter_map(move |decision| match decision.verdict {
                Verdict::Allowed { limit, is_exact, .. } if is_exact == exact => Some(limit),
                _ => None,
            });
            let exact: Vec<_> = limits(true).collect();
            let largest = limits(false).max_by_key(|limit| (limit.is_none(), *limit));
            // Of two exact limits, the lists do not tell which one is newer.
            if is_allowed && exact.len() < 2 {
                prop_assert_eq!(answer(now), exact.first().copied().or(largest));
            }
            // While the entries of both hold, so does the answer.
            let entries: Vec<_> = parts.iter().filter_map(|(allowed, denied)| allowed.or(*denied)).collect();
            let until = entries.iter().filter_map(|entry| entry.valid_until).min();
            let then = now + Duration::hours(later * 12);
            if entries.len() == 2 && until.is_none_or(|until| then < until) && exact.len() < 2 {
                prop_assert_eq!(answer(then), answer(now), "{} at {}", feature, then);
            }
        }
    }

    /// A user and an organization together have the union of their features, unless an override denies one.
    #[test]
    fn an_unscoped_question_is_the_union_of_the_scoped_ones(
        items in vec(an_item(), 0..4), others in vec(an_item(), 0..4), catalog in a_catalog(),
        feature in select(&FEATURES[..6]), now in instant(),
    ) {
        let accounts = [user(items), org(others)];
        let allowed = |feature: &str| grant_of(&ask(&accounts, &catalog, feature, now).verdict).is_some();
        let either = allowed(&format!("user:{feature}")) || allowed(&format!("org:{feature}"));
        prop_assert_eq!(allowed(feature), either);
    }

    /// The order of items does not matter.
    #[test]
    fn the_order_of_items_does_not_matter(
        items in vec(an_item(), 0..5), catalog in a_catalog(),
        feature in select(&FEATURES[..]), now in instant(),
    ) {
        let reversed: Vec<_> = items.iter().rev().cloned().collect();
        let (items, reversed) = ([user(items)], [user(reversed)]);
        let (one, other) = (ask(&items, &catalog, feature, now), ask(&reversed, &catalog, feature, now));
        prop_assert_eq!(grant_of(&one.verdict), grant_of(&other.verdict));
        prop_assert_eq!(one.valid_until, other.valid_until);
    }

    /// Which override decides, computed anew: a denial, else the newest exact limit, else the largest limit.
    #[test]
    fn overrides_decide_in_their_order(
        accounts in vec(an_account(), 1..3), catalog in a_catalog(),
        feature in select(&FEATURES[2..5]), now in instant(),
    ) {
        let decision = ask(&accounts, &catalog, feature, now);
        let mut in_force = Vec::new();
        for account in accounts.iter().filter(|account| account.deleted_at.is_none()) {
            let plans = &catalog.plan_set(account.subject.kind()).plans;
            for found in account.overrides.iter().filter(|o| o.is_in_force(now)) {
                let has = |plan: &Slug| plans.get(plan).is_some_and(|plan| plan.features.contains_key(feature));
                let is_about = match &found.effect {
                    Effect::DenyFeature(slug) | Effect::GrantFeature(slug, _) => slug.as_str() == feature,
                    Effect::DenyPlan(plan) | Effect::GrantPlan(plan) => has(plan),
                };
                in_force.extend(is_about.then_some(found));
            }
        }
        let denies = |o: &&&Override| matches!(o.effect, Effect::DenyFeature(_) | Effect::DenyPlan(_));
        if in_force.iter().any(|o| denies(&o)) {
            let is_denied = matches!(decision.verdict, Verdict::Denied { reason: Denial::OverrideDenies, .. });
            prop_assert!(is_denied, "{:?}", decision.verdict);
            return Ok(());
        }
        let without: Vec<_> = accounts.iter().map(|account| {
            let is_number = |o: &&Override| matches!(o.effect, Effect::GrantFeature(..));
            let kept = account.overrides.iter().filter(|o| !is_number(o)).cloned().collect();
            Account { overrides: kept, ..account.clone() }
        }).collect();
        let granted = in_force.iter().filter_map(|o| match o.effect {
            Effect::GrantFeature(_, amount) => Some((o.age(), amount)),
            _ => None,
        });
        let granted: Vec<_> = granted.collect();
        let exact = granted.iter().filter(|(_, amount)| matches!(amount, Amount::Exactly(_))).max_by_key(|(age, _)| *age);
        let limits = granted.iter().map(|(_, amount)| amount.limit());
        let by_plans = grant_of(&ask(&without, &catalog, feature, now).verdict).map(|(_, _, limit)| limit);
        let largest = limits.chain(by_plans).max_by_key(|limit| (limit.is_none(), *limit));
        let expected = exact.map(|(_, amount)| amount.limit()).or(largest);
        prop_assert_eq!(grant_of(&decision.verdict).map(|(_, _, limit)| limit), expected);
    }

    /// The listed entitlements are those that a check allows.
    #[test]
    fn entitlements_agree_with_checks(
        account in an_account(), catalog in a_catalog(), now in instant(),
    ) {
        let listed = entitlements(&account, &catalog, now);
        for feature in &FEATURES[..6] {
            let found = listed.iter().find(|e| e.feature.as_str() == *feature).map(|e| &e.decision);
            let asked = ask(std::slice::from_ref(&account), &catalog, feature, now);
            let allowed = grant_of(&asked.verdict).is_some();
            prop_assert_eq!(found.map(|found| found.verdict), allowed.then_some(asked.verdict));
            let end = |decision: &Decision<'_>| decision.valid_until.map_or(Until::Forever, Until::Instant);
            prop_assert!(found.is_none_or(|found| end(found) <= end(&asked)));
        }
    }
}
