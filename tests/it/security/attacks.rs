//! Hostile peers against the real binary, and a well-behaved client beside them that must not notice.
//!
//! `cargo test --test it attacks:: -- --nocapture` prints a table of the attacks' results; all run side by side for a
//! few seconds. `ATTACKS=60 cargo test …` runs one after another, each for 60 s, and then also requires that silent
//! connections are closed, and that connections which read no responses are closed when they are too old.

use crate::{
    support::database::Db,
    support::http2_frames::{
        Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM,
        SETTINGS, call, frame,
    },
    support::process::Process,
    support::service::{ADA, eventually},
    support::webhook_attacks,
};
use entitlements::api::pb::CheckFeatureRequest;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use prost::Message;
use std::{
    env, fs,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::interval;

/// The growth of memory, in MiB, that is not a leak: pools, caches, and body memory that the allocator keeps.
const ALLOWANCE_MIB: u64 = 72;
const CHECK: &str = "/entitlements.v1.Entitlements/CheckFeature";

/// The addresses of the service.
#[derive(Clone, Copy)]
struct Target {
    grpc: SocketAddr,
    http: SocketAddr,
}

/// An attack until an instant; returns for each connection how long it lived until the service closed it.
type Attack = fn(Target, Instant) -> BoxFuture<'static, Vec<Option<Duration>>>;

/// All attacks, and when the service must close their connections.
const ATTACKS: [(&str, Attack, Ends); 22] = [
    ("rapid reset", |to, until| flood(to, until, |n| [open(n), reset(n)].concat()), Ends::AtOnce),
    (
        "rapid reset after a request",
        |to, until| flood(to, until, |n| [whole(n), reset(n)].concat()),
        Ends::AtOnce,
    ),
    ("CONTINUATION flood", |to, until| continuations(to, until, 10), Ends::AtOnce),
    ("empty CONTINUATION flood", |to, until| continuations(to, until, 0), Ends::AtOnce),
    (
        "empty DATA flood",
        |to, until| after_open(to, until, || frame(DATA, 0, 1, &[])),
        Ends::AtOnce,
    ),
    ("PING flood", |to, until| flood(to, until, |_| frame(PING, 0, 0, &[7; 8])), Ends::Perhaps),
    ("SETTINGS flood", |to, until| flood(to, until, |_| frame(SETTINGS, 0, 0, &[])), Ends::Perhaps),
    ("endless open streams", |to, until| flood(to, until, open), Ends::AtOnce),
    ("20,000 open streams, kept", many_streams, Ends::Perhaps),
    ("answers never read (window 0)", |to, until| unread(to, until, 250), Ends::WhenOld),
    ("endless calls, window 0", |to, until| unread(to, until, 20_000), Ends::AtOnce),
    ("bodies that never come", bodiless, Ends::Perhaps),
    ("silence", |to, until| silent(to.grpc, until, b""), Ends::Soon),
    ("half a preface", |to, until| silent(to.grpc, until, &PREFACE[..12]), Ends::Soon),
    ("preface, then silence", quiet, Ends::WhenQuiet),
    ("dripping preface and frames", dripping, Ends::Perhaps),
    (
        "webhook: bodies too large",
        |to, until| webhook_attacks::body_bombs(to.http, until),
        Ends::Perhaps,
    ),
    (
        "webhook: unsigned bodies",
        |to, until| webhook_attacks::unsigned(to.http, until),
        Ends::Perhaps,
    ),
    (
        "webhook: answers never read",
        |to, until| webhook_attacks::pipelined(to.http, until),
        Ends::Perhaps,
    ),
    (
        "webhook: slow bodies",
        |to, until| webhook_attacks::slow_bodies(to.http, until),
        Ends::Perhaps,
    ),
    (
        "webhook: heavy bodies",
        |to, until| webhook_attacks::heavy_bodies(to.http, until),
        Ends::Perhaps,
    ),
    (
        "webhook: kept-alive idlers",
        |to, until| webhook_attacks::idlers(to.http, until),
        Ends::Perhaps,
    ),
];

/// When the service must close an attacker's connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Within the shortest run.
    AtOnce,
    /// After 5 s of silence.
    Soon,
    /// After 40 s without a response to a PING.
    WhenQuiet,
    /// Once the connection is old.
    WhenOld,
    /// Not necessarily: the attack costs little, or reconnects.
    Perhaps,
}

impl Ends {
    /// Whether connections must be closed within this time.
    fn by(self, length: Duration) -> bool {
        match self {
            Self::AtOnce => true,
            Self::Soon => length > Duration::from_secs(10),
            Self::WhenQuiet | Self::WhenOld => length > Duration::from_secs(50),
            Self::Perhaps => false,
        }
    }
}

/// The id of a client's stream.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn open(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(number), &call(CHECK))
}

