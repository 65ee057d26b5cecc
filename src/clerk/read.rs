//! What a body means. The shape of `data` decides how it is read, not the event's name: names have changed
//! and will again, and the status inside is the truth.

use super::body::{Data, Event, Object, Payer, filled, has_nul, is_word, misfit};
use crate::access::{
    Item, Kind, Message, News, Observation, Reading, Seats, Slug, Snapshot, Status, Subject,
};
use chrono::{DateTime, Duration, Utc};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, sync::Arc};

/// Envelope times below this are seconds; Clerk's documentation says milliseconds, its examples are seconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// 2015-01-01: no version can be older.
const EARLIEST: i64 = 1_420_070_400_000;
/// 2200-01-01: no period ends later.
const LATEST: i64 = 7_258_118_400_000;
/// Longer than any id of an instance.
const LONGEST_INSTANCE: usize = 100;
/// How far ahead of our clock a version may be. A single one dated 2099 would outrank all that follows.
const AHEAD: Duration = Duration::hours(24);

/// Reads a body that is known to be Clerk's. `now` only tells absurd dates from possible ones.
#[must_use]
pub fn read(body: &[u8], now: DateTime<Utc>) -> Message {
    let reading = Reading::Parked(String::new());
    let mut message =
        Message { event: None, sent_at: None, instance: None, subject: None, reading };
    message.reading = open(body, now, &mut message).unwrap_or_else(Reading::Parked);
    message
}

/// Opens the envelope, noting on `message` what it says; an error is why the body must be parked.
fn open(body: &[u8], now: DateTime<Utc>, message: &mut Message) -> Result<Reading, String> {
    if body.is_empty() {
        return Err("the body is empty".into());
    }
    let value: serde_json::Value = serde_json::from_slice(body)
        .map_err(|e| format!("the body is not JSON: {}", misfit(&e)))?;
    if has_nul(&value) {
        return Err("a string holds the character U+0000, which cannot be stored".into());
    }
    let Object(event): Object<Event<'_>> = serde_json::from_slice(body)
        .map_err(|e| format!("the body is not an event: {}", misfit(&e)))?;
    let name = event.r#type.as_ref().and_then(serde_json::Value::as_str);
    let name = text("type", name.ok_or("`type` is not a string")?)?;
    message.event = Some(name.into());
    let instance = event.instance_id.as_ref().and_then(serde_json::Value::as_str);
    let instance = instance.filter(|id| id.len() <= LONGEST_INSTANCE && is_word(id));
    message.instance = instance.map(Into::into);
    message.subject = payer_in(&value["data"]);
    message.sent_at = instant_sent(event.timestamp, now)?;
    let reader = Reader { name, sent_at: message.sent_at, now };
    Ok(reader.reading(event.data.map(RawValue::get)))
}

/// What the envelope says, for reading `data`.
struct Reader<'e> {
    name: &'e str,
    sent_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

/// What `data` looks like.
enum Shape {
    Subscription,
    Item,
    Deletion(Kind),
    Other,
}

