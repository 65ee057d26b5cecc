//! A running service and its callers.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::metrics::sample,
};
use chrono::Utc;
use entitlements::storage::{Author, Origin, Store};
use entitlements::{
    api::pb::{
        Account, CheckFeatureRequest, CheckFeatureResponse, DeliveryFilter,
        ListEntitlementsRequest, ReplayDeliveriesRequest, admin_client::AdminClient,
        entitlements_client::EntitlementsClient,
    },
    app::{Bound, Service},
    clerk::SigningSecret,
    config::Config,
    domain::Catalog,
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

/// The longest wait for a condition, on a machine that is busy with other things.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// One replica in this process, on ports that the kernel picked.
pub struct Replica {
    pub bound: Bound,
    pub channel: Channel,
    pub client: EntitlementsClient<Channel>,
    http: reqwest::Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The response to a webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The field `result`; empty if the body has none.
    pub fn result(&self) -> &str {
        self.body["result"].as_str().unwrap_or_default()
    }
}

/// Puts a catalog file in force, as a deployment does.
pub async fn apply_catalog(db: &Db, file: &str) {
    let store = Store::new(db.url.parse().unwrap());
    let (catalog, origin) = (Catalog::from_toml(file).unwrap(), Origin::service("a deployment"));
    store.apply_catalog(Author::Operator(None), &catalog, origin).await.unwrap();
    store.close().await;
}

/// The settings of the tests: the example catalog, and listeners on ports that the kernel picks.
pub fn config(db: &Db) -> Config {
    let catalog = Catalog::from_toml(include_str!("../../../catalog.example.toml")).unwrap();
    let catalog = (catalog, "catalog.example.toml".into());
    Config::for_tests(db.url.parse().unwrap(), secret(), catalog)
}

pub fn secret() -> SigningSecret {
    SigningSecret::parse(&SECRET.to_owned().into()).unwrap()
}

/// A client of plain HTTP without certificate authorities, because loading the system's takes longer than many
/// requests. It keeps no idle connections, because the service may be closing them.
pub fn plain_http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.pool_max_idle_per_host(0).build().unwrap()
}

/// Reads one of Clerk's payloads.
pub fn payload(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads").join(name);
    fs::read_to_string(path.with_added_extension("json")).unwrap()
}

impl Replica {
    /// Starts a replica and waits until it serves.
    pub async fn start(db: &Db) -> Self {
        Self::start_with(config(db)).await
    }

    /// Starts a replica with these settings and waits until it serves.
    pub async fn start_with(config: Config) -> Self {
        let replica = Self::launch(config).await;
        replica.serving().await;
        replica
    }

    /// Starts a replica with a fake Clerk and this catalog file.
    pub async fn with_clerk(db: &Db, clerk: &Clerk, catalog: Option<&str>) -> Self {
        let catalog = catalog.map(|text| (Catalog::from_toml(text).unwrap(), "file".into()));
        let backend_api = Some(clerk.access(KEY));
        Self::start_with(Config { backend_api, catalog, ..config(db) }).await
    }

    /// Starts a replica without waiting until it serves.
    pub async fn launch(config: Config) -> Self {
        let service = Service::start(config).await.unwrap();
        let bound = service.bound();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(service.run(async {
            let _ = stopped.await;
        }));
        let channel =
            Endpoint::from_shared(format!("http://{}", bound.api)).unwrap().connect_lazy();
        let client = EntitlementsClient::new(channel.clone());
        let http = plain_http();
        Self { bound, channel, client, http, stop, task }
    }

