//! What the parts of a check and of a delivery cost by themselves.
//!
//! `cargo bench --bench micro`; see `cargo bench --bench micro -- --help`.

use chrono::Utc;
use divan::{Bencher, black_box};
use embedded_postgres::{Binaries, Embedded};
use entitlements::{
    api::pb::{CheckFeatureResponse, Reason},
    check::{Checks, Facts, Payers},
    clerk::{Secret, Verified, Verifier},
    domain::{
        self, Account, Catalog, Grace, Id, Item, Items, Kind, PreparedAccounts, Question, Status,
    },
    ingest::{Deliveries, ServedInstance},
    replica::{Accounts, Need},
    storage::{self, Author, Store},
    telemetry::Metrics,
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

/// Checks of a cached subject.
static CHECKS: LazyLock<Checks> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(checks()).expect("a Postgres that is asked once")
});

fn main() {
    divan::main();
}

async fn checks() -> anyhow::Result<Checks> {
    let postgres = Embedded::temporary(&Binaries::from_env()?).await?;
    let options = postgres.url("entitlements").parse()?;
    storage::migrate(&options).await?;
    let (store, metrics) = (Store::new(options), Arc::new(Metrics::default()));
    let catalog = Catalog::from_toml(include_str!("../catalog.example.toml"))?;
    store.apply_catalog(Author::File, &catalog, "the example").await?;
    let day = Duration::from_hours(24);
    let accounts = Arc::new(Accounts::new(store.clone(), 1 << 20, day, day, metrics.clone()));
    accounts.reload_catalog().await?;
    accounts.freshness().heard(Instant::now() + day); // all changes of the time of this run
    let deliveries = Deliveries::new(
        store.clone(),
        accounts.clone(),
        ServedInstance::default(),
        metrics.clone(),
    );
    let verified = Verified { id: "msg_1".into(), signed_at: Utc::now() };
    deliveries.take(&verified, ITEM.into(), Utc::now()).await?;
    let checks = Checks::new(accounts, Grace::default(), &metrics, None);
    checks.facts(payers(), &Need::default()).await?;
    store.close().await;
    postgres.stop().await?;
    Ok(checks)
}

fn payers() -> Payers<'static> {
    let user = Id::of(Kind::User, USER).expect("a user's id");
    Payers::of(Some(user), None).expect("somebody")
}

fn known() -> Facts {
    let facts = CHECKS.facts(payers(), &Need::default()).now_or_never();
    facts.expect("what is cached is not waited for").expect("it is known")
}

/// The facts of a cached subject.
#[divan::bench]
fn cache_hit(bencher: Bencher) {
    known();
    bencher.bench(known);
}

/// The decision, from facts and a catalog.
#[divan::bench]
fn decide(bencher: Bencher) {
    let (facts, moment) = (known(), CHECKS.moment());
    let question = Question::feature("export").expect("a slug");
    bencher.bench(|| black_box(moment.decide(&facts, black_box(&question))).valid_until);
}

/// An account with so many canceled items of one plan, which all end on different days and are still running.
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
    Account { items: Items::pack(items).expect("short texts"), ..Account::unknown(subject) }
}

/// One decision about an account with so many running items.
#[divan::bench(args = [1, 3, 1_000])]
fn decide_about_items(bencher: Bencher, items: usize) {
    let (account, moment) = (account(items), CHECKS.moment());
    let question = Question::feature("export").expect("a slug");
    let (catalog, grace, now) = (moment.catalog(), moment.grace(), moment.now);
    bencher.bench(|| {
        domain::decide(&[black_box(&account)], catalog, grace, &question, now).valid_until
    });
}

/// 100 decisions about an account with 1,000 running items.
#[divan::bench]
fn decide_hundred_about_thousand(bencher: Bencher) {
    let (account, moment) = (account(1_000), CHECKS.moment());
    let question = Question::feature("export").expect("a slug");
    let (catalog, grace, now) = (moment.catalog(), moment.grace(), moment.now);
    bencher.bench(|| {
        let prepared = PreparedAccounts::new([black_box(&account)], catalog, grace);
        for _ in 0..100 {
            black_box(prepared.decide(&question, now));
        }
    });
}

/// The clock and the catalog.
#[divan::bench]
fn moment(bencher: Bencher) {
    known();
    bencher.bench(|| CHECKS.moment().now);
}

/// The answer into bytes.
#[divan::bench]
fn encode(bencher: Bencher) {
    let moment = CHECKS.moment();
    let answer = CheckFeatureResponse {
        allowed: true,
        reason: Reason::Plan.into(),
        subject: USER.into(),
        plan: "pro".into(),
        revision: moment.revision(&known()),
        checked_at: Some(prost_types::Timestamp { seconds: moment.now.timestamp(), nanos: 0 }),
        ..Default::default()
    };
    let mut bytes = Vec::with_capacity(256);
    bencher.bench_local(|| {
        bytes.clear();
        black_box(&answer).encode(&mut bytes)
    });
}

/// The token for the state behind an answer.
#[divan::bench]
fn revision(bencher: Bencher) {
    let (facts, moment) = (known(), CHECKS.moment());
    bencher.bench(|| moment.revision(&facts));
}

/// The signature of a delivery, of so many bytes.
#[divan::bench(args = [2_000, 20_000])]
fn verify(bencher: Bencher, bytes: usize) {
    let secret = || Secret::parse(&SECRET.to_owned().into()).expect("a secret");
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
