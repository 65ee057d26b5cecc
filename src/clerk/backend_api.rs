//! The client of Clerk's Backend API: plans with their features, and subscriptions.
//!
//! Source: the `/billing/` paths of Clerk's OpenAPI description, version 2026-05-12, which is pinned. A subscription is
//! wrapped in the envelope of a webhook, so that the webhook parser reads it.

use super::{
    http_client::{self, InvalidUrl, ResponseError},
    json::{Json, Object},
    plans::{ListedPlan, Plans},
    rate_limit::RateLimit,
};
use crate::{
    domain::{Kind, Subject},
    telemetry::traceparent,
};
use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::sleep;

/// The pinned version of the Backend API.
const API_VERSION: &str = "2026-05-12";
/// The maximum number of rows in a page, as Clerk limits it.
const API_PAGE_ROWS: usize = 500;
/// How many rows the next page repeats: so many rows may disappear meanwhile without another being skipped.
const PAGE_OVERLAP_LEN: usize = 20;
/// The largest accepted answer, in bytes: a page of items has about 1 MiB.
const MAX_ANSWER_LEN: usize = 32 * 1024 * 1024;
/// How often a request is attempted.
const MAX_ATTEMPTS: u32 = 5;
/// The longest pause before a retry, also if Clerk's `Retry-After` is longer.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a list is read because rows moved while it was read.
const MAX_LIST_ATTEMPTS: u32 = 5;

/// A client of Clerk's Backend API.
#[derive(Debug, Clone)]
pub struct BackendApi {
    client: Client,
    base: Url,
    rate_limit: Arc<RateLimit>,
}

/// An error of the Backend API, classified by how a caller can react.
#[derive(Debug, thiserror::Error)]
pub enum BackendApiError {
    /// A setting is invalid.
    #[error("{0}")]
    Setting(&'static str),
    /// Clerk rejects the key.
    #[error(
        "Clerk refuses the key ({0}): check that CLERK_SECRET_KEY is of this instance and not revoked"
    )]
    Refused(String),
    /// Clerk accepts the key, but Billing is not enabled for the instance.
    #[error(
        "Clerk Billing is not enabled for this instance ({0}): enable it in Clerk's dashboard, under Billing"
    )]
    NotEnabled(String),
    /// Clerk cannot be reached, or fails. The same request may succeed later.
    #[error("Clerk's Backend API is unavailable: {0}")]
    Unavailable(String),
    /// Clerk's answer cannot be parsed.
    #[error("unexpected answer of Clerk's Backend API: {0}")]
    Unexpected(String),
}

/// A subscription or subscription item, in the envelope of a webhook.
#[derive(Debug, Clone)]
pub struct BackendSubscription {
    /// The payer.
    pub subject: Subject,
    /// The bytes of the envelope.
    pub body: Bytes,
}

/// A page of subscription items.
#[derive(Debug)]
pub struct Items {
    /// The items that name their payer.
    pub observed: Vec<BackendSubscription>,
    /// The number of items in this page without a payer.
    pub without_payer: usize,
    /// The number of items in all pages.
    pub total: usize,
    /// The offset of the next page, if there is one.
    pub next: Option<usize>,
}

/// A page of a list, with unparsed rows.
struct Listing {
    rows: Vec<String>,
    total: usize,
}

impl BackendApi {
    /// Creates a client for the API at `base`, such as `https://api.clerk.com/v1`, with a secret key.
    pub fn new(base: &str, key: &SecretString) -> Result<Self, BackendApiError> {
        let base = http_client::url(base).map_err(|invalid| {
            BackendApiError::Setting(match invalid {
                InvalidUrl::Malformed => "CLERK_API_URL must be as https://api.clerk.com/v1",
                InvalidUrl::PlainText => {
                    "CLERK_API_URL is http://, which would send CLERK_SECRET_KEY in plain text: use https://"
                }
            })
        })?;
        let key = key.expose_secret().trim();
        let bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok();
        let mut bearer = bearer.filter(|_| key.starts_with("sk_")).ok_or(BackendApiError::Setting(
            "CLERK_SECRET_KEY is not a secret key (sk_…): copy it from the API keys page of Clerk's dashboard",
        ))?;
        bearer.set_sensitive(true);
        let version = HeaderValue::from_static(API_VERSION);
        let headers =
            [(AUTHORIZATION, bearer), ("clerk-api-version".parse().expect("a name"), version)];
        let client = http_client::client(&base)
            .default_headers(HeaderMap::from_iter(headers))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(|e| BackendApiError::Unavailable(e.to_string()))?;
        let rate_limit = Arc::new(RateLimit::of(key));
        Ok(Self { client, base, rate_limit })
    }

