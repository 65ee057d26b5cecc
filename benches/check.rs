//! A cached `CheckFeature` against an empty tonic server with the same proto, over the wire.
//!
//! `cargo bench --bench check` needs h2load (Debian: `apt-get install nghttp2-client`) and two cores: the server gets
//! the first, the load the second; in the last shape both share both. The variants take turns of a second, and the
//! medians of the rounds are compared. `ROUNDS=15` asks for more than 7.

use anyhow::{Context, ensure};
use entitlements::{
    embedded::{Binaries, Embedded},
    grpc::pb::{
        self, CheckFeatureRequest, CheckFeatureResponse,
        entitlements_client::EntitlementsClient,
        entitlements_server::{Entitlements, EntitlementsServer},
    },
};
use prost::Message;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Server, server::TcpIncoming},
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const USER: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
const PATH: &str = "entitlements.v1.Entitlements/CheckFeature";

/// Connections, streams in flight on each, and whether both sides share both cores.
const SHAPES: [(usize, usize, bool); 5] =
    [(8, 32, false), (64, 4, false), (64, 1, false), (1, 1, false), (8, 32, true)];

/// What is compared: the first is the baseline.
const VARIANTS: [&str; 2] = ["empty tonic server", "entitlements"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if env::args().nth(1).as_deref() == Some("empty") {
        return serve_nothing().await;
    }
    let found = Command::new("h2load").arg("--version").stdout(Stdio::null()).status();
    ensure!(found.is_ok(), "h2load is missing: apt-get install nghttp2-client");
    let folder = tempfile::tempdir()?;
    let request = CheckFeatureRequest {
        user_id: USER.into(),
        feature: "export".into(),
        ..Default::default()
    };
    let body = folder.path().join("body");
    fs::write(&body, framed(&request))?;
    let postgres = Embedded::temporary(&Binaries::from_env()?).await?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average before: {}", load.trim());
    println!(
        "| connections × streams | {} | {} | ratio | spread | p99 |",
        VARIANTS[0], VARIANTS[1]
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for shape in SHAPES {
        let cores = if shape.2 { ["0,1", "0,1"] } else { ["0", "1"] };
        let empty = Running::empty(cores[0]).await?;
        let ours = Running::ours(cores[0], &postgres, folder.path()).await?;
        deliver(&ours)?;
        check(&ours, &request).await?;
        compare(shape, cores[1], &[&empty, &ours], &body)?;
    }
    postgres.stop().await
}

fn framed(request: &CheckFeatureRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// A server on its cores.
struct Running {
    child: Child,
    grpc: String,
    http: String,
}

impl Running {
    async fn empty(cores: &str) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let grpc = format!("127.0.0.1:{port}");
        let child = pinned(cores, &env::current_exe()?).args(["empty", &grpc]).spawn()?;
        wait_for(&grpc).await?;
        Ok(Self { child, grpc, http: String::new() })
    }

    async fn ours(cores: &str, postgres: &Embedded, folder: &Path) -> anyhow::Result<Self> {
        let free = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            anyhow::Ok(listener.local_addr()?.to_string())
        };
        let (grpc, http) = (free().await?, free().await?);
        let child = pinned(cores, &PathBuf::from(env!("CARGO_BIN_EXE_entitlements")))
            .args(["serve", "--migrate", "--internal-listen", "127.0.0.1:0"])
            .env("DATABASE_URL", postgres.url("entitlements"))
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env("CATALOG", concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"))
            .envs([("GRPC_LISTEN", &grpc), ("HTTP_LISTEN", &http)])
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        wait_for(&grpc).await?;
        Ok(Self { child, grpc, http })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
    }
}

fn pinned(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

async fn wait_for(address: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        ensure!(began.elapsed() < Duration::from_secs(20), "nothing listens on {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn deliver(ours: &Running) -> anyhow::Result<()> {
    let payload =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/subscriptionItem.active.json");
    let sent = Command::new(env!("CARGO_BIN_EXE_entitlements"))
        .args(["send", payload, "--url", &format!("http://{}/webhooks/clerk", ours.http)])
        .args(["--secret", SECRET])
        .stdout(Stdio::null())
        .status();
    ensure!(sent?.success(), "the delivery was not taken");
    Ok(())
}

/// The answer that is timed is the right one.
async fn check(ours: &Running, request: &CheckFeatureRequest) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{}", ours.grpc))?.connect().await?;
    let answer = EntitlementsClient::new(channel).check_feature(request.clone()).await?;
    let answer = answer.into_inner();
    ensure!(answer.allowed && answer.plan == "pro", "a wrong answer: {answer:?}");
    Ok(())
}

fn compare(
    (connections, streams, shared): (usize, usize, bool),
    cores: &str,
    servers: &[&Running],
    body: &Path,
) -> anyhow::Result<()> {
    let rounds = env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let mut rates = vec![Vec::new(); servers.len()];
    let mut slowest = vec![Vec::new(); servers.len()];
    for _ in 0..rounds {
        for (i, server) in servers.iter().enumerate() {
            let (rate, p99) = measure(connections, streams, cores, server, body)?;
            rates[i].push(rate);
            slowest[i].push(p99);
        }
    }
    let (rates, p99) = (rates.map_medians(), slowest.map_medians());
    let cores = if shared { ", two cores" } else { "" };
    println!(
        "| {connections} × {streams}{cores} | {:.0}/s | {:.0}/s | {:.2} | ±{:.0} % | {:.0} µs, {:.0} µs |",
        rates[0].0,
        rates[1].0,
        rates[1].0 / rates[0].0,
        100.0 * rates[0].1.max(rates[1].1),
        p99[0].0,
        p99[1].0,
    );
    Ok(())
}

trait Medians {
    /// The median of each, and how far half of the values are from it.
    fn map_medians(self) -> Vec<(f64, f64)>;
}

impl Medians for Vec<Vec<f64>> {
    fn map_medians(self) -> Vec<(f64, f64)> {
        let medians = self.into_iter().map(|mut values| {
            values.sort_by(f64::total_cmp);
            let at = |part: usize| values[values.len() * part / 4];
            (at(2), (at(3) - at(1)) / 2.0 / at(2))
        });
        medians.collect()
    }
}

/// Requests in a second, and the 99th percentile of their times in microseconds.
fn measure(
    connections: usize,
    streams: usize,
    cores: &str,
    server: &Running,
    body: &Path,
) -> anyhow::Result<(f64, f64)> {
    let times = body.with_extension("times");
    let _ = fs::remove_file(&times); // h2load appends
    let output = pinned(cores, Path::new("h2load"))
        .args(["-D", "1", "--warm-up-time=300ms", "-H", "content-type: application/grpc"])
        .args(["-H", "te: trailers", "-c", &connections.to_string(), "-m", &streams.to_string()])
        .args([
            "-d",
            body.to_str().context("a path")?,
            "--log-file",
            times.to_str().context("a path")?,
        ])
        .arg(format!("http://{}/{PATH}", server.grpc))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains(" 0 failed, 0 errored, 0 timeout"), "requests failed: {text}");
    let rate = text.lines().find_map(|line| {
        let (_, rest) = line.strip_prefix("finished in ")?.split_once(", ")?;
        rest.split_once(" req/s")?.0.parse().ok()
    });
    let mut times: Vec<f64> = fs::read_to_string(&times)?
        .lines()
        .filter_map(|line| line.rsplit_once('\t')?.1.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    let p99 = *times.get(times.len() * 99 / 100).context("no times")?;
    Ok((rate.context("no rate")?, p99))
}

/// The baseline.
async fn serve_nothing() -> anyhow::Result<()> {
    let address = env::args().nth(2).context("an address")?.parse()?;
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    Server::builder()
        .add_service(EntitlementsServer::new(Nothing))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Nothing;

#[tonic::async_trait]
impl Entitlements for Nothing {
    async fn check_feature(
        &self,
        _: Request<CheckFeatureRequest>,
    ) -> Result<Response<CheckFeatureResponse>, Status> {
        Ok(Response::new(CheckFeatureResponse { allowed: true, ..Default::default() }))
    }

    async fn check_features(
        &self,
        _: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        Ok(Response::new(pb::CheckFeaturesResponse::default()))
    }

    async fn check_plan(
        &self,
        _: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        Ok(Response::new(pb::CheckPlanResponse::default()))
    }

    async fn list_entitlements(
        &self,
        _: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        Ok(Response::new(pb::ListEntitlementsResponse::default()))
    }
}