impl Reader<'_> {
    fn reading(&self, data: Option<&str>) -> Reading {
        let data: Result<Object<Data>, _> = serde_json::from_str(data.unwrap_or("null"));
        let data = match data {
            Ok(Object(data)) => data,
            Err(error) if self.is_named_ours() => {
                return Reading::Parked(format!("`data` cannot be read: {}", misfit(&error)));
            }
            Err(_) => return self.ignored(),
        };
        let news = match self.shape(&data) {
            Shape::Subscription => self.subscription(&data),
            Shape::Item => self.item_alone(&data),
            Shape::Deletion(kind) => self.deletion(kind, &data),
            Shape::Other if self.is_named_ours() => {
                Err("`data` is neither a subscription nor an item".into())
            }
            Shape::Other => return self.ignored(),
        };
        news.map_or_else(Reading::Parked, Reading::News)
    }

    fn is_named_ours(&self) -> bool {
        self.name.starts_with("subscription")
            || matches!(self.name, "user.deleted" | "organization.deleted")
    }

    fn ignored(&self) -> Reading {
        Reading::Ignored(format!("`{}` does not change what anybody may use", self.name))
    }

    fn shape(&self, data: &Data) -> Shape {
        let object = filled(data.object.as_ref()).unwrap_or_default();
        match (self.name, object) {
            ("user.deleted", _) => return Shape::Deletion(Kind::User),
            ("organization.deleted", _) => return Shape::Deletion(Kind::Organization),
            (_, "user") if data.deleted == Some(true) => return Shape::Deletion(Kind::User),
            (_, "organization") if data.deleted == Some(true) => {
                return Shape::Deletion(Kind::Organization);
            }
            _ => {}
        }
        if data.items.is_some() {
            return Shape::Subscription;
        }
        if data.plan.is_some() || data.period_start.is_some() {
            return Shape::Item;
        }
        match object {
            "commerce_subscription" | "subscription" => Shape::Subscription,
            "commerce_subscription_item" | "subscription_item" => Shape::Item,
            _ if filled(data.id.as_ref()).is_none() => Shape::Other,
            _ if self.name.starts_with("subscription.") => Shape::Subscription,
            _ if self.name.starts_with("subscriptionItem.") => Shape::Item,
            _ => Shape::Other,
        }
    }

    fn deletion(&self, kind: Kind, data: &Data) -> Result<News, String> {
        let id = filled(data.id.as_ref()).ok_or("the deletion names no id")?;
        let subject = Subject::of(kind, id).map_err(|e| format!("`data.id` {e}"))?;
        Ok(News::Deleted { subject, at: self.sent_at.unwrap_or(self.now) })
    }

    fn item_alone(&self, data: &Data) -> Result<News, String> {
        let (subject, remark) = payer(data.payer.as_ref())?;
        let updated_at = self.version(data, None)?;
        let item = self.item(data, updated_at, None)?;
        Ok(News::Items { subject, items: vec![item], snapshot: None, remark })
    }

    fn subscription(&self, data: &Data) -> Result<News, String> {
        let items = data.items.as_deref().unwrap_or_default();
        let inner = || items.iter().find_map(|Object(item)| item.payer.as_ref());
        let (subject, remark) = payer(data.payer.as_ref().or_else(inner))?;
        let updated_at = self.version(data, None)?;
        let sent_at = self.sent_at.unwrap_or(updated_at);
        let status = filled(data.status.as_ref());

        let mut newest: BTreeMap<Arc<str>, Observation> = BTreeMap::new();
        for Object(inner) in items {
            let mut observed =
                self.item(inner, self.version(inner, Some(updated_at))?, data.past_due_at)?;
            if status == Some("ended") {
                observed.item.status = Status::Ended; // a subscription that is over grants nothing
            }
            let version = |item: &Item| (item.updated_at, item.rank());
            let known = newest.get(&observed.item.id).map(|known| version(&known.item));
            if known.is_none_or(|known| known < version(&observed.item)) {
                newest.insert(observed.item.id.clone(), observed);
            }
        }
        let listed = match (status, data.items.is_some()) {
            _ if !items.is_empty() => Some(newest.keys().cloned().collect()),
            (Some("canceled"), _) | (Some("active" | "past_due"), false) => None,
            (None, false) => return Err("the subscription has neither status nor items".into()),
            (_, _) => Some(Vec::new()),
        };
        let canceled = status == Some("canceled");
        let snapshot = Some(Snapshot { updated_at, sent_at, listed, canceled });
        Ok(News::Items { subject, items: newest.into_values().collect(), snapshot, remark })
    }

    /// When Clerk last changed it: its own date, else that of its subscription, else when it was sent.
    fn version(&self, data: &Data, of: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, String> {
        match data.updated_at {
            Some(ms) => version("updated_at", ms, self.now),
            None => {
                of.or(self.sent_at).ok_or_else(|| "neither `updated_at` nor `timestamp`".into())
            }
        }
    }

    fn item(
        &self,
        data: &Data,
        updated_at: DateTime<Utc>,
        subscription_past_due_at: Option<i64>,
    ) -> Result<Observation, String> {
        let word = filled(data.status.as_ref()).ok_or("an item has no status")?;
        let status = Status::from(text("status", word)?);
        let past_due_at = match status {
            Status::PastDue => data.past_due_at.or(subscription_past_due_at),
            _ => data.past_due_at,
        };
        let plan = data.plan.as_ref().map(|Object(plan)| plan);
        let slug = plan.and_then(|plan| filled(plan.slug.as_ref()));
        let plan_id = plan.and_then(|plan| filled(plan.id.as_ref()));
        let plan_id = plan_id.or_else(|| filled(data.plan_id.as_ref()));
        let slug = slug.map(|s| s.parse::<Slug>().map_err(|e| format!("`plan.slug` {e}")));
        let item = Item {
            id: text("id", filled(data.id.as_ref()).ok_or("an item has no id")?)?.into(),
            plan: slug.transpose()?.map(|slug| slug.as_str().into()),
            free_trial: data.is_free_trial.unwrap_or(false),
            period_start: date("period_start", data.period_start)?,
            period_end: date("period_end", data.period_end)?,
            canceled_at: date("canceled_at", data.canceled_at)?,
            past_due_at: date("past_due_at", past_due_at)?,
            seats: data.seats.as_ref().map(|Object(seats)| Seats(seats.quantity)),
            status,
            updated_at,
        };
        let plan_id = plan_id.map(|id| text("plan_id", id)).transpose()?.map(Into::into);
        Ok(Observation { item, plan_id, sent_at: self.sent_at.unwrap_or(updated_at) })
    }
}

