//! Three service processes on one Postgres with writers, readers and faults; every answer is compared with the versions
//! that it may have.
//!
//! Each delivery is one version of its subject, and versions are revisions. No answer on a replica may be older than an
//! earlier one there; an answer without `stale_for` must not be late; after a quiet period all replicas have the newest
//! version; only a replica that was cut off sends `stale_for`; and without a fault no answer is late.
//!
//! `HISTORY=60 cargo test --release --test it histories:: -- --nocapture` runs every fault for 60 s each, or those of
//! `FAULTS=Nothing,OneKilled`. Built with `NAIVE_CACHE=1`, `HISTORY=24 FAULTS=Nothing` usually fails; `.ci/run` tries up
//! to six times.

mod node;

use crate::{
    support::process::{Postgres, signal},
    support::proxy::Link,
    support::rng::Rng,
    support::service::is_acknowledged,
};
use futures_util::future::join_all;
use node::{Fault, Node, SUBJECTS, version};
use rustix::process::Signal;
use serde_json::json;
use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{task::spawn_blocking, time::sleep};

const REPLICAS: usize = 3;
const WRITERS: usize = 3;
const READERS: usize = 4;
/// The pause of a reader between two questions. Three services, Postgres and the test share two cores, and their
/// queueing is not under test.
const READER_PAUSE: Duration = Duration::from_millis(3);
/// The pause of a writer after its version is visible, because of the shared cores.
const WRITER_PAUSE: Duration = Duration::from_millis(100);
/// The interval at which a writer polls for its version, which is the error of the measured time.
const POLL_INTERVAL: Duration = Duration::from_micros(400);
/// The most lateness of an answer while nothing is broken and notifications arrive. An old account that a faulty cache
/// puts back after a change is only removed at the next read of the log.
const MAX_LAG: Duration = Duration::from_millis(300);
const START: i64 = 1_790_000_000_000;
/// The time after a fault during which a replica may still send `stale_for`.
const RECOVERY: Duration = Duration::from_secs(10);

/// The findings of a run.
#[derive(Default)]
struct Findings {
    checks: AtomicU64,
    went_back: AtomicU64,
    stale_though_connected: AtomicU64,
    wrong_after_quiet: AtomicU64,
    too_late: AtomicU64,
    /// The time from the acknowledgement until the version is visible on every connected replica, in microseconds.
    visible: Mutex<Vec<u64>>,
    /// The lateness of late answers without `stale_for`, in microseconds.
    late: Mutex<Vec<u64>>,
}

struct Scene {
    fault: Fault,
    nodes: Vec<Node>,
    http: reqwest::Client,
    /// The acknowledged versions of each subject, and their times.
    acknowledged: Vec<Mutex<Vec<Instant>>>,
    /// The subject that each writer is working on.
    busy: [AtomicUsize; WRITERS],
    over: AtomicBool,
    findings: Findings,
}

