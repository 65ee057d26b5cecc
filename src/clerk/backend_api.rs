//! Clerk's Backend API: plans with their features, and what a payer has subscribed to.
//!
//! Source: the `/billing/` paths of Clerk's OpenAPI description, version 2026-05-12, which is pinned. What it says
//! of a subscription is put into the envelope of a webhook, so that it is read by the same rules.

use super::{
    http_client::{self, InvalidUrl, Unread},
    json::{Json, Object},
    rate_limit::Pace,
};
use crate::{
    domain::{Catalog, Kind, Plan, Slug, Subject},
    telemetry::traceparent,
};
use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
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
/// The largest answer: a page of items has about 1 MiB.
const LARGEST_ANSWER: usize = 32 * 1024 * 1024;
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
    Refused(String),
    /// The key is right, and the instance has no Billing.
    #[error(
        "Clerk Billing is not enabled for this instance ({0}): enable it in Clerk's dashboard, under Billing"
    )]
    NotEnabled(String),
    /// Clerk cannot be reached, or fails; later it may work.
    #[error("Clerk's Backend API is unavailable: {0}")]
    Unavailable(String),
    /// Clerk answers what is not understood.
    #[error("Clerk's Backend API answered something unexpected: {0}")]
    Unexpected(String),
}

/// What a payer has subscribed to, in the envelope of a webhook.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The payer.
    pub subject: Subject,
    /// The body.
    pub body: Bytes,
}

/// A page of items.
#[derive(Debug)]
pub struct Items {
    /// What it says of payers.
    pub observed: Vec<Observation>,
    /// How many of its items came without their payer.
    pub without_payer: usize,
    /// How many items there are in all.
    pub total: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
}

/// Clerk's plans.
#[derive(Debug, Default)]
pub struct Plans {
    /// Those that could be read.
    pub catalog: Catalog,
    /// Why others could not: what is known of them stays as it is.
    pub left_out: Vec<String>,
}

/// A page of a list, its rows as they came.
struct Listing {
    rows: Vec<String>,
    total: usize,
}

impl Api {
    /// Asks at `base`, such as `https://api.clerk.com/v1`, with this secret key.
    pub fn new(base: &str, key: &SecretString) -> Result<Self, ApiError> {
        let base = http_client::url(base).map_err(|invalid| {
            ApiError::Setting(match invalid {
                InvalidUrl::Malformed => "CLERK_API_URL must be as https://api.clerk.com/v1",
                InvalidUrl::PlainText => {
                    "CLERK_API_URL is http://, which would send CLERK_SECRET_KEY in plain text: use https://"
                }
            })
        })?;
        let key = key.expose_secret().trim();
        let bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok();
        let mut bearer = bearer.filter(|_| key.starts_with("sk_")).ok_or(ApiError::Setting(
            "CLERK_SECRET_KEY is no secret key (sk_…): copy it from the API keys page of Clerk's dashboard",
        ))?;
        bearer.set_sensitive(true);
        let version = HeaderValue::from_static(VERSION);
        let headers =
            [(AUTHORIZATION, bearer), ("clerk-api-version".parse().expect("a name"), version)];
        let client = http_client::client(&base)
            .default_headers(HeaderMap::from_iter(headers))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(|e| ApiError::Unavailable(e.to_string()))?;
        let pace = Arc::new(Pace::of(key));
        Ok(Self { client, base, pace })
    }

    /// The instance that the key belongs to, as far as Clerk says.
    pub async fn instance(&self) -> Result<Option<String>, ApiError> {
        let found = self.get("instance", &[]).await?;
        Ok(found.and_then(|found| object(&found)?.word("id").ok().flatten()))
    }

    /// All plans, with their features, as a catalog. A list without any is an error: it would take everything from
    /// everybody.
    pub async fn plans(&self) -> Result<Plans, ApiError> {
        let mut plans = Plans::default();
        for row in self.all("billing/plans").await? {
            if let Err(why) = add_plan(&mut plans.catalog, &row) {
                plans.left_out.push(why);
            }
        }
        if plans.catalog.plans() == 0 {
            let more = plans.left_out.first().map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(unexpected(format!("there is no plan in the list of plans{more}")));
        }
        Ok(plans)
    }

    /// What a payer has subscribed to; `None`: Clerk knows of no subscription.
    pub async fn subscription(&self, subject: &Subject) -> Result<Option<Observation>, ApiError> {
        let folder = match subject.kind() {
            Kind::User => "users",
            Kind::Organization => "organizations",
        };
        let path = format!("{folder}/{subject}/billing/subscription");
        let Some(found) = self.get(&path, &[]).await? else { return Ok(None) };
        Ok(Some(observation("api.subscription", subject.clone(), &found)))
    }

    /// A page of the subscription items of all payers, also free ones, beginning with the newest.
    pub async fn items(&self, offset: usize) -> Result<Items, ApiError> {
        let path = "billing/subscription_items?include_free=true";
        let page = self.page(path, offset).await?;
        let (count, total) = (page.rows.len(), page.total);
        let observe = |row: &String| Some(observation("api.item", payer(row)?, row));
        let observed: Vec<_> = page.rows.iter().filter_map(observe).collect();
        let end = offset + count;
        let next = (count > 0 && end < total).then_some(end - OVERLAP.min(count / 2));
        Ok(Items { without_payer: count - observed.len(), observed, total, next })
    }

