//! A cached check over Connect against the same check over gRPC, and the floor of HTTP/1.1.
//!
//! `cargo bench --bench connect` needs h2load (Debian: `apt-get install nghttp2-client`) and two cores: the service gets
//! the first, h2load the second. gRPC has 8 connections with 32 calls each; over HTTP/1.1, a connection has one call, so
//! there are 256. The floor is a probe, which reads no body and asks nothing. `ROUNDS=15` sets the number of rounds
//! (default 7), `CALLS=10000` the calls of a round (default 60,000).

mod support;

use anyhow::{Context, ensure};
use prost::Message;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{
    LOAD, SERVER, Server, alternate,
    database::{Database, question},
    framed, head, median, needs, number, pinned, spread, title,
};

const CHECK: &str = "/entitlements.v1.Entitlements/CheckFeature";

/// One way to send a request.
struct Way {
    name: &'static str,
    url: String,
    /// The content type and the file of the body; a GET without.
    body: Option<(&'static str, PathBuf)>,
    is_http1: bool,
}

fn main() -> anyhow::Result<()> {
    support::run(async || {
        needs("h2load", "--version", "nghttp2-client")?;
        let folder = tempfile::tempdir()?;
        let database = Database::start("bench").await?;
        database.pin(LOAD)?;
        let ours = Server::ours(SERVER, &database.url(), &["--log", "warn"]).await?;
        ours.check(&question(0), "pro").await?;
        compare(&ours, &ways(&ours, folder.path())?)?;
        database.stop().await
    })
}

fn ways(ours: &Server, folder: &Path) -> anyhow::Result<Vec<Way>> {
    let asked = question(0);
    let json = json!({ "userId": asked.user_id, "feature": asked.feature }).to_string();
    let file = |name: &str, content: &[u8]| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, content)?;
        Ok(path)
    };
    let grpc = ("application/grpc", file("grpc", &framed(&asked))?);
    let binary = ("application/proto", file("proto", &asked.encode_to_vec())?);
    let json = ("application/json", file("json", json.as_bytes())?);
    let check = format!("http://{}{CHECK}", ours.grpc);
    let way = |name, body: &(&'static str, PathBuf), is_http1| Way {
        name,
        url: check.clone(),
        body: Some(body.clone()),
        is_http1,
    };
    let probe = format!("http://{}/livez", ours.http);
    Ok(vec![
        way("gRPC, 8 × 32", &grpc, false),
        way("Connect, binary, HTTP/1.1, 256 × 1", &binary, true),
        way("Connect, JSON, HTTP/1.1, 256 × 1", &json, true),
        Way { name: "a probe, HTTP/1.1, 256 × 1", url: probe, body: None, is_http1: true },
        way("Connect, binary, HTTP/2, 8 × 32", &binary, false),
        way("Connect, JSON, HTTP/2, 8 × 32", &json, false),
    ])
}

fn compare(ours: &Server, ways: &[Way]) -> anyhow::Result<()> {
    title("A cached check over Connect, against gRPC");
    head(&["call", "rate", "ratio", "server CPU a call", "spread"]);
    let measured = alternate(ways.len(), |way| ways[way].measure(ours))?;
    let rate = |way: usize| median(&measured[way], |(rate, _)| *rate);
    for (nth, way) in ways.iter().enumerate() {
        let (this, grpc) = (rate(nth), rate(0));
        let cpu = median(&measured[nth], |(_, cpu)| *cpu).value;
        let ratio = this.value / grpc.value;
        let spread = spread(this, grpc);
        println!("| {} | {:.0}/s | {ratio:.2} | {cpu:.1} µs | {spread} |", way.name, this.value);
    }
    Ok(())
}

impl Way {
    /// The calls per second, and the processor time of the server for each, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand calls")]
    fn measure(&self, ours: &Server) -> anyhow::Result<(f64, f64)> {
        let calls = number("CALLS", 60_000);
        let crowd = if self.is_http1 { ["256", "1"] } else { ["8", "32"] };
        let mut load = pinned(LOAD, "h2load");
        load.args(["-t", "1", "-n", &calls.to_string(), "-c", crowd[0], "-m", crowd[1]]);
        load.args(self.is_http1.then_some("--h1"));
        if let Some((content_type, file)) = &self.body {
            load.arg("-d").arg(file).args(["-H", &format!("content-type: {content_type}")]);
            load.args(["-H", "te: trailers", "-H", &format!("authorization: {}", ours.key)]);
        }
        let before = ours.cpu()?;
        let output = load.arg(&self.url).output()?;
        let cpu = ours.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / calls as f64;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.contains(&format!("status codes: {calls} 2xx")), "not all answered: {text}");
        let rate = text.split(" req/s").next().and_then(|text| text.rsplit(' ').next());
        Ok((rate.context("h2load printed no rate")?.parse()?, cpu))
    }
}
