//! Overload: calls arrive on a schedule, independent of the responses.
//!
//! `cargo bench --bench overload` needs two cores: the service gets the first, the load (and Postgres) the second.
//! Callers that wait for their responses determine the capacity of the service. Then half, the full, twice and three
//! times the capacity is offered. A call that is due while its connection has the maximum of open calls is not sent,
//! also not later. Latency counts from when a call was due. `SECONDS=1` sets the length of the rounds (default 3),
//! `ROUNDS=15` their number (default 7), `SUBJECTS=10000` the number of subjects (default a million).
//! `CACHED_CAPACITY=60000` and `UNCACHED_CAPACITY=4000` take the place of the measured capacities, so that two builds
//! are offered equal loads.

mod support;

use anyhow::ensure;
use support::{
    LOAD, SERVER, Server, alternate,
    database::{self, Database, question},
    drive::{self, Plan, Report, Subjects, as_f64},
    framed, head, median, number, title,
};

/// The offered loads, as multiples of the capacity.
const LOADS: [f64; 4] = [0.5, 1.0, 2.0, 3.0];
const CONNECTIONS: usize = 16;
/// The open calls that the service allows on each connection.
const STREAMS: usize = 256;

fn main() -> anyhow::Result<()> {
    support::run(async || {
        let database = Database::start("bench").await?;
        database.pin(LOAD)?;
        title("Checks of one cached subject");
        measure(&database, &[], 1, "CACHED_CAPACITY").await?;
        title("Checks of subjects that are not cached");
        measure(&database, &["--cache-mib", "0"], database.subjects, "UNCACHED_CAPACITY").await?;
        database.stop().await
    })
}

/// A round, and the part of a core that the service used.
struct Round {
    report: Report,
    busy: f64,
}

async fn measure(
    database: &Database,
    flags: &[&str],
    count: u64,
    setting: &str,
) -> anyhow::Result<()> {
    let ours = Server::ours(SERVER, &database.url(), flags).await?;
    ours.check(&question(0), "pro").await?;
    let body = framed(&question(0));
    let patient = Plan {
        address: ours.grpc.clone(),
        key: ours.key.clone(),
        path: "/entitlements.v1.Entitlements/CheckFeature".into(),
        connections: CONNECTIONS,
        streams: 16,
        seconds: as_f64(number("SECONDS", 3)),
        subjects: Subjects { at: database::place(&body)?, count, once: false },
        body,
        right: [0x08, 1].into(), // the response is allowed
        rate: None,
        spins: false,
    };
    let known = alternate(1, |_| drive::run(&patient))?;
    let measured = median(&known[0], Report::rate).value;
    let capacity = match number(setting, 0) {
        0 => measured,
        set => as_f64(set),
    };
    // Postgres uses the core of the load.
    let spins = count == 1;
    let rounds = alternate(LOADS.len(), |which| {
        let (before, rate) = (ours.cpu()?, Some(LOADS[which] * capacity));
        let report = drive::run(&Plan { streams: STREAMS, rate, spins, ..patient.clone() })?;
        let busy = ours.cpu()?.saturating_sub(before).as_secs_f64() / report.seconds;
        Ok(Round { report, busy })
    })?;
    println!("Callers that wait for their responses, {CONNECTIONS} × 16: {measured:.0}/s\n");
    table(&rounds);
    ours.check(&question(0), "pro").await?;
    ensure!(rounds.iter().flatten().all(|round| round.report.lost == 0), "calls were lost");
    Ok(())
}

fn table(rounds: &[Vec<Round>]) {
    let goodput = |rounds: &Vec<Round>| median(rounds, |round| round.report.rate()).value;
    let peak = rounds.iter().map(goodput).fold(0.0, f64::max);
    head(&["load", "due", "answered", "of the peak", "refused", "held back", "p50", "p99", "core"]);
    for (rounds, load) in rounds.iter().zip(LOADS) {
        let each = |of: &dyn Fn(&Report) -> f64| median(rounds, |round| of(&round.report)).value;
        let rate = |of: fn(&Report) -> u64| each(&|r| as_f64(of(r)) / r.seconds);
        println!(
            "| {load} × | {:.0}/s | {:.0}/s | {:.2} | {:.0}/s | {:.0}/s | {:.2} ms | {:.2} ms | {:.0} % |",
            rate(|r| r.due),
            goodput(rounds),
            goodput(rounds) / peak,
            rate(|r| r.refused),
            rate(|r| r.held),
            each(&|r| r.p50) / 1e3,
            each(&|r| r.p99) / 1e3,
            100.0 * median(rounds, |round| round.busy).value,
        );
    }
}