    /// All rows of a list. They are sorted newest first, so a new row pushes others to the next page, and one that
    /// goes hides another: the list is read anew until its count fits.
    async fn all(&self, path: &str) -> Result<Vec<String>, ApiError> {
        for _ in 0..READINGS {
            let (mut rows, mut offset) = (BTreeMap::new(), 0);
            let total = loop {
                let page = self.page(path, offset).await?;
                let count = page.rows.len();
                // One without an id is known by its text.
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
        Err(ApiError::Unavailable(format!("the rows of {path} keep moving while they are read")))
    }

    async fn page(&self, path: &str, offset: usize) -> Result<Listing, ApiError> {
        let query = [("limit", PAGE.to_string()), ("offset", offset.to_string())];
        let page = self.get(path, &query).await?;
        let page = page.ok_or_else(|| unexpected(format!("{path} is not there (404)")))?;
        let listing = object(&page).and_then(|page| {
            let rows = page.array("data").ok()??.iter().map(ToString::to_string).collect();
            let total = page.whole("total_count").ok()??.try_into().ok()?;
            Some(Listing { rows, total })
        });
        listing.ok_or_else(|| unexpected(format!("{path} answers without `data` or `total_count`")))
    }

    /// One answer; `None`: 404. What may pass is tried again, with growing pauses.
    async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Option<String>, ApiError> {
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

    async fn once(&self, url: Url) -> Result<Option<String>, Failed> {
        self.pace.turn().await;
        let request = self.client.get(url).headers(traceparent());
        let answer = request.send().await.map_err(for_now)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let bytes = http_client::read(answer, LARGEST_ANSWER).await.map_err(unread)?;
                let malformed = |e| Failed::ForNow(format!("a malformed answer: {e}"), None);
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

/// Why one try did not work.
enum Failed {
    Finally(ApiError),
    /// With the pause that Clerk asks for.
    ForNow(String, Option<Duration>),
}

fn for_now(error: reqwest::Error) -> Failed {
    Failed::ForNow(http_client::failure(error), None)
}

fn unread(unread: Unread) -> Failed {
    match unread {
        Unread::Failed(failure) => Failed::ForNow(failure, None),
        Unread::TooLarge(_) => Failed::Finally(unexpected(unread.into())),
    }
}

/// A pause that doubles with each attempt, and differs between replicas.
fn backoff(attempt: u32) -> Duration {
    let jitter = RandomState::new().hash_one(attempt) % 100;
    Duration::from_millis(200 * 2_u64.pow(attempt) * (50 + jitter) / 100)
}

/// What Clerk's refusal means, by its code where it has one.
fn refused(status: StatusCode, code: Option<&str>) -> ApiError {
    let is_key = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let told = format!("{status}: {}", code.unwrap_or("no reason given"));
    match code {
        Some("billing_not_enabled" | "feature_not_enabled") => ApiError::NotEnabled(told),
        Some("resource_not_found") => unexpected(told),
        _ if is_key => ApiError::Refused(told),
        _ => unexpected(told),
    }
}

/// What Clerk says is wrong, by its code: the sentence beside it may name people.
async fn code(answer: Response) -> Option<String> {
    let body = http_client::read(answer, LARGEST_ANSWER).await.ok()?;
    let errors = Json::parse(&body).ok()?.object()?.array("errors").ok()??;
    errors.first()?.object()?.word("code").ok()?
}

fn unexpected(what: String) -> ApiError {
    ApiError::Unexpected(what)
}

fn object(text: &str) -> Option<Object<'_>> {
    Json::parse(text.as_bytes()).ok()?.object()
}

/// Adds a plan of Clerk's list; an error is why it cannot be.
fn add_plan(catalog: &mut Catalog, row: &str) -> Result<(), String> {
    let row = object(row).ok_or("a plan is no object")?;
    let text = row.text("slug").map_err(|e| e.to_string())?.ok_or("a plan has no slug")?;
    let named = |why: &dyn std::fmt::Display| format!("plan `{text}`: {why}");
    let slug: Slug = text.parse().map_err(|e| format!("the slug of a plan {e}"))?;
    let kind = match row.word("for_payer_type").map_err(|e| named(&e))?.as_deref() {
        Some("user") => Kind::User,
        Some("org" | "organization") => Kind::Organization,
        _ => return Err(named(&"it says neither that it is for users nor for organizations")),
    };
    // Without its features a plan would take from its holders what they have.
    let features = row.array("features").map_err(|e| named(&e))?;
    let features = features.ok_or_else(|| named(&"it came without its features"))?;
    let feature = |feature: &Json<'_>| {
        let slug = feature.object().and_then(|feature| feature.text("slug").ok().flatten());
        let slug = slug.and_then(|slug| slug.parse::<Slug>().ok());
        Ok((slug.ok_or_else(|| named(&"a feature has no slug"))?, None))
    };
    let features = features.iter().map(feature).collect::<Result<_, String>>()?;
    let id = row.word("id").ok().flatten().map(Into::into);
    let is_default = row.truth("is_default").ok().flatten().unwrap_or(false);
    catalog.add(kind, slug, Plan { id, retired: false, features }, is_default);
    Ok(())
}

/// What Clerk says, as a webhook would. It has no time of sending: of two that say the same change, the webhook counts,
/// and asking twice says nothing new.
fn observation(event: &str, subject: Subject, data: &str) -> Observation {
    let body = format!(r#"{{"type":"{event}","subject":"{subject}","data":{data}}}"#);
    Observation { subject, body: body.into() }
}

/// The payer of an item.
fn payer(row: &str) -> Option<Subject> {
    let payer = object(row)?.object("payer").ok()??;
    let id = |key| payer.text(key).ok().flatten();
    id("organization_id").or_else(|| id("user_id"))?.parse().ok()
}
