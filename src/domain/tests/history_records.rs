//! Changes of a history, and views that need a removed part of it.

use super::{at, grant, item};
use crate::domain::*;

#[test]
fn a_change_lists_the_features_that_were_gained_and_lost() {
    let observed = |id: i64, day: &str, item: Item| Observation {
        id,
        known_at: at(day),
        revision: id.unsigned_abs(),
        message: format!("msg_{id}").into(),
        is_replay: false,
        statement: Statement::Item(ObservedItem {
            sent_at: item.updated_at,
            item,
            payment: Payment::UpToDate,
        }),
    };
    let canceled =
        Item { canceled_at: Some(at("2026-01-04")), updated_at: at("2026-01-04"), ..item("pro") };
    let older = Item { updated_at: at("2025-12-31"), ..item("pro") };
    let limit = |limit| grant("projects", Amount::Exactly(limit));
    let first = record(3, "2026-01-04T12:00", limit(8), None);
    let ended = |day, revision, by: Option<&OverrideRecord>| OverrideEnd {
        at: at(day),
        by: Actor::default(),
        reason: "a test".into(),
        replaced_by: by.map(|record| record.found.id),
        revision,
    };
    let mut second = record(4, "2026-01-07", limit(9), Some(first.found.id));
    second.end = Some(ended("2026-01-08", 5, None));
    let first = OverrideRecord { end: Some(ended("2026-01-07", 4, Some(&second))), ..first };
    let history = SubjectHistory {
        subject: "user_ada".parse().unwrap(),
        is_known: true,
        revision: 5,
        observations: vec![
            observed(1, "2026-01-01", item("pro")),
            observed(2, "2026-01-04", canceled),
            Observation { revision: 3, ..observed(3, "2026-01-05", older) },
        ],
        overrides: vec![first, second],
        complete_from: at("2026-01-01"),
        removed_at: None,
    };
    let catalogs = [
        ("2025-12-01", "[user.plans.pro]\nfeatures = [\"reports\"]"),
        (
            "2026-01-02",
            "[user.plans.pro]\nfeatures = [\"reports\", \"sso\"]\nlimits = { projects = 5 }",
        ),
        ("2026-01-03", "[user.plans.pro]\nfeatures = [\"sso\"]\nlimits = { projects = 3 }"),
        (
            "2026-01-06",
            "[user.plans.pro]\nfeatures = [\"sso\"]\nlimits = { projects = 3 }\n[user.plans.max]",
        ),
    ]
    .map(|(day, text)| (at(day), Catalog::from_toml(text).unwrap()));
    let dated = (1..).zip(&catalogs).map(|(number, (since, catalog))| DatedCatalog {
        number,
        since: *since,
        catalog,
    });
    let dated: Vec<_> = dated.collect();
    let none = Catalog::default();
    let listed = changes(&history, &dated, &none, at("2026-03-01")).unwrap();
    let lines = listed.iter().map(|change| {
        let cause = match change.cause {
            ChangeCause::Observations(found) => found[0].message.to_string(),
            ChangeCause::Catalog(number) => format!("catalog {number}"),
            ChangeCause::Override(record) => format!("override {}", record.revision),
            ChangeCause::OverrideEnd(_, end) => format!("end {}", end.revision),
            ChangeCause::Time => "time".into(),
        };
        let features = change.features.iter().map(|found| {
            let state = |state: &FeatureState| match (state.allowed, state.limit) {
                (false, _) => "-".into(),
                (true, None) => "+".into(),
                (true, Some(limit)) => limit.to_string(),
            };
            format!(" {}:{}>{}", found.feature, state(&found.before), state(&found.after))
        });
        let superseded = if change.is_superseded { " superseded" } else { "" };
        let day = change.known_at.format("%m-%d");
        format!("{day} {cause}{superseded}{}", features.collect::<String>())
    });
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [
            "01-01 msg_1 reports:->+",
            "01-02 catalog 2 projects:->5 sso:->+",
            "01-03 catalog 3 projects:5>3 reports:+>-",
            "01-04 msg_2",
            "01-04 override 3 projects:3>8",
            "01-05 msg_3 superseded",
            "01-07 override 4 projects:8>9",
            "01-08 end 5 projects:9>3",
            "02-01 time projects:3>- sso:+>-",
        ]
    );
}

