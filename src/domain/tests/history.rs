//! An account from any point of view: compared with a fold by the definitions, statement by statement.

use super::{at, catalog, history_records::record, item, laws::an_override};
use crate::domain::*;
use chrono::{DateTime, Duration, Utc};
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

const DAYS: i64 = 12;
const STATUSES: [&str; 7] =
    ["active", "past_due", "canceled", "ended", "upcoming", "paused", "active"];

/// Features and plans, some of which the catalog does not have.
const TARGETS: [&str; 9] =
    ["reports", "export", "projects", "sso", "nothing", "org:sso", "x:sso", "pro", "user:free"];

fn day() -> impl Strategy<Value = DateTime<Utc>> {
    (0..DAYS).prop_map(|day| at("2026-01-01") + Duration::days(day))
}

prop_compose! {
    fn an_observed_item()(
        id in select(&["csub_item_1", "csub_item_2"][..]),
        plan in option::weighted(0.8, select(&["free", "pro", "max"][..])),
        plan_id in option::weighted(0.4, select(&["cplan_a", "cplan_b"][..])),
        status in select(&STATUSES[..]),
        free_trial in prop::bool::weighted(0.2),
        period_end in option::of(day()),
        canceled_at in option::weighted(0.1, day()),
        failed_at in option::weighted(0.3, day()),
        updated_at in day(),
        sent_at in day(),
    ) -> Statement {
        let is_active = status == "active";
        let payment = match failed_at {
            _ if is_active => Payment::UpToDate,
            Some(failed_at) => Payment::FailedBy(failed_at),
            None => Payment::Unknown,
        };
        let item = Item {
            id: id.into(), plan: plan.map(Into::into), plan_id: plan_id.map(Into::into), status: status.into(),
            free_trial, period_end, canceled_at, was_active: is_active, updated_at, ..item("pro")
        };
        Statement::Item(ObservedItem { item, payment, sent_at })
    }
}

prop_compose! {
    fn a_snapshot()(
        listed in option::weighted(0.7, vec(select(&["csub_item_1", "csub_item_2"][..]), 0..2)),
        canceled: bool,
        updated_at in day(),
        sent_at in day(),
    ) -> Statement {
        let listed = listed.map(|ids| ids.into_iter().map(Into::into).collect());
        let canceled = canceled && listed.is_none();
        Statement::Snapshot(Snapshot { updated_at, sent_at, listed, canceled })
    }
}

fn a_statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        8 => an_observed_item(),
        3 => a_snapshot(),
        1 => day().prop_map(Statement::Deleted),
        1 => Just(Statement::Undeleted),
    ]
}

prop_compose! {
    /// A history whose statements became known one after another, some on the same day.
    fn a_history()(
        statements in vec((a_statement(), 0..3i64, 0..9u8), 0..14),
        overrides in vec((an_override(), 1..15u64, option::of((0..20i64, 1..9u64))), 0..4),
    ) -> SubjectHistory {
        let (mut known_at, mut observations) = (at("2026-01-01"), Vec::new());
        for (nth, (statement, later, message)) in statements.into_iter().enumerate() {
            known_at += Duration::days(later);
            let id = i64::try_from(nth).unwrap() + 1;
            observations.push(Observation {
                id, known_at, revision: id.unsigned_abs(), message: format!("msg_{message}_{nth}").into(),
                is_replay: false, statement,
            });
        }
        SubjectHistory {
            subject: "user_ada".parse().unwrap(), is_known: true, revision: observations.len() as u64, observations,
            overrides: overrides.into_iter().map(|(found, revision, lasts)| a_record(found, revision, lasts)).collect(),
            complete_from: at("2026-01-01"), removed_at: None,
        }
    }
}

/// The record of an override that was ended some days and revisions after its setting.
fn a_record(found: Override, revision: u64, lasts: Option<(i64, u64)>) -> OverrideRecord {
    let end = lasts.map(|(days, revisions)| OverrideEnd {
        at: found.set_at + Duration::days(days),
        by: Actor::default(),
        reason: "a test".into(),
        replaced_by: None,
        revision: revision + revisions,
    });
    let record = record(revision, "2026-01-01", found.effect.clone(), None);
    OverrideRecord { found, end, ..record }
}