/// Who pays, or whom else it is about, as far as it can be told from what may not be understood otherwise.
fn payer_in(data: &serde_json::Value) -> Option<Subject> {
    let id = |of: &str, key: &str| data[of][key].as_str().filter(|id| !id.is_empty());
    let payer = id("payer", "organization_id").or_else(|| id("payer", "user_id"));
    let subject = |id: &str| id.parse().ok();
    match payer {
        Some(payer) => subject(payer),
        None => data["id"]
            .as_str()
            .and_then(subject)
            .or_else(|| id("public_user_data", "user_id").and_then(subject)),
    }
}

/// Who pays. Where both ids are filled, the organization does.
fn payer(payer: Option<&Object<Payer>>) -> Result<(Subject, Option<&'static str>), String> {
    let Some(Object(payer)) = payer else { return Err("no payer".into()) };
    let user = filled(payer.user_id.as_ref());
    let organization = filled(payer.organization_id.as_ref());
    let (kind, id, remark) = match (organization, user) {
        (Some(id), Some(_)) => {
            (Kind::Organization, id, Some("both payer ids are filled: the organization pays"))
        }
        (Some(id), None) => (Kind::Organization, id, None),
        (None, Some(id)) => (Kind::User, id, None),
        (None, None) => return Err("no payer: both its ids are empty".into()),
    };
    let subject = Subject::of(kind, id).map_err(|e| format!("the payer's id {e}"))?;
    Ok((subject, remark))
}

/// An identifier that may be stored and logged.
fn text<'t>(key: &str, text: &'t str) -> Result<&'t str, String> {
    if text.len() > 128 {
        Err(format!("`{key}` is longer than 128 bytes"))
    } else if !is_word(text) {
        Err(format!("`{key}` is not made of letters, digits, `.`, `_` and `-`"))
    } else {
        Ok(text)
    }
}

fn instant_sent(
    timestamp: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    let in_ms = |t: i64| if t < SECONDS_BELOW { t.saturating_mul(1000) } else { t };
    timestamp.map(|t| version("timestamp", in_ms(t), now)).transpose()
}

/// An instant that orders news: it must be possible.
fn version(key: &str, ms: i64, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let latest = (now + AHEAD).timestamp_millis();
    between(key, ms, EARLIEST, latest, "between 2015 and 24 h from now")
}

/// A date of an item, in milliseconds.
fn date(key: &str, ms: Option<i64>) -> Result<Option<DateTime<Utc>>, String> {
    ms.map(|ms| between(key, ms, EARLIEST, LATEST, "between 2015 and 2200")).transpose()
}

fn between(key: &str, ms: i64, from: i64, to: i64, rule: &str) -> Result<DateTime<Utc>, String> {
    let possible = (from..=to).contains(&ms).then(|| DateTime::from_timestamp_millis(ms)).flatten();
    possible.ok_or_else(|| format!("`{key}` is {ms}, which in milliseconds is not {rule}"))
}