/// A permanent override, set at a time.
pub(super) fn record(
    revision: u64,
    set_at: &str,
    effect: Effect,
    replaces: Option<OverrideId>,
) -> OverrideRecord {
    let set_at = at(set_at);
    let id = OverrideId(uuid::Uuid::from_u64_pair(0, revision));
    let text = || "a test".to_owned();
    OverrideRecord {
        subject: "user_ada".parse().unwrap(),
        found: Override { id, effect, from: None, until: Until::Forever, set_at },
        note: OverrideNote { owner: text(), reason: text(), reference: String::new() },
        set_by: Actor::default(),
        replaces,
        revision,
        end: None,
    }
}

/// The histories in which a part was removed.
#[test]
fn a_view_that_needs_a_removed_part_says_from_when_on_the_history_is_complete() {
    let observed = |id: i64, day: &str, statement: Statement| Observation {
        id,
        known_at: at(day),
        revision: id.unsigned_abs(),
        message: format!("msg_{id}").into(),
        is_replay: false,
        statement,
    };
    let pro = |day: &str| {
        let item = Item { updated_at: at(day), ..item("pro") };
        Statement::Item(ObservedItem { item, payment: Payment::UpToDate, sent_at: at(day) })
    };
    let history = SubjectHistory {
        subject: "user_ada".parse().unwrap(),
        is_known: true,
        revision: 7,
        observations: vec![
            observed(3, "2026-01-03", pro("2026-01-03")),
            observed(7, "2026-01-07", pro("2026-01-07")),
        ],
        overrides: Vec::new(),
        complete_from: at("2026-01-05"),
        removed_at: None,
    };
    let deleted = Statement::Deleted(at("2026-01-08"));
    let removed = SubjectHistory {
        observations: vec![
            observed(8, "2026-01-08", deleted),
            observed(9, "2026-01-20", pro("2026-01-20")),
        ],
        revision: 9,
        removed_at: Some(at("2026-01-15")),
        ..history.clone()
    };
    let (all, known) = (Known::All, |day| Known::At(at(day)));
    let revision = |revision| Known::Revision(revision, at("2026-02-01"));
    let cases = [
        ("now", &history, None, all, Ok(7)),
        (
            "true before the beginning",
            &history,
            Some("2026-01-04"),
            all,
            Err("2026-01-05T00:00:00.000Z"),
        ),
        (
            "known before the beginning",
            &history,
            None,
            known("2026-01-04"),
            Err("2026-01-05T00:00:00.000Z"),
        ),
        ("known at the beginning", &history, None, known("2026-01-05"), Ok(3)),
        ("the revision at the beginning", &history, None, revision(3), Ok(3)),
        ("a removed revision", &history, None, revision(2), Err("2026-01-05T00:00:00.000Z")),
        ("a revision that never was", &history, None, revision(8), Err("never had")),
        (
            "known before the deletion",
            &removed,
            None,
            known("2026-01-07"),
            Err("2026-01-08T00:00:00.000Z"),
        ),
        (
            "true before the deletion",
            &removed,
            Some("2026-01-07"),
            all,
            Err("2026-01-08T00:00:00.000Z"),
        ),
        (
            "a revision before the deletion",
            &removed,
            None,
            revision(7),
            Err("2026-01-08T00:00:00.000Z"),
        ),
        ("known at the deletion", &removed, None, known("2026-01-08"), Ok(8)),
        ("after the deletion", &removed, None, all, Ok(9)),
    ];
    for (name, history, as_of, known, expected) in cases {
        let view = View { as_of: as_of.map(at), known };
        match (history.view(view), expected) {
            (Ok(viewed), Ok(revision)) => assert_eq!(viewed.account.revision, revision, "{name}"),
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text), "{name}: {error}");
            }
            (viewed, _) => panic!("{name}: {viewed:?}"),
        }
    }
}
