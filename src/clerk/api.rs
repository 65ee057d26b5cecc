//! Clerk's Backend API: plans with their features, and what a payer has subscribed to.
//!
//! Source: the `/billing/` paths of Clerk's OpenAPI description, version 2026-05-12, which is pinned. What it says
//! of a subscription is put into the shape of a webhook's body, so that it is read by the same rules.

use super::{
    body::{is_word, misfit},
    pace::Pace,
};
use crate::{
    access::{Catalog, Kind, Plan, Slug, Subject},
    telemetry::traceparent,
};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// The version whose answers are understood.
const VERSION: &str = "2026-05-12";
/// The most rows that a page can have.
const PAGE: usize = 500;
/// How many items are asked for again with the next page: so many may go meanwhile without hiding another.
const OVERLAP: usize = 20;
/// How often a request is tried.
const ATTEMPTS: u32 = 5;
/// The longest pause before another try, also if Clerk asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a list is read anew because rows moved while it was read.
const READINGS: u32 = 5;

/// Asks Clerk's Backend API.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    base: Url,
    pace: Arc<Pace>,
}

/// What can go wrong, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The settings cannot work.
    #[error("{0}")]
    Setting(&'static str),
    /// Clerk does not accept the key.
    #[error("Clerk refuses the key ({0}): is CLERK_SECRET_KEY of this instance, and not revoked?")]
    Refused(StatusCode),
    /// Clerk cannot be reached, or fails; later it may work.
    #[error("Clerk's Backend API is unavailable: {0}")]
    Unavailable(String),
    /// Clerk answers what is not understood.
    #[error("Clerk's Backend API answered something unexpected: {0}")]
    Unexpected(String),
}

/// What a payer has subscribed to, in the shape of a webhook's body.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Who pays.
    pub subject: Subject,
    /// The body.
    pub body: Value,
}

/// A page of items.
#[derive(Debug)]
pub struct Items {
    /// What it tells of payers.
    pub observed: Vec<Observation>,
    /// How many of its items came without their payer.
    pub without_payer: usize,
    /// How many items there are in all.
    pub total: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
}

#[derive(Deserialize)]
struct Listing<T> {
    data: Vec<T>,
    total_count: usize,
}

#[derive(Deserialize)]
struct PlanRow {
    id: String,
    slug: String,
    for_payer_type: String,
    #[serde(default)]
    is_default: bool,
    features: Option<Vec<FeatureRow>>,
}

#[derive(Deserialize)]
struct FeatureRow {
    slug: String,
}