/// The account by the definitions: each part of an item is searched for in all statements that count.
fn folded(history: &SubjectHistory, as_of: DateTime<Utc>, known_at: DateTime<Utc>) -> Account {
    let stated = |found: &Observation| match &found.statement {
        Statement::Item(observed) => observed.item.updated_at,
        Statement::Snapshot(snapshot) => snapshot.updated_at,
        Statement::Deleted(at) => *at,
        Statement::Undeleted => found.known_at,
    };
    let is_seen = |found: &&Observation| {
        found.known_at <= known_at && stated(found).min(found.known_at) <= as_of
    };
    let seen: Vec<_> = history.observations.iter().filter(is_seen).collect();
    let mut account = Account::unknown(history.subject.clone());
    let last = known_at.min(as_of);
    let is_open = |record: &&OverrideRecord| {
        record.found.set_at <= last && record.end.as_ref().is_none_or(|end| end.at > last)
    };
    account.overrides =
        history.overrides.iter().filter(is_open).map(|record| record.found.clone()).collect();
    account.revision = seen.last().map_or(0, |last| last.revision);
    let deletion = seen.iter().rposition(|found| matches!(found.statement, Statement::Deleted(_)));
    let after = deletion.map_or(0, |nth| nth + 1);
    let undeleted = seen[after..].iter().position(|found| found.statement == Statement::Undeleted);
    let live = match (deletion, undeleted) {
        (Some(nth), None) => {
            account.deleted_at = Some(stated(seen[nth]));
            return account;
        }
        (Some(_), Some(nth)) => &seen[after + nth..],
        (None, _) => &seen[..],
    };
    let ids: BTreeSet<_> = items(live).map(|(_, observed)| observed.item.id.clone()).collect();
    let mut folded: Vec<_> = ids.iter().map(|id| folded_item(live, id)).collect();
    folded.sort_by_key(|item| {
        (item.period_start.is_none(), Reverse(item.period_start), item.id.clone())
    });
    account.items = PackedItems::pack(folded.iter().map(borrowed).collect::<Vec<_>>()).unwrap();
    account
}

fn items<'o>(
    live: &[&'o Observation],
) -> impl Iterator<Item = (&'o Observation, &'o ObservedItem)> {
    live.iter().filter_map(|found| match &found.statement {
        Statement::Item(observed) => Some((*found, observed)),
        _ => None,
    })
}

/// `updated_at` and `sent_at`.
type Times = (DateTime<Utc>, DateTime<Utc>);

fn newest_snapshot<'o>(
    live: &[&'o Observation],
    is_listing: bool,
) -> Option<(Times, &'o Snapshot)> {
    let snapshots = live.iter().filter_map(|found| match &found.statement {
        Statement::Snapshot(snapshot) if snapshot.listed.is_some() == is_listing => {
            Some((snapshot, &found.message))
        }
        _ => None,
    });
    let newest = snapshots.max_by_key(|(s, message)| (s.updated_at, s.sent_at, (*message).clone()));
    newest.map(|(snapshot, _)| ((snapshot.updated_at, snapshot.sent_at), snapshot))
}

fn folded_item(live: &[&Observation], id: &str) -> Item {
    let all: Vec<_> = items(live).filter(|(_, observed)| &*observed.item.id == id).collect();
    let times = |observed: &ObservedItem| (observed.item.updated_at, observed.sent_at);
    let version = |(found, observed): &(&Observation, &ObservedItem)| {
        (times(observed), observed.item.rank(), found.message.clone())
    };
    let (_, newest) = *all.iter().max_by_key(|one| version(one)).unwrap();
    let named = all.iter().filter(|(_, o)| o.item.plan.is_some() || o.item.plan_id.is_some());
    let named = named.max_by_key(|(_, o)| (times(o), o.item.plan_id.clone(), o.item.plan.clone()));
    let (plan_id, plan) =
        named.map(|(_, o)| (o.item.plan_id.clone(), o.item.plan.clone())).unwrap_or_default();
    let ends = all.iter().filter_map(|(_, o)| Some((o.item.updated_at, o.item.period_end?)));
    let last_end = ends.max().map(|(_, end)| end);
    let shown = times(newest);
    let listing = newest_snapshot(live, true);
    let is_withdrawn = listing.is_some_and(|(at, snapshot)| {
        shown <= at && !snapshot.listed.iter().flatten().any(|listed| &**listed == id)
    });
    let is_canceled = newest_snapshot(live, false).is_some_and(|(at, snapshot)| {
        snapshot.canceled && shown <= at && listing.is_none_or(|(listed, _)| listed <= at)
    });
    let mut item = newest.item.clone();
    let was_past_due = matches!(item.status, Status::PastDue);
    item.past_due_at = past_due_at(&all, &item).or(item.past_due_at.filter(|_| was_past_due));
    item.was_active = all.iter().any(|(_, o)| o.item.was_active);
    (item.plan, item.plan_id) = (plan, plan_id);
    if is_withdrawn {
        item.status = Status::Withdrawn;
    } else if is_canceled && item.status == Status::Active {
        item.status = Status::Canceled;
    }
    let ends_with_period =
        item.status == Status::Canceled || item.canceled_at.is_some() || item.free_trial;
    if ends_with_period {
        item.period_end = item.period_end.or(last_end);
    }
    item
}