fn reset(number: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())
}

/// A complete call of `CheckFeature`.
fn whole(number: u32) -> Vec<u8> {
    let message = question().encode_to_vec();
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    body.extend(message);
    [open(number), frame(DATA, END_STREAM, stream(number), &body)].concat()
}

fn question() -> CheckFeatureRequest {
    CheckFeatureRequest { user_id: ADA.into(), feature: "export".into(), ..Default::default() }
}

type Closed = BoxFuture<'static, Vec<Option<Duration>>>;

/// Runs four connections with the same attack.
fn crowd<F>(attacker: impl Fn() -> F) -> Closed
where
    F: Future<Output = Option<Duration>> + Send + 'static,
{
    join_all((0..4).map(|_| attacker())).boxed()
}

fn flood(to: Target, until: Instant, bytes: fn(u32) -> Vec<u8>) -> Closed {
    crowd(move || async move {
        let mut attacker = Attacker::new(to.grpc).await;
        attacker.flood(until, bytes).await;
        attacker.stay(until).await
    })
}

fn after_open(to: Target, until: Instant, bytes: fn() -> Vec<u8>) -> Closed {
    crowd(move || async move {
        let mut attacker = Attacker::new(to.grpc).await;
        let _ = attacker.send(&open(0)).await;
        attacker.flood(until, |_| bytes()).await;
        attacker.stay(until).await
    })
}

fn continuations(to: Target, until: Instant, fields: usize) -> Closed {
    crowd(move || async move {
        let mut attacker = Attacker::new(to.grpc).await;
        let _ = attacker.send(&frame(HEADERS, 0, 1, &call(CHECK))).await;
        // A field that is in no table: `x: yyy…`.
        let mut field = vec![0, 1, b'x', 100];
        field.resize(104, b'y');
        let block = field.repeat(fields);
        attacker.flood(until, |_| frame(CONTINUATION, 0, 1, &block)).await;
        attacker.stay(until).await
    })
}

fn many_streams(to: Target, until: Instant) -> Closed {
    crowd(move || async move {
        let mut attacker = Attacker::new(to.grpc).await;
        let streams: Vec<u8> = (0..20_000).flat_map(open).collect();
        let _ = attacker.send(&streams).await;
        attacker.stay(until).await
    })
}

/// Calls whose responses the window does not allow.
fn unread(to: Target, until: Instant, calls: u32) -> Closed {
    crowd(move || async move {
        let no_window = [0, 4, 0, 0, 0, 0]; // SETTINGS_INITIAL_WINDOW_SIZE
        let mut attacker = Attacker::with_settings(to.grpc, &no_window).await;
        let calls: Vec<u8> = (0..calls).flat_map(whole).collect();
        let _ = attacker.send(&calls).await;
        while !attacker.is_closed() && Instant::now() < until {
            let _ = attacker.send(&frame(PING, 1, 0, &[0; 8])).await; // proves that the connection is alive
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        attacker.stay(until).await
    })
}

/// As many calls as a connection may have, on as many connections as once blocked all other clients.
fn bodiless(to: Target, until: Instant) -> Closed {
    let attackers = (0..8).map(move |_| async move {
        let mut attacker = Attacker::new(to.grpc).await;
        let calls: Vec<u8> = (0..256).flat_map(open).collect();
        let _ = attacker.send(&calls).await;
        attacker.stay(until).await
    });
    join_all(attackers).boxed()
}

fn silent(to: SocketAddr, until: Instant, bytes: &'static [u8]) -> Closed {
    crowd(move || async move { Attacker::sending(to, bytes).await.stay(until).await })
}

fn quiet(to: Target, until: Instant) -> Closed {
    crowd(move || async move { Attacker::new(to.grpc).await.stay(until).await })
}

fn dripping(to: Target, until: Instant) -> Closed {
    let attackers = (0..4).map(move |number| async move {
        let begun: &[u8] = if number % 2 == 0 { b"" } else { PREFACE };
        let mut attacker = Attacker::sending(to.grpc, begun).await;
        let rest = [&PREFACE[begun.len()..], &frame(SETTINGS, 0, 0, &[]), &open(0)].concat();
        attacker.drip(until, &rest).await;
        attacker.stay(until).await
    });
    join_all(attackers).boxed()
}

/// The service under attack.
struct Siege {
    process: Process,
    target: Target,
    /// Whether connections become too old during the run. Closing one may fail a call, which is then repeated.
    becomes_old: bool,
}

/// The observations of the client beside the attackers.
#[derive(Default)]
struct ClientReport {
    took: Vec<Duration>,
    /// The durations of signed deliveries.
    delivered: Vec<Duration>,
    errors: Vec<String>,
    peak_mib: u64,
}

fn p99(took: &[Duration]) -> Duration {
    let mut took = took.to_vec();
    took.sort();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

impl Siege {
    /// Starts a service whose connections become too old after 10 s or, for a run of a few seconds, after 10 min.
    async fn new(db: &Db, becomes_old: bool) -> Self {
        let age = if becomes_old { "10s" } else { "10m" };
        let process = Process::start(&db.url, &[("ENTITLEMENTS_CONNECTION_AGE", age)]).await;
        let at = |url: &str| url.trim_start_matches("http://").parse().unwrap();
        let target = Target { grpc: at(&process.grpc), http: at(&process.http) };
        Self { process, target, becomes_old }
    }

    fn memory_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        memory.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Delivers signed webhooks, one after another, each on a connection of its own.
    async fn deliver(&self, took: &mut Vec<Duration>, errors: &mut Vec<String>) {
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            let began = Instant::now();
            match webhook_attacks::deliver(self.target.http).await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => took.push(began.elapsed()),
                answer => errors.push(format!("a delivery: {answer:?}")),
            }
        }
    }

    /// Checks a cached subject and delivers, one call after another, until `meanwhile` ends.
    async fn behave(&self, meanwhile: impl Future<Output = ()>) -> ClientReport {
        let (mut delivered, mut errors) = (Vec::new(), Vec::new());
        let mut report = tokio::select! {
            report = self.ask(meanwhile) => report,
            () = self.deliver(&mut delivered, &mut errors) => ClientReport::default(),
        };
        report.errors.extend(errors);
        ClientReport { delivered, ..report }
    }

    /// Checks a cached subject, one call after another, until `meanwhile` ends.
    async fn ask(&self, meanwhile: impl Future<Output = ()>) -> ClientReport {
        let (mut client, mut report) = (self.process.client(), ClientReport::default());
        let (mut tick, mut over) = (interval(Duration::from_millis(5)), Box::pin(meanwhile));
        loop {
            let began = Instant::now();
            let mut answer = client.check_feature(question()).await;
            if answer.is_err() && self.becomes_old {
                answer = client.check_feature(question()).await;
            }
            match answer {
                Ok(_) => report.took.push(began.elapsed()),
                Err(status) => report.errors.push(status.to_string()),
            }
            report.peak_mib = report.peak_mib.max(self.memory_mib());
            tokio::select! { _ = tick.tick() => {}, () = &mut over => return report }
        }
    }
}