impl Api {
    /// Asks at `base`, such as `https://api.clerk.com/v1`, with this secret key.
    pub fn new(base: &str, key: &SecretString) -> Result<Self, ApiError> {
        let base = Url::parse(base).ok().filter(Url::has_host);
        let base =
            base.ok_or(ApiError::Setting("CLERK_API_URL must be as https://api.clerk.com/v1"))?;
        let key = key.expose_secret().trim();
        let bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok();
        let mut bearer = bearer.filter(|_| key.starts_with("sk_")).ok_or(ApiError::Setting(
            "CLERK_SECRET_KEY is no secret key (sk_…): copy it from the API keys page of Clerk's dashboard",
        ))?;
        bearer.set_sensitive(true);
        let version = HeaderValue::from_static(VERSION);
        let headers =
            [(AUTHORIZATION, bearer), ("clerk-api-version".parse().expect("a name"), version)];
        let client = Client::builder()
            .default_headers(HeaderMap::from_iter(headers))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| ApiError::Unavailable(e.to_string()))?;
        let pace = Arc::new(Pace::of(key));
        Ok(Self { client, base, pace })
    }

    /// The instance that the key belongs to, as far as Clerk tells.
    pub async fn instance(&self) -> Result<Option<String>, ApiError> {
        let found: Option<Value> = self.get("instance", &[]).await?;
        Ok(found.and_then(|found| found["id"].as_str().map(str::to_owned)))
    }

    /// All plans, with their features, as a catalog.
    pub async fn catalog(&self) -> Result<Catalog, ApiError> {
        let plans: Vec<PlanRow> =
            self.all("billing/plans", |plan: &PlanRow| plan.id.clone()).await?;
        let mut catalog = Catalog::default();
        for plan in plans {
            let kind = match plan.for_payer_type.as_str() {
                "user" => Kind::User,
                "org" | "organization" => Kind::Organization,
                other => return Err(unexpected(format!("plan `{}` is for `{other}`", plan.slug))),
            };
            // Without its features a plan would take from its holders what they have.
            let Some(features) = plan.features else {
                return Err(unexpected(format!("plan `{}` came without its features", plan.slug)));
            };
            let features = features.iter().map(|f| Ok((slug(&f.slug)?, None)));
            let features = features.collect::<Result<_, ApiError>>()?;
            catalog.add(kind, slug(&plan.slug)?, Plan { features }, plan.is_default);
        }
        Ok(catalog)
    }

    /// What a payer has subscribed to; `None`: Clerk knows of no subscription.
    pub async fn subscription(&self, subject: &Subject) -> Result<Option<Observation>, ApiError> {
        let folder = match subject.kind() {
            Kind::User => "users",
            Kind::Organization => "organizations",
        };
        let path = format!("{folder}/{subject}/billing/subscription");
        let Some(found): Option<Value> = self.get(&path, &[]).await? else { return Ok(None) };
        Ok(Some(Observation { body: as_event(subject, found)?, subject: subject.clone() }))
    }

    /// A page of the subscription items of all payers, also free ones, beginning with the newest.
    pub async fn items(&self, offset: usize) -> Result<Items, ApiError> {
        let path = "billing/subscription_items?include_free=true";
        let page: Listing<Value> = self.page(path, offset).await?;
        let (count, total) = (page.data.len(), page.total_count);
        let observed: Vec<_> = page.data.iter().filter_map(as_item_event).collect();
        let end = offset + count;
        let next = (count > 0 && end < total).then_some(end - OVERLAP.min(count / 2));
        Ok(Items { without_payer: count - observed.len(), observed, total, next })
    }

    /// All rows of a list. They are sorted newest first, so a new row pushes others to the next page, and one that
    /// goes hides another: the list is read anew until its count fits.
    async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        id: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, ApiError> {
        for _ in 0..READINGS {
            let (mut rows, mut offset) = (BTreeMap::new(), 0);
            let total = loop {
                let page: Listing<T> = self.page(path, offset).await?;
                let count = page.data.len();
                rows.extend(page.data.into_iter().map(|row| (id(&row), row)));
                offset += count;
                if count == 0 || offset >= page.total_count {
                    break page.total_count;
                }
            };
            if rows.len() == total {
                return Ok(rows.into_values().collect());
            }
        }
        Err(ApiError::Unavailable(format!("the rows of {path} keep moving while they are read")))
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        offset: usize,
    ) -> Result<Listing<T>, ApiError> {
        let query = [("limit", PAGE.to_string()), ("offset", offset.to_string())];
        let page = self.get(path, &query).await?;
        page.ok_or_else(|| unexpected(format!("{path} is not there (404)")))
    }

    /// One answer; `None`: 404. What may pass is tried again, with growing pauses.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, ApiError> {
        let mut url = self.base.clone();
        let (path, fixed) = path.split_once('?').unwrap_or((path, ""));
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url.set_query(Some(fixed).filter(|fixed| !fixed.is_empty()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (reason, pause) = match self.once(url.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::ForNow(reason, pause)) => (reason, pause),
            };
            if attempt == ATTEMPTS {
                return Err(ApiError::Unavailable(format!(
                    "{reason} ({path}, {ATTEMPTS} attempts)"
                )));
            }
            sleep(pause.unwrap_or_else(|| backoff(attempt)).min(LONGEST_PAUSE)).await;
        }
    }

    async fn once<T: DeserializeOwned>(&self, url: Url) -> Result<Option<T>, Failed> {
        self.pace.turn().await;
        let request = self.client.get(url).headers(traceparent());
        let answer = request.send().await.map_err(for_now)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let bytes = answer.bytes().await.map_err(for_now)?;
                let parsed = serde_json::from_slice(&bytes);
                parsed.map(Some).map_err(|e| {
                    Failed::ForNow(format!("a malformed answer: {}", misfit(&e)), None)
                })
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Failed::Finally(ApiError::Refused(status)))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let pause =
                    answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                Err(Failed::ForNow("too many requests".into(), pause.map(Duration::from_secs)))
            }
            status if status.is_server_error() => Err(Failed::ForNow(status.to_string(), None)),
            status => {
                Err(Failed::Finally(unexpected(format!("{status}: {}", reason(answer).await))))
            }
        }
    }
}

/// Why one try did not work.
enum Failed {
    Finally(ApiError),
    /// With the pause that Clerk asks for.
    ForNow(String, Option<Duration>),
}

fn for_now(error: reqwest::Error) -> Failed {
    let error = error.without_url();
    let mut told = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        told = format!("{told}: {cause}");
        source = cause.source();
    }
    Failed::ForNow(told, None)
}

/// A pause that doubles with each attempt, and differs between replicas.
fn backoff(attempt: u32) -> Duration {
    let jitter = RandomState::new().hash_one(attempt) % 100;
    Duration::from_millis(200 * 2_u64.pow(attempt) * (50 + jitter) / 100)
}

/// What Clerk says is wrong, by its code: the sentence beside it may name people.
async fn reason(answer: Response) -> String {
    let body = answer.bytes().await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = body["errors"][0]["code"].as_str().filter(|code| is_word(code));
    code.unwrap_or("no reason given").into()
}

fn unexpected(what: String) -> ApiError {
    ApiError::Unexpected(what)
}

fn slug(text: &str) -> Result<Slug, ApiError> {
    text.parse().map_err(|e| unexpected(format!("`{text}` {e}")))
}

/// A subscription of the Backend API as a webhook would tell of it. It has no time of sending: of two that tell of
/// the same change, the webhook counts, and asking twice tells nothing new.
fn as_event(subject: &Subject, mut found: Value) -> Result<Value, ApiError> {
    let data =
        found.as_object_mut().ok_or_else(|| unexpected("a subscription is no object".into()))?;
    let items = data.remove("subscription_items").filter(Value::is_array);
    let items =
        items.ok_or_else(|| unexpected("a subscription has no `subscription_items`".into()))?;
    data.insert("items".into(), items);
    let key = match subject.kind() {
        Kind::User => "user_id",
        Kind::Organization => "organization_id",
    };
    data.insert("payer".into(), json!({ key: subject.as_str() }));
    Ok(json!({ "type": "api.subscription", "data": found }))
}

/// An item of the Backend API as a webhook would tell of it; `None`: it does not say who pays.
fn as_item_event(row: &Value) -> Option<Observation> {
    let id = |key: &str| row["payer"][key].as_str().filter(|id| !id.is_empty());
    let subject = id("organization_id").or_else(|| id("user_id"))?.parse().ok()?;
    let body = json!({ "type": "api.item", "data": row });
    Some(Observation { subject, body })
}
