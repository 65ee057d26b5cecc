//! Decisions about many items equal those found by trying every instant, and cost work that is linear in the items.

use super::{
    at, catalog, item,
    laws::{FEATURES, a_catalog, an_item, an_override, grant_of, instant},
    org, user, with_grace, with_status,
};
use crate::domain::{decide::LOOKED_AT, *};
use chrono::{DateTime, Duration, Utc};
use proptest::{collection::vec, option, prelude::*, sample::select};

prop_compose! {
    /// An item with dates at noon or midnight of few days, so that many dates coincide.
    fn a_crowded_item()(item in an_item(), end in option::of(0..6i64), since in option::of(0..6i64)) -> Item {
        let date = |days: i64| at("2026-01-10") + Duration::days(days);
        Item { period_end: end.map(date), past_due_at: since.map(date), ..item }
    }
}

prop_compose! {
    fn accounts()(
        users in vec(prop_oneof![an_item(), a_crowded_item()], 0..12),
        orgs in vec(prop_oneof![an_item(), a_crowded_item()], 0..12),
        overrides in vec(an_override(), 0..3), others in vec(an_override(), 0..3),
        deleted_at in option::weighted(0.1, instant()),
    ) -> [Account; 2] {
        let [ada, acme] = [user(users), org(orgs)];
        [
            Account { overrides: overrides.into(), ..ada },
            Account { overrides: others.into(), deleted_at, ..acme },
        ]
    }
}

/// The first instant at which the answer changes, found by trying every date of every item and override.
fn by_trying_all(
    accounts: &[&Account],
    catalog: &Catalog,
    question: &Question<'_>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let verdict = |at| decide(accounts, catalog, question, at).verdict;
    let before = verdict(now);
    let next =
        |at: &DateTime<Utc>| accounts.iter().filter_map(|a| a.next_boundary(catalog, *at)).min();
    let mut boundaries = std::iter::successors(next(&now), next);
    boundaries.find(|at| grant_of(&verdict(*at)) != grant_of(&before))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn valid_until_is_the_first_of_all_dates_at_which_the_answer_changes(
        accounts in accounts(), catalog in a_catalog(), now in instant(),
        plan in select(&["free", "pro", "max", "team"][..]), feature in select(&FEATURES[..]), asks_plan: bool,
    ) {
        let accounts: Vec<_> = accounts.iter().collect();
        let text = if asks_plan { Question::plan(plan) } else { Question::feature(feature) };
        let question = text.unwrap();
        let decision = decide(&accounts, &catalog, &question, now);
        let tried = by_trying_all(&accounts, &catalog, &question, now);
        prop_assert_eq!(decision.valid_until, tried);
        let prepared = PreparedAccounts::new(accounts, &catalog);
        prop_assert_eq!(prepared.decide(&question, now), decision);
    }
}

/// Items that all grant and end one after another, or that all continue past ever later ends.
fn running(items: i64, status: &str) -> Account {
    let mut plans = ["pro", "max"].into_iter().cycle();
    user((1..=items).map(|days| Item {
        period_end: Some(at("2026-02-01") + Duration::days(days)),
        ..with_status(plans.next().unwrap(), status)
    }))
}

/// The number of items that a decision reads.
fn looked_at(work: impl FnOnce()) -> usize {
    LOOKED_AT.set(0);
    work();
    LOOKED_AT.get()
}

#[test]
fn deciding_is_linear_in_the_items() {
    let grace = |days: Option<i64>| days.map(Duration::days);
    for (status, renewal) in [
        ("canceled", None),
        ("active", None),
        ("active", Some(2)),
        ("past_due", None),
        ("ended", None),
    ] {
        let catalog = with_grace(Grace { renewal: grace(renewal), ..Grace::default() });
        for feature in ["reports", "export", "assistant", "projects", "nothing"] {
            for days in [0, 20, 400] {
                let work = |items: usize| {
                    let account = running(items.try_into().unwrap(), status);
                    let question = Question::feature(feature).unwrap();
                    let now = at("2026-01-15") + Duration::days(days);
                    looked_at(|| _ = decide(&[&account], &catalog, &question, now))
                };
                let (few, many) = (work(500), work(1_000));
                let case = format!("{status} {renewal:?} {feature} {days}: {few}, {many}");
                assert!(few <= 4 * 500 && many <= 4 * 1_000, "{case}");
            }
        }
    }
}

#[test]
fn an_answer_ends_when_an_item_that_is_not_overdue_replaces_its_plan() {
    let later = Item { period_end: Some(at("2026-03-01")), ..item("pro") };
    let ada = user([item("max"), later]);
    let question = Question::feature("reports").unwrap();
    let decision = decide(&[&ada], catalog(), &question, at("2026-01-15"));
    assert_eq!(super::line_of(&decision), "allowed Plan max of user_ada until 2026-02-01");
}

#[test]
fn items_that_changed_at_the_same_instant_are_kept_up_to_the_limit() {
    let ended = Item { was_active: false, ..with_status("pro", "ended") };
    let mut items = vec![ended; 1_500];
    PackedItems::bound(&mut items);
    assert_eq!(items.len(), 1_000);
}

#[test]
fn too_many_items_are_reduced_to_those_that_may_grant_and_the_newest_others() {
    let ended = |days: i64| {
        let updated_at = at("2026-01-01") - Duration::days(days);
        Item { updated_at, was_active: false, ..with_status("pro", "ended") }
    };
    let failed = Item {
        was_active: false,
        past_due_at: Some(at("2020-01-01")),
        ..with_status("max", "past_due")
    };
    let oldest = Item { was_active: true, ..ended(2_001) };
    for live in [0, 1, 999, 1_000, 1_500] {
        let live_items = (0..live).map(|_| failed.clone());
        let mut items: Vec<_> = (0..2_000).map(ended).chain(live_items).collect();
        items.push(oldest.clone());
        let before = user(items.clone());
        PackedItems::bound(&mut items);
        assert!(items.len() <= 1_000.max(live + 1), "{}", items.len());
        assert!(items.contains(&oldest), "a failed upgrade shows in it");
        assert_eq!(items.iter().filter(|item| item.may_grant()).count(), live);
        assert_eq!(items.contains(&ended(0)), live < 999, "{live}");
        let [before, after] = [before, user(items)].map(|account| {
            let decision = ask(&account, "assistant");
            (super::line_of(&decision), decision.valid_until)
        });
        assert_eq!(before, after);
    }
}

fn ask<'a>(account: &'a Account, feature: &str) -> Decision<'a> {
    let question = Question::feature(feature).unwrap();
    decide(&[account], catalog(), &question, at("2026-01-15"))
}