fn line(name: &str, closed: &[Option<Duration>]) -> String {
    let ended = closed.iter().flatten().count();
    let last = closed.iter().flatten().max();
    let last = last.map_or("-".into(), |last| format!("{:.2} s", last.as_secs_f64()));
    format!("{name:32} {ended:>3} of {:<3} closed, the last after {last:>8}", closed.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_peers_hold_little_and_other_clients_do_not_notice() {
    let long = env::var("ATTACKS").ok().and_then(|seconds| seconds.parse().ok());
    let length = Duration::from_secs(long.unwrap_or(4));
    let db = Db::new().await;
    let siege = Siege::new(&db, long.is_some()).await;
    let calm = siege.behave(tokio::time::sleep(Duration::from_secs(1))).await;
    println!("calm: p99 {:?}, {} MiB at most", p99(&calm.took), calm.peak_mib);
    let before = siege.memory_mib();
    // One after another, or all at once.
    let rounds = if long.is_some() { 1 } else { ATTACKS.len() };
    for together in ATTACKS.chunks(rounds) {
        let mut closures = Vec::new();
        let report = siege
            .behave(async {
                let until = Instant::now() + length;
                let attacks = together.iter().map(|(_, attack, _)| attack(siege.target, until));
                closures = join_all(attacks).await;
            })
            .await;
        for ((name, _, ends), closed) in together.iter().zip(&closures) {
            println!("{}", line(name, closed));
            // A few seconds beside other tests may be too short.
            let ends = long.is_some() && ends.by(length);
            assert!(!ends || closed.iter().all(Option::is_some), "{name}: {closed:?}");
        }
        let (checks, deliveries, peak) =
            (p99(&report.took), p99(&report.delivered), report.peak_mib);
        println!("  beside them: {} calls, p99 {checks:?}, {peak} MiB at most", report.took.len());
        println!("  and {} signed deliveries, p99 {deliveries:?}", report.delivered.len());
        assert!(!report.delivered.is_empty(), "deliveries are answered");
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }
    // Threads return memory to the system while they work.
    let released = async {
        eventually("its memory is released", async || siege.memory_mib() <= before + ALLOWANCE_MIB)
            .await;
    };
    let report = siege.behave(released).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    println!("{before} MiB before, {} MiB after", siege.memory_mib());
    assert!(siege.process.terminate().await, "it stops in order");
}
