//! A cached `CheckFeature` over the wire, compared with an empty tonic server of the same proto; calls about a million
//! subjects compared with calls about one; and a hundred questions in one call compared with a hundred calls.
//!
//! `cargo bench --bench check` needs h2load (Debian: `apt-get install nghttp2-client`) and two cores: the server gets
//! the first, the load the second; where a row says so, both share both. The variants alternate in rounds of one
//! second, and the medians of the rounds are compared. `ROUNDS=15` sets the number of rounds (default 7),
//! `SUBJECTS=10000` the number of subjects (default a million).

mod support;

use anyhow::{Context, ensure};
use embedded_postgres::{Binaries, Embedded};
use entitlements::api::pb::{CheckFeatureRequest, CheckFeatureResponse, CheckFeaturesRequest};
use prost::Message;
use std::{fs, path::Path};
use support::{
    BOTH, LOAD, SERVER, Server, alternate,
    database::{self, Database, HOLDS_ALL, question, user},
    drive::{self, Plan, Report, Subjects, as_f64},
    framed, head, median, needs, pinned, spread, title,
};

const USER: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
const ORGANIZATION: &str = "org_33t5p7lH0lkGbc1kebn7yzQP47w";
const CHECK: &str = "entitlements.v1.Entitlements/CheckFeature";
const CHECK_MANY: &str = "entitlements.v1.Entitlements/CheckFeatures";

/// The number of connections, the streams in flight on each, and whether server and load share both cores.
const SHAPES: [(usize, usize, bool); 6] =
    [(8, 32, false), (64, 4, false), (64, 1, false), (1, 1, false), (8, 32, true), (64, 4, true)];

/// The response of an allowed check.
const ALLOWED: [u8; 2] = [0x08, 1];

fn main() -> anyhow::Result<()> {
    support::run(async || {
        needs("h2load", "--version", "nghttp2-client")?;
        let postgres = Embedded::temporary(&Binaries::from_env()?).await?;
        against_nothing(&postgres).await?;
        in_one_call(&postgres).await?;
        postgres.stop().await?;
        about_many().await
    })
}

async fn against_nothing(postgres: &Embedded) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let request = asking(USER, "", "export");
    let body = folder.path().join("body");
    fs::write(&body, framed(&request))?;
    title("One cached subject, against an empty tonic server");
    head(&["connections × streams", "empty", "entitlements", "ratio", "spread", "p99, µs"]);
    for (connections, streams, shared) in SHAPES {
        let (server, load) = if shared { (BOTH, BOTH) } else { (SERVER, LOAD) };
        let empty = Server::empty(server).await?;
        let ours = Server::ours(server, &postgres.url("entitlements"), &[]).await?;
        ours.deliver("subscriptionItem.active.json")?;
        let answer = ours.check(&request, "pro").await?;
        let servers = [
            (&empty, &CheckFeatureResponse { allowed: true, ..Default::default() }),
            (&ours, &answer),
        ];
        let samples = alternate(2, |which| {
            let (server, answer) = servers[which];
            // Recording each time costs the load a part of the shared cores.
            let times = (!shared).then(|| folder.path().join("times"));
            let shape = (connections, streams);
            h2load(shape, load, server, &body, framed(answer).len(), times.as_deref())
        })?;
        let rate = |which: usize| median(&samples[which], |(rate, _)| *rate);
        let p99 = |which: usize| {
            let value = median(&samples[which], |(_, p99)| *p99).value;
            if shared { "-".to_owned() } else { format!("{value:.0}") }
        };
        println!(
            "| {connections} × {streams}{} | {:.0}/s | {:.0}/s | {:.2} | {} | {}, {} |",
            if shared { ", two cores" } else { "" },
            rate(0).value,
            rate(1).value,
            rate(1).value / rate(0).value,
            spread(rate(0), rate(1)),
            p99(0),
            p99(1),
        );
    }
    Ok(())
}

fn asking(user: &str, organization: &str, feature: &str) -> CheckFeatureRequest {
    CheckFeatureRequest {
        user_id: user.into(),
        organization_id: organization.into(),
        feature: feature.into(),
        ..Default::default()
    }
}

/// Requests per second with responses of the expected length, and the 99th percentile of their times in microseconds,
/// if times are recorded.
fn h2load(
    (connections, streams): (usize, usize),
    cores: &str,
    server: &Server,
    body: &Path,
    answer: usize,
    times: Option<&Path>,
) -> anyhow::Result<(f64, f64)> {
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path");
    let mut load = pinned(cores, "h2load");
    if !server.key.is_empty() {
        load.args(["-H", &format!("authorization: {}", server.key)]);
    }
    if let Some(times) = times {
        let _ = fs::remove_file(times); // h2load appends to the file
        load.args(["--log-file", &path(times)?]);
    }
    let output = load
        .args(["-D", "1", "--warm-up-time=300ms", "-H", "content-type: application/grpc"])
        .args(["-H", "te: trailers", "-c", &connections.to_string(), "-m", &streams.to_string()])
        .args(["-d", &path(body)?])
        .arg(format!("http://{}/{CHECK}", server.grpc))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains(" 0 failed, 0 errored, 0 timeout"), "requests failed: {text}");
    let number = |before: &str| {
        let (number, _) = text.split_once(before)?;
        number.rsplit([' ', '(']).next()?.parse::<u64>().ok()
    };
    let (calls, data) = (number(" succeeded"), number(") data"));
    // A rejection has no data. The encoded time of a response may be one byte shorter.
    let whole = calls.zip(data).is_some_and(|(calls, data)| data >= calls * (answer as u64 - 2));
    ensure!(whole && calls != Some(0), "not every call was answered: {text}");
    let rate = text.lines().find_map(|line| {
        let (_, rest) = line.strip_prefix("finished in ")?.split_once(", ")?;
        rest.split_once(" req/s")?.0.parse().ok()
    });
    let rate = rate.context("no rate")?;
    Ok((rate, times.map_or(Ok(0.0), p99)?))
}

