//! Overrides begin and end by the clock, are soon visible on other replicas, and a dry run tells what happens.

use crate::support::{
    database::Db,
    explanations::{explain, feature, timestamp},
    overrides::{all, denied, end, granted, limited, plan_granted, replica, set, try_set, until},
    rng::Rng,
    service::Replica,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use entitlements::api::pb::{
    CheckFeatureRequest, CheckFeatureResponse, ExplainRequest, Override, SetOverrideRequest,
    grant::Number,
};
use prost_types::Timestamp;
use std::time::{Duration, Instant};

fn below(rng: &mut Rng, sides: usize) -> i64 {
    rng.below(sides).try_into().unwrap()
}

/// The cases of the test of starts and ends; `CASES=1000` for the full number.
fn cases(default: usize) -> usize {
    std::env::var("CASES").map_or(default, |cases| cases.parse().unwrap())
}

fn date(at: Option<Timestamp>) -> DateTime<Utc> {
    let at = at.unwrap();
    DateTime::from_timestamp(at.seconds, at.nanos.try_into().unwrap()).unwrap()
}

/// Each subject has one override with a random start and end, milliseconds apart; both replicas decide each of its instants
/// by its clock alone. Every answer must agree with the instant at which it was decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_ends_take_effect_at_their_millisecond_on_every_replica() {
    let db = Db::new().await;
    let replicas = [Replica::start(&db).await, Replica::start(&db).await];
    let (mut rng, mut checks, mut wrong, mut edges) = (Rng::new(), 0, Vec::new(), 0);
    for case in 0..cases(100) {
        let subject = format!("user_case{case}");
        let from = Utc::now().trunc_subsecs(3) + TimeDelta::milliseconds(15);
        let [first, last] = [0, 0].map(|_| TimeDelta::milliseconds(1 + below(&mut rng, 20)));
        let (from, to) = (from + first, from + first + last);
        let found = if rng.below(2) == 0 {
            granted(&subject, "sso")
        } else {
            denied(&subject, "basic_reports")
        };
        let (name, during) = if found.effect == granted("", "").effect {
            ("sso", true)
        } else {
            ("basic_reports", false)
        };
        let found = Override { starts_at: Some(timestamp(from)), ..until(found, to) };
        set(&replicas[0], found).await;
        while Utc::now() < to + TimeDelta::milliseconds(2) {
            for replica in &replicas {
                let answer = replica.check(&subject, "", name).await;
                let at = date(answer.checked_at);
                let is_in_force = (from..to).contains(&at);
                let boundary = [from, to].into_iter().find(|boundary| *boundary > at);
                let is_seen = !answer.revision.ends_with(".0");
                checks += 1;
                let expected = if is_in_force { during } else { !during };
                let until = answer.valid_until.map(|until| date(Some(until)));
                if is_seen && (answer.allowed, until) != (expected, boundary) {
                    wrong.push(format!("{subject} {name} at {at}: {answer:?}, {from} to {to}"));
                }
                edges += usize::from(is_in_force);
            }
        }
    }
    println!(
        "{} random starts and ends, {checks} checks on two replicas, {edges} of them in between: {} wrong",
        cases(100),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(edges > 0);
}

/// The time from the answer to the call to the first answer of another replica that follows it. It is printed; a test
/// cannot hold it on a busy machine.
#[tokio::test]
async fn an_override_is_visible_on_other_replicas_soon() {
    let db = Db::new().await;
    let replicas = [Replica::start(&db).await, Replica::start(&db).await];
    let mut times = Vec::new();
    for round in 0..cases(100) {
        let subject = format!("user_round{round}");
        for replica in &replicas {
            replica.check(&subject, "", "sso").await; // fills both caches
        }
        let id = set(&replicas[0], granted(&subject, "sso")).await.r#override.unwrap().id;
        let began = Instant::now();
        assert!(replicas[0].check(&subject, "", "sso").await.allowed, "its own replica");
        while !replicas[1].check(&subject, "", "sso").await.allowed {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        times.push(began.elapsed());
        end(&replicas[1], &id).await;
        assert!(!replicas[1].check(&subject, "", "sso").await.allowed);
    }
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("visible on the other replica: p50 {:?}, p99 {:?}", at(50), at(99));
}

/// The answer without what a later call or another revision changes.
fn outcome(answer: CheckFeatureResponse) -> CheckFeatureResponse {
    CheckFeatureResponse { checked_at: None, revision: String::new(), ..answer }
}

/// All answers about a subject as of an instant.
async fn answers(replica: &Replica, subject: &str, at: Timestamp) -> Vec<CheckFeatureResponse> {
    let mut answers = Vec::new();
    for name in ["assistant", "export", "projects", "reports"] {
        let as_of = Some(at).filter(|at| date(Some(*at)) > Utc::now());
        let request = ExplainRequest { as_of, ..feature(subject, name) };
        // Before its first override, nothing is recorded about the subject, and no time changes an answer.
        let answer = if as_of.is_some() && !all(replica, subject).await.is_empty() {
            explain(replica, request).await.unwrap().answer.unwrap()
        } else {
            let request = CheckFeatureRequest {
                user_id: subject.into(),
                feature: name.into(),
                ..Default::default()
            };
            replica.client.clone().check_feature(request).await.unwrap().into_inner()
        };
        answers.push(outcome(answer));
    }
    answers
}

/// Random overrides upon each other, some of which replace another one: the differences of a dry run are those of the call
/// that follows, and those between the answers before and after. `CASES=2000` for the full number.
#[tokio::test]
async fn a_dry_run_tells_what_happens() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let (mut rng, mut differing) = (Rng::new(), 0);
    for case in 0..cases(200) {
        let subject = format!("user_case{}", case / 4);
        let number = rng.pick(&[
            Number::AtLeast(30),
            Number::AtLeast(7),
            Number::Exactly(5),
            Number::Unlimited(true),
        ]);
        let name = rng.pick(&["assistant", "export", "reports"]);
        let plan = rng.pick(&["free", "pro", "max"]);
        let found = match rng.below(4) {
            0 => limited(&subject, "projects", number),
            1 => granted(&subject, name),
            2 => denied(&subject, name),
            _ => plan_granted(&subject, plan),
        };
        let days = |days| Utc::now() + TimeDelta::days(days);
        let found =
            if rng.below(2) == 0 { until(found, days(40 + below(&mut rng, 9))) } else { found };
        let starts_at = (rng.below(4) == 0).then(|| timestamp(days(1 + below(&mut rng, 9))));
        let before = all(&replica, &subject).await;
        let same = before.iter().find(|old| old.end.is_none() && old.target == found.target);
        let replaces = same.filter(|_| rng.below(2) == 0).map(|old| old.id.clone());
        // A replacement must not start later.
        let starts_at = starts_at.filter(|_| replaces.is_none());
        let found = Override { starts_at, replaces: replaces.unwrap_or_default(), ..found };
        let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
        let dry_run = SetOverrideRequest { dry_run: true, ..request.clone() };
        let dry = try_set(&replica, dry_run).await.unwrap();
        assert_eq!(all(&replica, &subject).await, before);
        let at = |set: Option<&Override>| set.unwrap().starts_at.unwrap();
        let earlier = answers(&replica, &subject, at(dry.r#override.as_ref())).await;
        let done = try_set(&replica, request).await.unwrap();
        let later = answers(&replica, &subject, at(done.r#override.as_ref())).await;
        let told = |differences: &[entitlements::api::pb::Difference]| {
            let parts = differences.iter().map(|found| {
                let answer =
                    |answer: &Option<CheckFeatureResponse>| outcome(answer.clone().unwrap());
                (found.feature.clone(), answer(&found.before), answer(&found.after))
            });
            parts.collect::<Vec<_>>()
        };
        assert_eq!(told(&dry.differences), told(&done.differences), "case {case}");
        let names = ["assistant", "export", "projects", "reports"];
        let seen = names.iter().zip(earlier.into_iter().zip(later));
        let seen = seen.filter(|(_, (then, now))| then != now);
        let seen: Vec<_> =
            seen.map(|(name, (then, now))| ((*name).to_owned(), then, now)).collect();
        assert_eq!(told(&done.differences), seen, "case {case}");
        differing += usize::from(!seen.is_empty());
    }
    println!(
        "{} dry runs, {differing} of which changed an answer: 0 differ from what happened",
        cases(200)
    );
    assert!(differing > 20);
}