impl Scene {
    async fn new(postgres: &Postgres, fault: Fault) -> Self {
        let first = Node::start(postgres, fault).await; // migrates
        let mut nodes = vec![first];
        nodes.extend(join_all((1..REPLICAS).map(|_| Node::start(postgres, fault))).await);
        let timeout = Duration::from_secs(8);
        let http = reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap();
        let acknowledged = (0..SUBJECTS).map(|_| Mutex::default()).collect();
        Self {
            fault,
            nodes,
            http,
            acknowledged,
            busy: Default::default(),
            over: AtomicBool::new(false),
            findings: Findings::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Delivers a few versions of a random subject in a row, waits until the last is visible on all replicas, and
    /// repeats.
    async fn write(&self, writer: usize, mut rng: Rng) {
        let mut versions = [0_i64; SUBJECTS];
        while !self.is_over() {
            let subject = rng.below(SUBJECTS / WRITERS) * WRITERS + writer;
            self.busy[writer].store(subject, Ordering::SeqCst);
            let mut acknowledged = Instant::now();
            for _ in 0..=rng.below(4) {
                versions[subject] += 1;
                self.deliver(subject, versions[subject], &mut rng).await;
                acknowledged = Instant::now();
                self.acknowledged[subject].lock().unwrap().push(acknowledged);
            }
            let wanted = u64::try_from(versions[subject]).unwrap();
            join_all(self.nodes.iter().map(|node| self.visible(node, subject, wanted))).await;
            let took = u64::try_from(acknowledged.elapsed().as_micros()).unwrap();
            if self.nodes.iter().all(|node| !node.is_cut_off()) {
                self.findings.visible.lock().unwrap().push(took);
            }
            sleep(WRITER_PAUSE).await;
        }
    }

    /// Delivers until any replica acknowledges.
    async fn deliver(&self, subject: usize, version: i64, rng: &mut Rng) {
        let status = if version % 2 == 1 { "active" } else { "ended" };
        let data = json!({
            "object": "commerce_subscription_item", "id": format!("csub_item_{subject}"),
            "status": status, "plan": { "slug": "pro" }, "period_start": START,
            "updated_at": START + version, "payer": { "user_id": format!("user_{subject}") },
        });
        let body = json!({ "type": "subscriptionItem.updated", "data": data }).to_string();
        let id = format!("msg_{subject}_{version}");
        loop {
            let to = self.nodes[rng.below(REPLICAS)].process.read().await.http.clone();
            if is_acknowledged(&self.http, &to, &id, &body).await {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn visible(&self, node: &Node, subject: usize, wanted: u64) {
        while !node.is_cut_off() && !self.is_over() {
            if node.check(subject).await.is_some_and(|answer| version(&answer) >= wanted) {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "tokio's clock makes two milliseconds of less than one"
            )]
            spawn_blocking(|| thread::sleep(POLL_INTERVAL)).await.unwrap();
        }
    }

    /// Asks random replicas about subjects, mostly those that are being changed, and compares every answer with the
    /// versions that it may have.
    async fn read(&self, mut rng: Rng) {
        while !self.is_over() {
            sleep(READER_PAUSE).await;
            let node = &self.nodes[rng.below(REPLICAS)];
            let subject = match rng.below(4) {
                0 => rng.below(SUBJECTS),
                _ => self.busy[rng.below(WRITERS)].load(Ordering::SeqCst),
            };
            let due_here = node.answered[subject].load(Ordering::SeqCst);
            let (began, was_cut_off) = (Instant::now(), node.is_cut_off());
            let due: Vec<Instant> = self.acknowledged[subject].lock().unwrap().clone();
            let Some(answer) = node.check(subject).await else { continue };
            let (version, findings) = (version(&answer), &self.findings);
            findings.checks.fetch_add(1, Ordering::Relaxed);
            if version < due_here {
                findings.went_back.fetch_add(1, Ordering::Relaxed);
            }
            node.answered[subject].fetch_max(version, Ordering::SeqCst);
            if answer.stale_for.is_some() {
                let accused = !was_cut_off && !node.is_cut_off();
                findings.stale_though_connected.fetch_add(accused.into(), Ordering::Relaxed);
            } else if let Some(next) = due.get(usize::try_from(version).unwrap()) {
                let late = began - *next;
                let is_too_late = self.fault == Fault::Nothing && late > MAX_LAG;
                findings.too_late.fetch_add(is_too_late.into(), Ordering::Relaxed);
                let late = u64::try_from(late.as_micros()).unwrap();
                findings.late.lock().unwrap().push(late);
            }
        }
    }

    async fn break_things(&self, fault: Fault, postgres: &mut Postgres, length: Duration) {
        let until = Instant::now() + length;
        match fault {
            Fault::Nothing => sleep(length).await,
            Fault::ListenersKilled => {
                while Instant::now() < until {
                    sleep(Duration::from_millis(700)).await;
                    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                        where query ilike 'listen%' or query = 'select 1'";
                    sqlx::query(kill).execute(&mut postgres.db().await).await.unwrap();
                }
            }
            Fault::NotificationsLost => {
                self.nodes.iter().for_each(|node| node.proxy.set(Link::Deaf));
                sleep(length).await;
            }
            Fault::OneLinkSlow => {
                self.nodes[1].proxy.set(Link::Slow);
                sleep(length).await;
            }
            Fault::PostgresRestarted => {
                sleep(length / 3).await;
                self.nodes.iter().for_each(|node| node.cut_off_until(until + RECOVERY));
                postgres.restart(Signal::QUIT).await;
                let recovered = Instant::now() + RECOVERY;
                self.nodes.iter().for_each(|node| node.cut_off_until(recovered));
                sleep(until.saturating_duration_since(Instant::now())).await;
            }
            Fault::OneBlackHoled | Fault::OneStopped | Fault::OneKilled => {
                sleep(length / 4).await;
                self.break_one(fault, length / 3).await;
                sleep(until.saturating_duration_since(Instant::now())).await;
            }
        }
        self.nodes.iter().for_each(|node| node.proxy.set(Link::Whole));
    }

    async fn break_one(&self, fault: Fault, length: Duration) {
        let node = &self.nodes[1];
        let away = length.max(Duration::from_secs(4));
        node.cut_off_until(Instant::now() + away + RECOVERY);
        match fault {
            Fault::OneBlackHoled => {
                node.proxy.set(Link::BlackHole);
                sleep(away).await;
                node.proxy.set(Link::Whole);
            }
            Fault::OneStopped => {
                let pid = node.process.read().await.pid();
                signal(pid, Signal::STOP);
                sleep(away).await;
                signal(pid, Signal::CONT);
            }
            _ => {
                node.restart().await;
                // The answers of the previous process do not bind a new one.
                node.answered.iter().for_each(|version| version.store(0, Ordering::SeqCst));
            }
        }
        node.cut_off_until(Instant::now() + RECOVERY);
    }

    /// Checks that every replica answers with the newest versions, and without `stale_for`.
    async fn check_quiet(&self) {
        sleep(Duration::from_secs(2)).await;
        let wait = self.nodes.iter().map(|node| async {
            while node.is_cut_off() {
                sleep(Duration::from_millis(100)).await;
            }
        });
        join_all(wait).await;
        for node in &self.nodes {
            for subject in 0..SUBJECTS {
                let newest = self.acknowledged[subject].lock().unwrap().len() as u64;
                let answer = node.check(subject).await.expect("an answer in quiet");
                let right = version(&answer) >= newest && answer.stale_for.is_none();
                self.findings.wrong_after_quiet.fetch_add((!right).into(), Ordering::Relaxed);
            }
        }
    }
}

fn quantiles(sample: &Mutex<Vec<u64>>) -> String {
    let mut sample = sample.lock().unwrap().clone();
    sample.sort_unstable();
    let at = |part: usize| sample.get((sample.len() * part / 1000).min(sample.len() - 1)).unwrap();
    if sample.is_empty() {
        return "none".into();
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let ms = |part| *at(part) as f64 / 1000.0;
    format!("p50 {:.1} p99 {:.1} worst {:.1} ms of {}", ms(500), ms(990), ms(1000), sample.len())
}

/// Runs a history, and returns the number of wrong answers.
async fn run(fault: Fault, length: Duration) -> u64 {
    let mut postgres = Postgres::start().await;
    let scene = Scene::new(&postgres, fault).await;
    let mut rng = Rng::new();
    let mut fork = || {
        (0..=rng.below(1000)).fold(Rng::new(), |mut d, _| {
            d.below(2);
            d
        })
    };
    let writers = join_all((0..WRITERS).map(|n| scene.write(n, fork())));
    let readers = join_all((0..READERS).map(|_| scene.read(fork())));
    let faults = async {
        scene.break_things(fault, &mut postgres, length).await;
        scene.over.store(true, Ordering::SeqCst);
    };
    tokio::join!(faults, writers, readers);
    scene.check_quiet().await;
    let found = &scene.findings;
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (back, stale) = (count(&found.went_back), count(&found.stale_though_connected));
    let (wrong, too_late) = (count(&found.wrong_after_quiet), count(&found.too_late));
    println!(
        "{fault:?}: {} checks; visible everywhere: {}; late answers: {}; went back {back}, stale though connected \
         {stale}, wrong after quiet {wrong}, too late {too_late}",
        count(&found.checks),
        quantiles(&found.visible),
        quantiles(&found.late),
    );
    drop(scene);
    postgres.stop().await;
    back + stale + wrong + too_late
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_history_of_replicas_is_consistent() {
    let long = env::var("HISTORY").ok().and_then(|n| n.parse().ok()).map(Duration::from_secs);
    let faults = match long {
        Some(_) => vec![
            Fault::Nothing,
            Fault::ListenersKilled,
            Fault::NotificationsLost,
            Fault::OneLinkSlow,
            Fault::PostgresRestarted,
            Fault::OneBlackHoled,
            Fault::OneKilled,
            Fault::OneStopped,
        ],
        None => vec![Fault::OneLinkSlow],
    };
    let only = env::var("FAULTS").unwrap_or_default();
    let is_wanted = |fault: &Fault| only.is_empty() || only.contains(&format!("{fault:?}"));
    let mut violations = 0;
    for fault in faults.into_iter().filter(is_wanted) {
        violations += run(fault, long.unwrap_or(Duration::from_secs(4))).await;
    }
    assert_eq!(violations, 0, "wrong answers");
}