    /// The id of the instance that the key belongs to, if Clerk's answer has it.
    pub async fn instance(&self) -> Result<Option<String>, BackendApiError> {
        let found = self.get("instance", &[]).await?;
        Ok(found.and_then(|found| object(&found)?.identifier("id").ok().flatten()))
    }

    /// All plans with their features, as a catalog. A list without a valid plan is an error, because an empty catalog
    /// would revoke all entitlements.
    pub async fn plans(&self) -> Result<Plans, BackendApiError> {
        let mut plans = Plans::default();
        for row in self.all("billing/plans").await? {
            match ListedPlan::of_api(&row) {
                Ok(plan) => plan.add_to(&mut plans.catalog),
                Err(why) => plans.left_out.push(why),
            }
        }
        if plans.catalog.plans() == 0 {
            let more = plans.left_out.first().map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(unexpected(format!("the list of plans has no valid plan{more}")));
        }
        Ok(plans)
    }

    /// The subscription of a payer; `None`: Clerk has none.
    pub async fn subscription(
        &self,
        subject: &Subject,
    ) -> Result<Option<BackendSubscription>, BackendApiError> {
        let folder = match subject.kind() {
            Kind::User => "users",
            Kind::Organization => "organizations",
        };
        let path = format!("{folder}/{subject}/billing/subscription");
        let Some(found) = self.get(&path, &[]).await? else { return Ok(None) };
        Ok(Some(observation("api.subscription", subject.clone(), &found)))
    }

    /// A page of the subscription items of all payers, including free items, newest first.
    pub async fn items(&self, offset: usize) -> Result<Items, BackendApiError> {
        let path = "billing/subscription_items?include_free=true";
        let page = self.page(path, offset).await?;
        let (count, total) = (page.rows.len(), page.total);
        let observe = |row: &String| Some(observation("api.item", payer(row)?, row));
        let observed: Vec<_> = page.rows.iter().filter_map(observe).collect();
        let end = offset + count;
        let next = (count > 0 && end < total).then_some(end - PAGE_OVERLAP_LEN.min(count / 2));
        Ok(Items { without_payer: count - observed.len(), observed, total, next })
    }

    /// All rows of a list. Clerk sorts them newest first, so a new row moves others to the next page, and a removed row
    /// makes the next page skip one. The list is therefore read again until the number of rows matches `total_count`.
    async fn all(&self, path: &str) -> Result<Vec<String>, BackendApiError> {
        for _ in 0..MAX_LIST_ATTEMPTS {
            let (mut rows, mut offset) = (BTreeMap::new(), 0);
            let total = loop {
                let page = self.page(path, offset).await?;
                let count = page.rows.len();
                // A row without an id is identified by its text.
                let id = |row: &str| object(row)?.text("id").ok().flatten();
                let keyed = |row: String| (id(&row).unwrap_or_else(|| row.clone()), row);
                rows.extend(page.rows.into_iter().map(keyed));
                offset += count;
                if count == 0 || offset >= page.total {
                    break page.total;
                }
            };
            if rows.len() == total {
                return Ok(rows.into_values().collect());
            }
        }
        Err(BackendApiError::Unavailable(format!(
            "the rows of {path} changed during each of {MAX_LIST_ATTEMPTS} reads"
        )))
    }

    async fn page(&self, path: &str, offset: usize) -> Result<Listing, BackendApiError> {
        let query = [("limit", API_PAGE_ROWS.to_string()), ("offset", offset.to_string())];
        let page = self.get(path, &query).await?;
        let page = page.ok_or_else(|| unexpected(format!("{path} was not found (404)")))?;
        let listing = object(&page).and_then(|page| {
            let rows = page.array("data").ok()??.iter().map(ToString::to_string).collect();
            let total = page.whole("total_count").ok()??.try_into().ok()?;
            Some(Listing { rows, total })
        });
        listing.ok_or_else(|| {
            unexpected(format!("the answer of {path} lacks `data` or `total_count`"))
        })
    }

