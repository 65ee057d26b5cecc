//! The costs of the single parts of a check and of a delivery.
//!
//! `cargo bench --bench micro`; see `cargo bench --bench micro -- --help`.

use chrono::Utc;
use divan::{Bencher, black_box};
use embedded_postgres::{Binaries, Embedded};
use entitlements::{
    api::pb::{CheckFeatureResponse, Reason},
    check::{EvaluatedAccounts, Evaluator, Subjects},
    clerk::{SigningSecret, Verified, Verifier},
    domain::{
        self, Account, Catalog, Item, Kind, PackedItems, PreparedAccounts, Question, Status,
        SubjectRef,
    },
    ingest::{Deliveries, ServedInstance},
    replica::{Accounts, Consistency},
    storage::{self, Author, Origin, Store},
    telemetry::Telemetry,
};
use futures_util::FutureExt;
use http::HeaderMap;
use prost::Message;
use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const USER: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
const ITEM: &str = include_str!("../tests/payloads/subscriptionItem.active.json");
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// An evaluator with a cached subject.
static CHECKS: LazyLock<Evaluator> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(checks()).expect("a Postgres that is asked once")
});

fn main() {
    divan::main();
}

async fn checks() -> anyhow::Result<Evaluator> {
    let postgres = Embedded::temporary(&Binaries::from_env()?).await?;
    let options = postgres.url("entitlements").parse()?;
    storage::migrate(&options).await?;
    let (store, telemetry) = (Store::new(options), Telemetry::default());
    let catalog = Catalog::from_toml(include_str!("../catalog.example.toml"))?;
    store.apply_catalog(Author::Replica, &catalog, Origin::service("the example")).await?;
    let day = Duration::from_hours(24);
    let accounts = Arc::new(Accounts::new(store.clone(), 1 << 20, day, day, telemetry.clone()));
    accounts.reload_catalog().await?;
    accounts.freshness().caught_up(Instant::now() + day); // covers the duration of this run
    let deliveries = Deliveries::new(
        store.clone(),
        accounts.clone(),
        ServedInstance::default(),
        telemetry.clone(),
    );
    let verified = Verified { id: "msg_1".into(), signed_at: Utc::now() };
    deliveries.take(&verified, ITEM.into(), Utc::now()).await?;
    let checks = Evaluator::new(accounts, &telemetry.metrics, None);
    checks.evaluated_accounts(subjects(), &Consistency::default()).await?;
    store.close().await;
    postgres.stop().await?;
    Ok(checks)
}

fn subjects() -> Subjects<'static> {
    let user = SubjectRef::of(Kind::User, USER).expect("a user's id");
    Subjects::of(Some(user), None).expect("somebody")
}

fn cached_accounts() -> EvaluatedAccounts {
    let evaluated = CHECKS.evaluated_accounts(subjects(), &Consistency::default()).now_or_never();
    evaluated.expect("what is cached is not waited for").expect("it is known")
}

/// Loads a cached account.
#[divan::bench]
fn cache_hit(bencher: Bencher) {
    cached_accounts();
    bencher.bench(cached_accounts);
}

/// Decides about a cached account.
#[divan::bench]
fn decide(bencher: Bencher) {
    let (evaluated, evaluation) = (cached_accounts(), CHECKS.context());
    let question = Question::feature("export").expect("a slug");
    bencher.bench(|| black_box(evaluation.decide(&evaluated, black_box(&question))).valid_until);
}

/// An account with this number of canceled items of one plan, which end on different days and are still running.
fn account(items: usize) -> Account {
    let now = Utc::now();
    let items = (0..items).map(|n| Item {
        id: format!("csub_item_{n:027}"),
        plan: Some("pro".to_owned()),
        plan_id: Some(format!("cplan_{:027}", 1)),
        status: Status::Canceled,
        free_trial: false,
        period_start: Some(now),
        period_end: Some(now + chrono::Duration::days(i64::try_from(n + 1).expect("few"))),
        canceled_at: Some(now),
        past_due_at: None,
        was_active: true,
        seats: None,
        updated_at: now,
    });
    let subject = USER.parse().expect("a user's id");
    Account { items: PackedItems::pack(items).expect("short texts"), ..Account::unknown(subject) }
}

/// One decision about an account with this number of running items.
#[divan::bench(args = [1, 3, 1_000])]
fn decide_about_items(bencher: Bencher, items: usize) {
    let (account, evaluation) = (account(items), CHECKS.context());
    let question = Question::feature("export").expect("a slug");
    let (catalog, now) = (evaluation.catalog(), evaluation.now);
    bencher.bench(|| domain::decide(&[black_box(&account)], catalog, &question, now).valid_until);
}

/// 100 decisions about an account with 1,000 running items.
#[divan::bench]
fn decide_hundred_about_thousand(bencher: Bencher) {
    let (account, evaluation) = (account(1_000), CHECKS.context());
    let question = Question::feature("export").expect("a slug");
    let (catalog, now) = (evaluation.catalog(), evaluation.now);
    bencher.bench(|| {
        let prepared = PreparedAccounts::new([black_box(&account)], catalog);
        for _ in 0..100 {
            black_box(prepared.decide(&question, now));
        }
    });
}

/// Reads the clock and the catalog.
#[divan::bench]
fn evaluation(bencher: Bencher) {
    cached_accounts();
    bencher.bench(|| CHECKS.context().now);
}

/// Encodes the response.
#[divan::bench]
fn encode(bencher: Bencher) {
    let evaluation = CHECKS.context();
    let answer = CheckFeatureResponse {
        allowed: true,
        reason: Reason::Plan.into(),
        subject: USER.into(),
        plan: "pro".into(),
        revision: evaluation.revision(&cached_accounts()),
        checked_at: Some(prost_types::Timestamp { seconds: evaluation.now.timestamp(), nanos: 0 }),
        ..Default::default()
    };
    let mut bytes = Vec::with_capacity(256);
    bencher.bench_local(|| {
        bytes.clear();
        black_box(&answer).encode(&mut bytes)
    });
}

/// Formats the revision of a response.
#[divan::bench]
fn revision(bencher: Bencher) {
    let (evaluated, evaluation) = (cached_accounts(), CHECKS.context());
    bencher.bench(|| evaluation.revision(&evaluated));
}

/// Verifies the signature of a delivery of this size in bytes.
#[divan::bench(args = [2_000, 20_000])]
fn verify(bencher: Bencher, bytes: usize) {
    let secret = || SigningSecret::parse(&SECRET.to_owned().into()).expect("a secret");
    let (body, now) = ("x".repeat(bytes), Utc::now().timestamp());
    let headers = HeaderMap::from_iter(
        [
            ("svix-id", "msg_1".to_owned()),
            ("svix-timestamp", now.to_string()),
            ("svix-signature", secret().sign("msg_1", now, &body)),
        ]
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("ASCII"))),
    );
    let verifier = Verifier::new(vec![secret()]);
    bencher.bench(|| verifier.verify(&headers, body.as_bytes(), now).is_ok());
}