fn p99(times: &Path) -> anyhow::Result<f64> {
    let mut times: Vec<f64> = fs::read_to_string(times)?
        .lines()
        .filter_map(|line| line.rsplit_once('\t')?.1.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().context("no times")
}

/// The report of a load, and the server's processor time for each question, in microseconds.
struct Measured {
    report: Report,
    cpu: f64,
}

/// Runs a load with this number of questions per call.
fn ask(server: &Server, plan: &Plan, questions: f64) -> anyhow::Result<Measured> {
    let before = server.cpu()?;
    let report = drive::run(plan)?;
    ensure!(report.refused == 0 && report.lost == 0, "calls failed: {}", report.refused);
    let cpu = server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    Ok(Measured { cpu: cpu / (as_f64(report.answered) * questions), report })
}

/// A plan with one call at a time, about the subjects from 0 to `count`.
fn plan(server: &Server, path: &str, body: Vec<u8>, right: &[u8]) -> Plan {
    Plan {
        address: server.grpc.clone(),
        key: server.key.clone(),
        path: format!("/{path}"),
        connections: 1,
        streams: 1,
        seconds: 1.0,
        body,
        subjects: Subjects::ALL_THE_SAME,
        right: right.into(),
        rate: None,
        spins: false,
    }
}

async fn in_one_call(postgres: &Embedded) -> anyhow::Result<()> {
    let ours = Server::ours(SERVER, &postgres.url("entitlements"), &[]).await?;
    ours.deliver("subscriptionItem.active.json")?;
    ours.deliver("subscription.active.org-team.json")?;
    let features = ["export", "sso", "api_access", "basic_reports"];
    let one = asking(USER, ORGANIZATION, features[0]);
    ours.check(&one, "pro").await?;
    let questions: Vec<_> = (0..100).map(|n| asking(USER, ORGANIZATION, features[n % 4])).collect();
    let many = CheckFeaturesRequest { questions, ..Default::default() };
    let request = ours.signed(many.clone())?;
    let answers = ours.client().await?.check_features(request).await?.into_inner().answers;
    ensure!(answers.len() == 100 && answers.iter().all(|a| a.allowed), "wrong answers");
    let right = answers[0].encode_to_vec();

    let batch = plan(&ours, CHECK_MANY, framed(&many), &[0x0a]);
    let single = plan(&ours, CHECK, framed(&one), &right[..4]);
    let plans = [batch, single.clone(), Plan { streams: 100, ..single }];
    let each = [100.0, 1.0, 1.0];
    title("A hundred questions about one user in one organization, on one connection");
    let samples = alternate(plans.len(), |which| ask(&ours, &plans[which], each[which]))?;
    head(&[
        "",
        "questions",
        "times cheaper in one call",
        "server CPU a question",
        "times cheaper in one call",
        "spread",
    ]);
    let rate =
        |which: usize| median(&samples[which], |measured| measured.report.rate() * each[which]);
    let cpu = |which: usize| median(&samples[which], |measured| measured.cpu);
    for (which, name) in
        ["one CheckFeatures", "a CheckFeature each", "the same, 100 at once"].iter().enumerate()
    {
        println!(
            "| {name} | {:.0}/s | {:.1} | {:.2} µs | {:.1} | {} |",
            rate(which).value,
            rate(0).value / rate(which).value,
            cpu(which).value,
            cpu(which).value / cpu(0).value,
            spread(rate(which), cpu(which)),
        );
    }
    Ok(())
}

async fn about_many() -> anyhow::Result<()> {
    let database = Database::start("bench").await?;
    database.pin(LOAD)?;
    let ours = Server::ours(SERVER, &database.url(), &HOLDS_ALL).await?;
    let answer = ours.check(&question(0), "pro").await?;
    ensure!(answer.subject == user(0), "a wrong subject: {answer:?}");
    let body = framed(&question(0));
    let (at, count) = (database::place(&body)?, database.subjects);
    let busy = Plan { connections: 8, streams: 32, ..plan(&ours, CHECK, body, &ALLOWED) };
    let about = |count, once| Plan { subjects: Subjects { at, count, once }, ..busy.clone() };
    let filled = drive::run(&Plan { seconds: 3600.0, ..about(count, true) })?;
    ensure!(filled.answered == count, "{} of {count} could be read", filled.answered);
    title(&format!("{count} cached subjects, asked at random, against one, 8 × 32"));
    let plans = [about(1, false), about(count, false)];
    let samples = alternate(plans.len(), |which| ask(&ours, &plans[which], 1.0))?;
    head(&["", "answers", "ratio", "server CPU an answer", "ratio", "spread"]);
    let rate = |which: usize| median(&samples[which], |measured| measured.report.rate());
    let cpu = |which: usize| median(&samples[which], |measured| measured.cpu);
    for (which, name) in ["one of them".to_owned(), format!("all {count}")].iter().enumerate() {
        println!(
            "| {name} | {:.0}/s | {:.2} | {:.2} µs | {:.2} | {} |",
            rate(which).value,
            rate(which).value / rate(0).value,
            cpu(which).value,
            cpu(which).value / cpu(0).value,
            spread(rate(which), cpu(which)),
        );
    }
    drop(ours);
    database.stop().await
}
