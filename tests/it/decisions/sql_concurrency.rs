//! SQL and the service give equal answers at equal revisions while changes arrive.

use crate::support::{
    database::Db,
    rng::Rng,
    service::{Replica, new_id},
    webhook_cases::{item, part},
};
use chrono::{DateTime, Utc};
use entitlements::api::pb::{CheckFeatureRequest, Consistency, consistency::Requirement};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use std::{cell::Cell, time::Instant};

const FEATURES: [&str; 4] = ["basic_reports", "export", "ai_assistant", "nothing"];

/// An answer without its time, as text.
type Answer = String;

/// Compares 300 answers about 4 users. `CASES=20000 WRITERS=64 cargo test --release --test it sql_concurrency` for a longer
/// run with more changes a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_and_the_service_agree_at_equal_revisions_while_changes_arrive() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let (cases, writers) = (number("CASES", 300), number("WRITERS", 4));
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let (changes, started) = (Cell::new(0), Instant::now());
    let mut rng = Rng::new();
    let compare = async {
        let (mut equal, mut asked) = (0, 0);
        while equal < cases {
            let (user, feature) = (format!("user_{}", rng.below(writers)), rng.pick(&FEATURES));
            let (of_sql, of_service) = tokio::join!(
                ask_sql(&mut connection, &user, feature),
                ask_service(&replica, &user, feature)
            );
            asked += 1;
            if of_sql.0 == of_service.0 {
                assert_eq!(of_sql, of_service, "{feature} of {user}");
                equal += 1;
            }
            assert!(asked < 100 * cases, "{equal} of {asked} answers had equal revisions");
        }
        asked
    };
    let write =
        futures_util::future::join_all((0..writers).map(|nth| change(&replica, nth, &changes)));
    let asked = tokio::select! {
        asked = compare => asked,
        _ = write => unreachable!("changes arrive for ever"),
    };
    let (changes, seconds) = (changes.get(), started.elapsed().as_secs_f64());
    println!(
        "{cases} of {asked} answers at equal revisions, {changes} changes in {seconds:.1} s: 0 unequal"
    );
    assert!(changes > cases / 10);
}

/// Sends changes of one user for ever; one in ten names a plan that the catalog does not have.
async fn change(replica: &Replica, nth: usize, changes: &Cell<usize>) {
    let (user, mut rng) = (format!("user_{nth}"), Rng::new());
    for at in 1_790_000_000_000_u64.. {
        let status = rng.pick(&["active", "active", "past_due", "ended", "upcoming"]);
        let plan = match rng.below(10) {
            0 => format!("plan_{nth}_{}", rng.below(20)),
            _ => rng.pick(&["free_user", "pro", "max"]).to_owned(),
        };
        let mut part = part(&format!("csub_{}", rng.below(3)), status, &plan);
        part["updated_at"] = at.into();
        let answer = replica.send_until_answered(&new_id(), &item(&user, part).to_string()).await;
        assert!(answer.status == 200, "{answer:?}");
        changes.set(changes.get() + 1);
    }
}

/// The revision and the answer.
async fn ask_sql(db: &mut PgConnection, user: &str, feature: &str) -> (String, Answer) {
    let query = "select * from entitlements.check_feature($1, $2)";
    let row: PgRow = sqlx::query(query).bind(feature).bind(user).fetch_one(db).await.unwrap();
    let [subject, plan] = ["subject", "plan"].map(|column| row.get::<Option<String>, _>(column));
    let (allowed, reason): (bool, String) = (row.get("allowed"), row.get("reason"));
    let limit = row.get::<Option<i64>, _>("limit");
    let until = row.get::<Option<DateTime<Utc>>, _>("valid_until");
    let [subject, plan] = [subject, plan].map(Option::unwrap_or_default);
    (row.get("revision"), format!("{allowed} {reason} {subject} {plan} {limit:?} {until:?}"))
}

async fn ask_service(replica: &Replica, user: &str, feature: &str) -> (String, Answer) {
    let requirement = Some(Requirement::FullyConsistent(true));
    let request = CheckFeatureRequest {
        user_id: user.into(),
        feature: feature.into(),
        consistency: Some(Consistency { requirement }),
        ..Default::default()
    };
    let answer = replica.client.clone().check_feature(request).await.unwrap().into_inner();
    let until = answer.valid_until.map(|at| {
        DateTime::<Utc>::from_timestamp(at.seconds, at.nanos.try_into().unwrap()).unwrap()
    });
    let (allowed, reason, limit) = (answer.allowed, answer.reason().as_str_name(), answer.limit);
    let (subject, plan) = (answer.subject, answer.plan);
    (answer.revision, format!("{allowed} {reason} {subject} {plan} {limit:?} {until:?}"))
}
