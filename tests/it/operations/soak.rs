//! A service under churn for a long time: its resources stay flat.
//!
//! `SOAK=3600 cargo test --release --test it soak -- --nocapture` runs for an hour: checks and deliveries on 5,000
//! subjects, connections that come and go, and sessions of Postgres killed every 0.7 s. It prints the memory, file
//! descriptors and tasks of the service, the sizes of the tables, and how all of them grow.

use crate::{
    support::metrics,
    support::process::{Postgres, Process},
    support::rng::Rng,
    support::service::{is_acknowledged, plain_http},
};
use entitlements::api::pb::CheckFeatureRequest;
use serde_json::json;
use std::{
    env, fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::time::{interval, sleep};

const SUBJECTS: usize = 5_000;
const START: i64 = 1_790_000_000_000;

/// The resources of the service at some instant, in seconds after the start.
struct Sample {
    seconds: f64,
    memory_mib: f64,
    descriptors: f64,
    tasks: f64,
    /// The size of the tables of accounts.
    accounts_mib: f64,
    /// The size of the ledger and the change log. They grow until their rows are old enough to be deleted.
    ledger_mib: f64,
}

struct Soak {
    process: Process,
    over: AtomicBool,
    checks: AtomicU64,
    deliveries: AtomicU64,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Calls on a connection for a while, and then on a new one.
    async fn check(&self, mut rng: Rng) {
        while !self.is_over() {
            let mut client = self.process.client();
            for _ in 0..200 {
                let request = CheckFeatureRequest {
                    user_id: format!("user_{}", rng.below(SUBJECTS)),
                    feature: "export".into(),
                    ..Default::default()
                };
                let _ = client.check_feature(request).await; // a killed session may fail a call
                self.checks.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn send(&self, mut rng: Rng) {
        let http = plain_http();
        while !self.is_over() {
            let n = self.deliveries.fetch_add(1, Ordering::SeqCst);
            let subject = rng.below(SUBJECTS);
            let data = json!({
                "id": format!("csub_item_{subject}"), "status": rng.pick(&["active", "past_due", "ended"]),
                "plan": { "slug": "pro" }, "updated_at": START + i64::try_from(n).unwrap(),
                "payer": { "user_id": format!("user_{subject}") },
            });
            let body = json!({ "type": "subscriptionItem.updated", "data": data }).to_string();
            is_acknowledged(&http, &self.process.http, &format!("msg_{n}"), &body).await; // a killed session may fail it
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill_sessions(&self, postgres: &Postgres) {
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity
            where application_name = 'entitlements' order by random() limit 1";
        while !self.is_over() {
            sleep(Duration::from_millis(700)).await;
            sqlx::query(kill).execute(&mut postgres.db().await).await.unwrap();
        }
    }

    async fn sample(&self, postgres: &Postgres, length: Duration) -> Vec<Sample> {
        let (began, mut samples) = (Instant::now(), Vec::new());
        let mut tick = interval(length / 60);
        while began.elapsed() < length {
            tick.tick().await;
            let process = format!("/proc/{}", self.process.pid());
            let status = fs::read_to_string(format!("{process}/status")).unwrap();
            let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            let memory: f64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
            let metrics = self.process.metrics().await;
            let tables = "
                select sum(case when grows then 0 else mib end), sum(case when grows then mib else 0 end)
                from (
                    select relname in ('delivery', 'change_log') as grows,
                        pg_total_relation_size(oid) / 1048576.0::float8 as mib
                    from pg_class where relkind = 'r' and relnamespace = 'entitlements'::regnamespace
                ) as sizes";
            let tables = sqlx::query_as(tables).fetch_one(&mut postgres.db().await).await;
            let (accounts_mib, ledger_mib) = tables.unwrap();
            samples.push(Sample {
                seconds: began.elapsed().as_secs_f64(),
                memory_mib: memory / 1024.0,
                descriptors: fs::read_dir(format!("{process}/fd")).unwrap().map(|_| 1.0).sum(),
                tasks: metrics::sample(&metrics, "entitlements_tasks").unwrap(),
                accounts_mib,
                ledger_mib,
            });
        }
        self.over.store(true, Ordering::SeqCst);
        samples
    }
}

/// Prints the first and last values, and returns the growth per hour: the slope of the line through the samples after
/// the first quarter, in which caches fill.
fn print_growth(what: &str, samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let settled = &samples[samples.len() / 4..];
    let count = settled.iter().map(|_| 1.0).sum::<f64>();
    let mean = |value: &dyn Fn(&Sample) -> f64| settled.iter().map(value).sum::<f64>() / count;
    let (time, value) = (mean(&|s| s.seconds), mean(&of));
    let both = settled.iter().map(|s| (s.seconds - time) * (of(s) - value)).sum::<f64>();
    let spread = settled.iter().map(|s| (s.seconds - time).powi(2)).sum::<f64>();
    let slope = both / spread * 3600.0;
    let (first, last) = (of(&samples[0]), of(samples.last().unwrap()));
    println!("{what}: {first:.1} at first, {last:.1} at last, {slope:+.2} an hour");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_resources_of_a_service_stay_flat() {
    let length = env::var("SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let postgres = Postgres::start().await;
    let process = Process::start(&postgres.url(), &[]).await;
    let soak = Soak {
        process,
        over: AtomicBool::new(false),
        checks: AtomicU64::new(0),
        deliveries: AtomicU64::new(0),
    };
    let (samples, (), (), (), ()) = tokio::join!(
        soak.sample(&postgres, Duration::from_secs(length)),
        soak.check(Rng::new()),
        soak.check(Rng::new()),
        soak.send(Rng::new()),
        soak.kill_sessions(&postgres),
    );
    println!("{:?} checks, {:?} deliveries in {length} s", soak.checks, soak.deliveries);
    let memory = print_growth("memory in MiB", &samples, |s| s.memory_mib);
    let descriptors = print_growth("file descriptors", &samples, |s| s.descriptors);
    let tasks = print_growth("tasks", &samples, |s| s.tasks);
    let accounts = print_growth("tables of accounts in MiB", &samples, |s| s.accounts_mib);
    print_growth("ledger and change log in MiB", &samples, |s| s.ledger_mib);
    // The bounds are wide: a leak with every connection, session or delivery exceeds them within a minute.
    assert!(memory < 256.0 && descriptors < 200.0 && tasks < 200.0 && accounts < 64.0);
    soak.process.terminate().await;
    postgres.stop().await;
}
