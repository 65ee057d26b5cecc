//! A running service, and its callers.

use crate::db::Db;
use chrono::Utc;
use clap::ValueEnum;
use entitlements::{
    api::pb::{
        Account, CheckFeatureRequest, CheckFeatureResponse, ListEntitlementsRequest,
        entitlements_client::EntitlementsClient,
    },
    app::{Bound, Service},
    clerk::{Secret, Verifier},
    config::{Config, Locks, Protocol},
    domain::{Catalog, Grace},
    server::http::Cors,
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub const ADA: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
pub const GRACE: &str = "user_3llFSIU97IZ58TKn1MKtkiFnLJl";
pub const LINUS: &str = "user_3rTjLHkv87ruGNomK3aMXCvp4Qu";
pub const JOAN: &str = "user_3RVkjAMD6tuLJUtI1bOUSpCxDTw";
pub const ACME: &str = "org_33t5p7lH0lkGbc1kebn7yzQP47w";

/// How long a condition may take to hold, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// One replica, in this process, on ports that the kernel picked.
pub struct Replica {
    pub bound: Bound,
    pub channel: Channel,
    pub client: EntitlementsClient<Channel>,
    http: reqwest::Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// What a webhook was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The `result`, or nothing.
    pub fn result(&self) -> &str {
        self.body["result"].as_str().unwrap_or_default()
    }
}

/// The settings that tests use: the example catalog, and listeners that cannot collide.
pub fn config(db: &Db) -> Config {
    let catalog = Catalog::from_toml(include_str!("../../catalog.example.toml")).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        database: db.url.parse().unwrap(),
        migrate: false,
        verifier: Verifier::new(vec![secret()]),
        api: None,
        instance: None,
        catalog: Some((catalog, "catalog.example.toml".into())),
        grpc: any,
        http: any,
        internal: any,
        protocols: Protocol::value_variants().to_vec(),
        public_url: None,
        ofrep_cors: Cors::default(),
        sessions: None,
        trusted_claims: None,
        grace: Grace::default(),
        max_staleness: Duration::from_hours(1),
        check_timeout: Duration::from_secs(2),
        body_retention: chrono::Duration::days(30),
        locks: Locks::default(),
        admin: true,
        cache_bytes: 1 << 20,
        log_denials: None,
        otlp_endpoint: None,
        connection_age: Duration::from_mins(10),
        stop_within: Duration::from_secs(5),
        stop_delay: Duration::ZERO,
    }
}

pub fn secret() -> Secret {
    Secret::parse(&SECRET.to_owned().into()).unwrap()
}

/// A client of plain HTTP. It knows no authorities: to read those of this machine takes longer than many requests. It
/// keeps no connection from one request to the next, which the service may be closing at that moment.
pub fn plain_http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.pool_max_idle_per_host(0).build().unwrap()
}

/// One of Clerk's payloads, whole.
pub fn payload(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(name);
    fs::read_to_string(path.with_added_extension("json")).unwrap()
}

impl Replica {
    /// Starts a replica and waits until it answers.
    pub async fn start(db: &Db) -> Self {
        let replica = Self::launch(config(db)).await;
        replica.serving().await;
        replica
    }

    /// Starts a replica, whether or not it can answer.
    pub async fn launch(config: Config) -> Self {
        let service = Service::start(config).await.unwrap();
        let bound = service.bound();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(service.run(async {
            let _ = stopped.await;
        }));
        let channel =
            Endpoint::from_shared(format!("http://{}", bound.grpc)).unwrap().connect_lazy();
        let client = EntitlementsClient::new(channel.clone());
        let http = plain_http();
        Self { bound, channel, client, http, stop, task }
    }

    /// Waits until health says that this replica answers.
    pub async fn serving(&self) {
        let mut health = HealthClient::new(self.channel.clone());
        let mut states = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        let serving = async {
            while let Some(state) = states.message().await.unwrap() {
                if state.status == ServingStatus::Serving as i32 {
                    return;
                }
            }
            panic!("the health stream ended");
        };
        timeout(PATIENCE, serving).await.expect("it serves at last");
    }

    /// Delivers a signed body under a new id.
    pub async fn send(&self, body: &str) -> Answer {
        self.send_as(&format!("msg_{}", uuid::Uuid::now_v7().simple()), body).await
    }

    /// Delivers a signed body under this id.
    pub async fn send_as(&self, id: &str, body: &str) -> Answer {
        let now = Utc::now().timestamp();
        let headers = [
            ("svix-id", id.to_owned()),
            ("svix-timestamp", now.to_string()),
            ("svix-signature", secret().sign(id, now, body)),
        ];
        self.post(&headers, body.to_owned()).await
    }

    /// Posts to the webhook endpoint with exactly these headers.
    pub async fn post(&self, headers: &[(&str, String)], body: impl Into<reqwest::Body>) -> Answer {
        let url = format!("http://{}/webhooks/clerk", self.bound.http);
        let mut request = self.http.post(url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("http://{}{path}", self.bound.internal));
        let response = response.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until this replica has heard all changes up to now, also those that it made itself.
    pub async fn heard(&self) {
        let now = UNIX_EPOCH.elapsed().unwrap();
        eventually("the changes up to now are heard", async || {
            let (_, metrics) = self.get("/metrics").await;
            let heard = metrics.lines().find_map(|line| {
                line.strip_prefix("entitlements_changes_heard_at_seconds ")?.parse::<f64>().ok()
            });
            heard.is_some_and(|seconds| Duration::from_secs_f64(seconds) > now)
        })
        .await;
    }

    /// May this user, in this organization (either may be empty), use this feature?
    pub async fn check(&self, user: &str, org: &str, feature: &str) -> CheckFeatureResponse {
        let request = CheckFeatureRequest {
            user_id: user.into(),
            organization_id: org.into(),
            feature: feature.into(),
            ..Default::default()
        };
        answered(async || self.client.clone().check_feature(request.clone()).await).await
    }

    /// Everything of one subject.
    pub async fn account(&self, subject: &str) -> Account {
        let mut request = ListEntitlementsRequest::default();
        if subject.starts_with("org_") {
            request.organization_id = subject.into();
        } else {
            request.user_id = subject.into();
        }
        let response =
            answered(async || self.client.clone().list_entitlements(request.clone()).await).await;
        response.accounts.into_iter().next().unwrap()
    }

    /// Stops as on SIGTERM, and tells how that went.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop((self.client, self.channel, self.http));
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// Waits until the service ends by itself.
    pub async fn ended(self) -> anyhow::Result<()> {
        timeout(PATIENCE, self.task).await.expect("it ends at last").unwrap()
    }
}

/// The answer of a call, made again while the service is too busy, or closes a connection that is old, as a client would.
async fn answered<T>(call: impl AsyncFn() -> Result<Response<T>, Status>) -> T {
    let mut answer = None;
    eventually("the call is answered", async || match call().await {
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Cancelled) => false,
        other => {
            answer = Some(other.unwrap().into_inner());
            true
        }
    })
    .await;
    answer.unwrap()
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        let mut tick = interval(Duration::from_millis(5));
        while !holds().await {
            tick.tick().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

/// What `serve` says in its log of one of its addresses.
pub async fn said(log: &Path, name: &str) -> String {
    let mut found = None;
    eventually("serve says where it listens", async || {
        let text = fs::read_to_string(log).unwrap();
        found = text.lines().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line[name].as_str().map(str::to_owned)
        });
        found.is_some()
    })
    .await;
    found.unwrap()
}