    /// One answer; `None`: 404. What may pass is tried again, with growing pauses.
    async fn get(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<String>, BackendApiError> {
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
            if attempt == MAX_ATTEMPTS {
                return Err(BackendApiError::Unavailable(format!(
                    "{reason} ({path}, {MAX_ATTEMPTS} attempts)"
                )));
            }
            sleep(pause.unwrap_or_else(|| backoff(attempt)).min(MAX_PAUSE)).await;
        }
    }

    async fn once(&self, url: Url) -> Result<Option<String>, Failed> {
        self.rate_limit.wait().await;
        let request = self.client.get(url).headers(traceparent());
        let answer = request.send().await.map_err(for_now)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let bytes = http_client::read(answer, MAX_ANSWER_LEN).await.map_err(unread)?;
                let malformed = |e| Failed::ForNow(format!("the answer is not JSON: {e}"), None);
                Ok(Some(Json::parse(&bytes).map_err(malformed)?.to_string()))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let pause =
                    answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                Err(Failed::ForNow("too many requests".into(), pause.map(Duration::from_secs)))
            }
            status if status.is_server_error() => Err(Failed::ForNow(status.to_string(), None)),
            status => Err(Failed::Finally(refused(status, code(answer).await.as_deref()))),
        }
    }
}

/// Why an attempt failed.
enum Failed {
    Finally(BackendApiError),
    /// The attempt can be repeated, after the pause in `Retry-After` if there is one.
    ForNow(String, Option<Duration>),
}

fn for_now(error: reqwest::Error) -> Failed {
    Failed::ForNow(http_client::failure(error), None)
}

fn unread(unread: ResponseError) -> Failed {
    match unread {
        ResponseError::Failed(failure) => Failed::ForNow(failure, None),
        ResponseError::TooLarge(_) => Failed::Finally(unexpected(unread.into())),
    }
}

/// A pause that doubles with each attempt, with jitter so that replicas do not retry at the same time.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(200 * 2_u64.pow(attempt) * fastrand::u64(50..150) / 100)
}

/// The error for a status that is not retried, by Clerk's error code if the answer has one.
fn refused(status: StatusCode, code: Option<&str>) -> BackendApiError {
    let is_key = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let reason = format!("{status}: {}", code.unwrap_or("no reason given"));
    match code {
        Some("billing_not_enabled" | "feature_not_enabled") => BackendApiError::NotEnabled(reason),
        Some("resource_not_found") => unexpected(reason),
        _ if is_key => BackendApiError::Refused(reason),
        _ => unexpected(reason),
    }
}

/// Clerk's error code. The message beside it is not used, because it may contain personal data.
async fn code(answer: Response) -> Option<String> {
    let body = http_client::read(answer, MAX_ANSWER_LEN).await.ok()?;
    let errors = Json::parse(&body).ok()?.object()?.array("errors").ok()??;
    errors.first()?.object()?.identifier("code").ok()?
}

fn unexpected(reason: String) -> BackendApiError {
    BackendApiError::Unexpected(reason)
}

fn object(text: &str) -> Option<Object<'_>> {
    Json::parse(text.as_bytes()).ok()?.object()
}

/// Wraps an answer in the envelope of a webhook. The envelope has no time of sending, so that a webhook about the same
/// change has the higher version, and a repeated answer has the same version.
fn observation(event: &str, subject: Subject, data: &str) -> BackendSubscription {
    let body = format!(r#"{{"type":"{event}","subject":"{subject}","data":{data}}}"#);
    BackendSubscription { subject, body: body.into() }
}

/// The payer of an item.
fn payer(row: &str) -> Option<Subject> {
    let payer = object(row)?.object("payer").ok()??;
    let id = |key| payer.text(key).ok().flatten();
    id("organization_id").or_else(|| id("user_id"))?.parse().ok()
}
