//! Shared parts of the benches: servers and loads on separate cores, alternating rounds, and medians.
//!
//! `ROUNDS=15` sets the number of rounds (default 7), `SUBJECTS=10000` the number of subjects in the database (default
//! a million).

#![allow(dead_code, reason = "each bench uses a part of this")]

pub mod database;
pub mod deliver;
pub mod drive;
mod empty;
mod frames;

use anyhow::{Context, ensure};
use entitlements::api::pb::{
    CheckFeatureRequest, CheckFeatureResponse, entitlements_client::EntitlementsClient,
};
use prost::Message;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::sleep,
};
use tonic::transport::{Channel, Endpoint};

/// The secret that signs deliveries.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The core of the server.
pub const SERVER: &str = "0";
/// The core of the load.
pub const LOAD: &str = "1";
/// Both cores, for a server and a load that share them.
pub const BOTH: &str = "0,1";

/// Runs a bench. The empty server and the load are this program, started again on other cores.
pub fn run(bench: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["empty", address] => Runtime::new()?.block_on(empty::serve(address)),
        ["deliver", plan] => one_thread()?.block_on(deliver::serve(plan)),
        ["drive", plan] => one_thread()?.block_on(drive::serve(plan)),
        _ => Runtime::new()?.block_on(async {
            needs("taskset", "-V", "util-linux")?;
            let versions = Command::new("uname").arg("-srm").output()?.stdout;
            println!("on {}", String::from_utf8_lossy(&versions).trim());
            bench().await
        }),
    }
}

fn one_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Fails if a program is not installed.
pub fn needs(program: &str, version: &str, package: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg(version).stdout(Stdio::null()).status();
    ensure!(found.is_ok(), "{program} is missing: apt-get install {package}");
    Ok(())
}

/// Reads a number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Prints the title of a table, and the load of the machine before.
pub fn title(text: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n## {text}\n\nload average before: {}\n", load.trim());
}

/// Prints the header of a table.
pub fn head(columns: &[&str]) {
    println!("| {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len()));
}

/// Measures the variants in alternating rounds, and returns all values of each variant.
pub fn alternate<T>(
    variants: usize,
    mut measure: impl FnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut measured: Vec<Vec<T>> = (0..variants).map(|_| Vec::new()).collect();
    for _ in 0..number("ROUNDS", 7) {
        for (variant, values) in measured.iter_mut().enumerate() {
            values.push(measure(variant)?);
        }
    }
    Ok(measured)
}

/// The median of some values.
#[derive(Clone, Copy)]
pub struct Median {
    pub value: f64,
    /// Half the interquartile range, relative to the median.
    pub spread: f64,
}

/// The median of the values that `of` returns.
pub fn median<T>(measured: &[T], of: impl Fn(&T) -> f64) -> Median {
    let mut values: Vec<f64> = measured.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[values.len() * part / 4];
    Median { value: at(2), spread: (at(3) - at(1)) / 2.0 / at(2) }
}

/// The larger of two spreads, in percent.
pub fn spread(one: Median, other: Median) -> String {
    format!("±{:.0} %", 100.0 * one.spread.max(other.spread))
}

/// A command that runs a program on some cores.
pub fn pinned(cores: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program.as_ref());
    command
}

/// A server process on its cores.
pub struct Server {
    child: Child,
    pub grpc: String,
    pub http: String,
    /// The value of `authorization`; empty for none.
    pub key: String,
    _callers: TempDir,
}

impl Server {
    /// Starts the empty handlers on tonic's server with default settings.
    pub async fn empty(cores: &str) -> anyhow::Result<Self> {
        let grpc = free().await?;
        let child = pinned(cores, env::current_exe()?).args(["empty", &grpc]).spawn()?;
        let (http, key) = (String::new(), String::new());
        let server = Self { child, grpc, http, key, _callers: tempfile::tempdir()? };
        let began = Instant::now();
        while TcpStream::connect(&server.grpc).await.is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "the empty server does not start");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// Starts `entitlements serve`, built as released, and waits until it answers.
    pub async fn ours(cores: &str, database: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let server = Self::starting(cores, database, flags).await?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts `entitlements serve` without waiting until it answers.
    pub async fn starting(cores: &str, database: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let (grpc, http) = (free().await?, free().await?);
        #[expect(clippy::disallowed_methods, reason = "the log of a bench")]
        let log = env::temp_dir().join(format!("entitlements-bench-{}.log", std::process::id()));
        let callers = tempfile::tempdir()?;
        let file = callers.path().join("callers.toml");
        let made = Command::new(env!("CARGO_BIN_EXE_entitlements"))
            .args([
                "keys",
                "create",
                "bench",
                "--scope",
                "check",
                "--scope",
                "support",
                "--callers",
            ])
            .arg(&file)
            .output()?;
        ensure!(made.status.success(), "no key could be made");
        let key = format!("Bearer {}", String::from_utf8(made.stdout)?.trim());
        let child = pinned(cores, env!("CARGO_BIN_EXE_entitlements"))
            .args(["serve", "--migrate", "--operator-listen", "127.0.0.1:0"])
            .args(flags)
            .env("DATABASE_URL", database)
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env(
                "ENTITLEMENTS_CATALOG",
                concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"),
            )
            .env("ENTITLEMENTS_CALLERS", file)
            .envs([("ENTITLEMENTS_API_LISTEN", &grpc), ("ENTITLEMENTS_WEBHOOK_LISTEN", &http)])
            .stderr(fs::File::create(log)?)
            .spawn()?;
        Ok(Self { child, grpc, http, key, _callers: callers })
    }

    /// Waits until the server answers checks.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.is_ready().await.unwrap_or(false) {
            ensure!(began.elapsed() < Duration::from_mins(2), "the service does not get ready");
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> std::io::Result<bool> {
        let mut io = TcpStream::connect(&self.http).await?;
        io.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        io.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    }

    /// Delivers one of Clerk's events.
    pub fn deliver(&self, payload: &str) -> anyhow::Result<()> {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(payload);
        let sent = Command::new(env!("CARGO_BIN_EXE_entitlements"))
            .arg("send")
            .arg(file)
            .args(["--url", &format!("http://{}/webhooks/clerk", self.http), "--secret", SECRET])
            .stdout(Stdio::null())
            .status();
        ensure!(sent?.success(), "the delivery was not taken");
        Ok(())
    }

    /// A request with the server's `authorization`.
    pub fn signed<T>(&self, message: T) -> anyhow::Result<tonic::Request<T>> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.key.parse()?);
        Ok(request)
    }

    /// Connects to the gRPC listener.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.grpc))?.connect().await?)
    }

    pub async fn client(&self) -> anyhow::Result<EntitlementsClient<Channel>> {
        Ok(EntitlementsClient::new(self.channel().await?))
    }

    /// Makes one check, and verifies that its response is right before responses are timed.
    pub async fn check(
        &self,
        request: &CheckFeatureRequest,
        plan: &str,
    ) -> anyhow::Result<CheckFeatureResponse> {
        let request = self.signed(request.clone())?;
        let answer = self.client().await?.check_feature(request).await?.into_inner();
        ensure!(answer.allowed && answer.plan == plan, "a wrong answer: {answer:?}");
        Ok(answer)
    }

    /// The processor time of the server's threads.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let taken = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        });
        Ok(taken.sum())
    }

    /// The memory of the server, in bytes.
    pub fn memory(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.trim().parse::<f64>()? * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // the process may have ended already
        let _ = self.child.wait();
    }
}

async fn free() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

/// A message in a gRPC frame.
pub fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), &message].concat()
}