/// The first failure since the last payment, if the item is active or past due.
fn past_due_at(all: &[(&Observation, &ObservedItem)], newest: &Item) -> Option<DateTime<Utc>> {
    let paid = all.iter().filter(|(_, o)| o.payment == Payment::UpToDate);
    let paid = paid.map(|(_, o)| o.item.updated_at).max();
    let failed = all.iter().filter_map(|(_, o)| match o.payment {
        Payment::FailedBy(at) if paid.is_none_or(|paid| o.item.updated_at >= paid) => {
            Some((o.item.updated_at, at))
        }
        _ => None,
    });
    // Of reports about one change, the earliest failure counts.
    let mut first = BTreeMap::new();
    for (changed, failed) in failed {
        let earliest = first.entry(changed).or_insert(failed);
        *earliest = failed.min(*earliest);
    }
    let since = first.into_iter().map(|(changed, failed)| match paid {
        Some(paid) if failed < paid => changed,
        _ => failed,
    });
    since.min().filter(|_| matches!(newest.status, Status::PastDue | Status::Active))
}

fn borrowed(item: &Item) -> Item<&str> {
    Item {
        id: &*item.id,
        plan: item.plan.as_deref(),
        plan_id: item.plan_id.as_deref(),
        status: match &item.status {
            Status::Withdrawn => Status::Withdrawn,
            other => Status::from(other.as_str()),
        },
        free_trial: item.free_trial,
        period_start: item.period_start,
        period_end: item.period_end,
        canceled_at: item.canceled_at,
        past_due_at: item.past_due_at,
        was_active: item.was_active,
        seats: item.seats,
        updated_at: item.updated_at,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// 2,000 histories with 10 points each.
    #[test]
    fn the_account_of_any_point_follows_from_the_statements_that_were_true_and_known(
        history in a_history(),
        points in vec((day(), day()), 10),
    ) {
        for (as_of, known_at) in points {
            let view = View { as_of: Some(as_of), known: Known::At(known_at) };
            let viewed = history.view(view).unwrap().account;
            prop_assert_eq!(&viewed, &folded(&history, as_of, known_at), "{} {}", as_of, known_at);
        }
    }

    #[test]
    fn a_view_of_a_revision_shows_what_was_recorded_until_then(history in a_history()) {
        for (count, last) in history.observations.iter().enumerate() {
            let view = View { as_of: None, known: Known::Revision(last.revision, last.known_at) };
            let mut overrides = history.overrides.clone();
            overrides.retain(|record| record.revision <= last.revision);
            for record in &mut overrides {
                record.end = record.end.take().filter(|end| end.revision <= last.revision);
            }
            let earlier = SubjectHistory {
                observations: history.observations[..=count].to_vec(), revision: last.revision, overrides, ..history.clone()
            };
            let all = View { as_of: None, known: Known::All };
            prop_assert_eq!(history.view(view).unwrap().account, earlier.view(all).unwrap().account);
        }
    }

    /// The steps explain the decision: the first one is decisive and gives the reason.
    #[test]
    fn exactly_one_step_decides_and_gives_the_reason_of_the_answer(
        history in a_history(),
        other in a_history(),
        now in day(),
        target in select(&TARGETS[..]),
        is_feature: bool,
    ) {
        let all = View { as_of: None, known: Known::All };
        let (user, org) = (history.view(all).unwrap().account, other.view(all).unwrap().account);
        let org = Account { subject: "org_acme".parse().unwrap(), ..org };
        let question = if is_feature { Question::feature(target) } else { Question::plan(target) };
        let question = question.unwrap();
        let accounts = [&user, &org];
        let verdict = decide(&accounts, catalog(), &question, now).verdict;
        let steps = steps(&accounts, catalog(), &question, &verdict, now);
        let (reason, subject) = match verdict {
            Verdict::Allowed { reason, subject, .. } => (Reason::Grant(reason), Some(subject)),
            Verdict::Denied { reason, subject, .. } => (Reason::Denial(reason), subject),
        };
        prop_assert_eq!(steps[0].reason, reason);
        let decisive: Vec<_> = steps.iter().map(|step| step.is_decisive).collect();
        prop_assert_eq!(decisive.iter().filter(|decisive| **decisive).count(), 1);
        prop_assert!(decisive[0]);
        if let Verdict::Allowed { plan, .. } = verdict {
            prop_assert_eq!(steps[0].plan, plan);
        }
        if subject.is_some() {
            prop_assert_eq!(steps[0].subject, subject);
        } else {
            prop_assert!(matches!(steps[0].kind, StepKind::Catalog | StepKind::Scope));
        }
    }
}