    /// Waits until the health service reports SERVING.
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
        timeout(TIMEOUT, serving).await.expect("it serves at last");
    }

    /// Delivers a signed body under a new id.
    pub async fn send(&self, body: &str) -> Answer {
        self.send_as(&new_id(), body).await
    }

    /// Delivers a signed body under this id.
    pub async fn send_as(&self, id: &str, body: &str) -> Answer {
        let webhook = format!("http://{}", self.bound.webhook);
        deliver(&self.http, &webhook, id, body).await.unwrap()
    }

    /// Delivers a signed body under this id, and repeats it after a 503, as Svix does: a machine with other work may be
    /// too slow for the deadline of one attempt.
    pub async fn send_until_answered(&self, id: &str, body: &str) -> Answer {
        let mut answer = None;
        eventually("the delivery is answered", async || {
            let attempt = self.send_as(id, body).await;
            let is_answered = attempt.status != 503;
            answer = Some(attempt);
            is_answered
        })
        .await;
        answer.unwrap()
    }

    /// Posts to the webhook endpoint with exactly these headers.
    pub async fn post(&self, headers: &[(&str, String)], body: impl Into<reqwest::Body>) -> Answer {
        let webhook = format!("http://{}", self.bound.webhook);
        post(&self.http, &webhook, headers, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("http://{}{path}", self.bound.operator));
        let response = response.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until this replica has processed all changes up to now, its own included.
    pub async fn caught_up(&self) {
        let now = UNIX_EPOCH.elapsed().unwrap();
        eventually("the changes up to now are processed", async || {
            let (_, metrics) = self.get("/metrics").await;
            sample(&metrics, "entitlements_changes_heard_at_seconds")
                .is_some_and(|seconds| Duration::from_secs_f64(seconds) > now)
        })
        .await;
    }

    /// Checks a feature for a user in an organization; either id may be empty.
    pub async fn check(&self, user: &str, org: &str, feature: &str) -> CheckFeatureResponse {
        let request = CheckFeatureRequest {
            user_id: user.into(),
            organization_id: org.into(),
            feature: feature.into(),
            ..Default::default()
        };
        answered(async || self.client.clone().check_feature(request.clone()).await).await
    }

    /// Lists the account of one subject.
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

    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// Replays matching deliveries, and returns their ids and new outcomes.
    pub async fn replay(&self, filter: DeliveryFilter, dry_run: bool) -> Vec<(String, String)> {
        let request =
            ReplayDeliveriesRequest { filter: Some(filter), dry_run, ..Default::default() };
        let replayed = self.admin().replay_deliveries(request).await.unwrap().into_inner().replayed;
        replayed.into_iter().map(|delivery| (delivery.svix_id, delivery.after)).collect()
    }

    /// Stops the service as SIGTERM does, and returns its result.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop((self.client, self.channel, self.http));
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// Waits until the service ends by itself.
    pub async fn ended(self) -> anyhow::Result<()> {
        timeout(TIMEOUT, self.task).await.expect("it ends at last").unwrap()
    }
}

/// A new id of a delivery.
pub fn new_id() -> String {
    format!("msg_{}", uuid::Uuid::now_v7().simple())
}

/// The headers of a delivery that is signed at an instant.
pub fn signed_headers(id: &str, timestamp: i64, body: &str) -> [(&'static str, String); 3] {
    [
        ("svix-id", id.to_owned()),
        ("svix-timestamp", timestamp.to_string()),
        ("svix-signature", secret().sign(id, timestamp, body)),
    ]
}

/// Delivers a signed body to the webhook listener at this URL.
pub async fn deliver(
    client: &reqwest::Client,
    webhook: &str,
    id: &str,
    body: &str,
) -> reqwest::Result<Answer> {
    let headers = signed_headers(id, Utc::now().timestamp(), body);
    post(client, webhook, &headers, body.to_owned()).await
}

/// Delivers a signed body, and returns whether it was acknowledged.
pub async fn is_acknowledged(
    client: &reqwest::Client,
    webhook: &str,
    id: &str,
    body: &str,
) -> bool {
    let answer = deliver(client, webhook, id, body).await;
    answer.is_ok_and(|answer| (200..300).contains(&answer.status))
}

/// Posts to the webhook endpoint of the listener at this URL with exactly these headers.
pub async fn post(
    client: &reqwest::Client,
    webhook: &str,
    headers: &[(&str, String)],
    body: impl Into<reqwest::Body>,
) -> reqwest::Result<Answer> {
    let mut request = client.post(format!("{webhook}/webhooks/clerk")).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

/// Makes a call, and repeats it while the service is overloaded or closes an old connection, as clients do.
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
    timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"));
}

/// Returns the value of a field from the JSON log of `serve`, for example one of its addresses.
pub async fn logged_field(log: &Path, name: &str) -> String {
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
