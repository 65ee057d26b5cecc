//! What a body means. The shape of `data` decides how it is read, not the event's name: names have changed
//! and will again, and the status inside is the truth.
//!
//! What no rule needs is not read, and cannot spoil anything. What is needed and cannot be read spoils only its own
//! part: the rest is applied, and the ledger says what was left out.

use super::{
    json::{Json, Misfit, Object},
    webhook_item::{Subscription, instant, observe},
};
use crate::domain::{Kind, Message, News, Observation, Reading, Snapshot, Subject, summary};
use chrono::{DateTime, Utc};
use std::{collections::BTreeMap, sync::Arc};

/// Envelope times below this are seconds; Clerk's documentation says milliseconds, its examples are seconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// More items than a body of Svix's usual size holds; each costs a round trip to Postgres.
const MOST_ITEMS: usize = 1000;
/// Longer than any id of an instance.
const LONGEST_INSTANCE: usize = 100;

/// Reads a body that is known to be Clerk's. `signed_at` is the time that was signed with it: it dates what has no
/// date of its own. `now` only tells absurd dates from possible ones.
#[must_use]
pub fn read(body: &[u8], signed_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Message {
    let reading = Reading::Parked(String::new());
    let mut message =
        Message { event: None, sent_at: None, instance: None, subject: None, reading };
    message.reading = open(body, signed_at, now, &mut message).unwrap_or_else(Reading::Parked);
    message
}

/// Opens the envelope, noting on `message` what it says; an error is why the body must be parked.
fn open(
    body: &[u8],
    signed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    message: &mut Message,
) -> Result<Reading, String> {
    if body.is_empty() {
        return Err("the body is empty".into());
    }
    let event = Json::parse(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let event = event.object().ok_or("the body is not an event: it is no object")?;
    let data = event.object("data");
    message.subject = payer_in(data.as_ref().ok().and_then(Option::as_ref));
    // One that cannot be read is not the one that is served.
    let instance = event.word("instance_id").unwrap_or_else(|_| Some("unreadable".into()));
    message.instance = instance.filter(|id| id.len() <= LONGEST_INSTANCE);
    let name = event.word("type").map_err(|e| e.to_string())?.ok_or("there is no `type`")?;
    message.event = Some(name.clone());
    let of = event.text("subject").ok().flatten().filter(|_| name.starts_with("api."));
    let asked = of.and_then(|id| id.parse().ok());
    message.subject = asked.clone().or(message.subject.take());

    let data = match data {
        Ok(data) => data.unwrap_or_default(),
        Err(misfit) if is_ours(&name) => return Err(misfit.to_string()),
        Err(_) => return Ok(ignored(&name)),
    };
    let shape = match shape(&name, &data) {
        Some(shape) => shape,
        None if is_ours(&name) => return Err("`data` is neither a subscription nor an item".into()),
        None => return Ok(ignored(&name)),
    };
    let in_ms = |t: i64| if t < SECONDS_BELOW { t.saturating_mul(1000) } else { t };
    let timestamp = event.whole("timestamp").ok().flatten().map(in_ms);
    message.sent_at = instant("timestamp", timestamp, now)?;
    let reader = Reader { asked, sent_at: message.sent_at, signed_at, now };
    let news = reader.news(shape, &data)?;
    message.subject = Some(news.subject().clone()); // its items may name the payer where it does not
    Ok(Reading::News(news))
}

/// Whether an event of this name must be about billing, so that nothing it says may be lost.
fn is_ours(name: &str) -> bool {
    name.starts_with("subscription")
        || name.starts_with("api.")
        || matches!(name, "user.deleted" | "organization.deleted")
}

fn ignored(name: &str) -> Reading {
    Reading::Ignored(format!("`{name}` does not change what anybody may use"))
}

/// What `data` looks like.
#[derive(Clone, Copy)]
enum Shape {
    Subscription,
    Item,
    Deletion(Kind),
}

fn shape(name: &str, data: &Object<'_>) -> Option<Shape> {
    let object = data.word("object").ok().flatten().unwrap_or_default();
    let is_deleted = data.truth("deleted") == Ok(Some(true));
    match (name, &*object) {
        ("user.deleted", _) => return Some(Shape::Deletion(Kind::User)),
        ("organization.deleted", _) => return Some(Shape::Deletion(Kind::Organization)),
        (_, "user") if is_deleted => return Some(Shape::Deletion(Kind::User)),
        (_, "organization") if is_deleted => return Some(Shape::Deletion(Kind::Organization)),
        _ => {}
    }
    // `object` counts more than the name: names of events have changed more often.
    let (subscription, item) = match &*object {
        object if object.ends_with("subscription_item") => (false, true),
        object if object.ends_with("subscription") => (true, false),
        _ => (
            name.starts_with("subscription.") || name == "api.subscription",
            name.starts_with("subscriptionItem.") || name == "api.item",
        ),
    };
    let has = |key| data.get(key).is_some();
    let has_list = has("items") || has("subscription_items");
    let has_plan = has("plan") || has("period_start");
    match (subscription, item) {
        (true, _) if has_plan && !has_list => Some(Shape::Item),
        (true, _) if has_list || has("id") || !object.is_empty() => Some(Shape::Subscription),
        (_, true) if matches!(data.array("items"), Ok(Some(_))) && !has_plan => {
            Some(Shape::Subscription)
        }
        (_, true) if has_plan || has("id") || !object.is_empty() => Some(Shape::Item),
        _ => None,
    }
}

/// What the envelope says, for reading `data`.
struct Reader {
    /// The payer, where this service asked Clerk about one.
    asked: Option<Subject>,
    sent_at: Option<DateTime<Utc>>,
    signed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl Reader {
    fn news(&self, shape: Shape, data: &Object<'_>) -> Result<News, String> {
        match shape {
            Shape::Subscription => self.subscription(data),
            Shape::Item => self.item_alone(data),
            Shape::Deletion(kind) => self.deletion(kind, data),
        }
    }

    fn deletion(&self, kind: Kind, data: &Object<'_>) -> Result<News, String> {
        if data.truth("deleted") == Ok(Some(false)) {
            return Err(
                "it says of itself that nothing was deleted, and a deletion is final".into()
            );
        }
        let id = data.text("id").map_err(|e| e.to_string())?.ok_or("the deletion names no id")?;
        let subject = Subject::of(kind, &id).map_err(|e| format!("`data.id` {e}"))?;
        Ok(News::Deleted { subject, at: self.sent_at.or(self.signed_at).unwrap_or(self.now) })
    }

    fn item_alone(&self, data: &Object<'_>) -> Result<News, String> {
        let (subject, remark) = self.payer(data, &[])?;
        let updated_at = self.version(data)?;
        let mut left_out = Vec::new();
        let alone = Subscription::none(updated_at, self.sent_at);
        let observed = observe(data, &alone, self.now, &mut left_out)?;
        Ok(News::Items { subject, items: vec![observed], snapshot: None, remark, left_out })
    }

    fn subscription(&self, data: &Object<'_>) -> Result<News, String> {
        let list = list(data);
        let elements = list.as_deref().unwrap_or_default();
        let objects: Vec<_> = elements.iter().filter_map(|element| element.object()).collect();
        let (subject, remark) = self.payer(data, &objects)?;
        let mut left_out = Vec::new();
        let status = data.word("status").unwrap_or_else(|misfit| {
            left_out.push(format!("the subscription's {misfit}"));
            None
        });
        let status = status.as_deref();
        if objects.len() < elements.len() {
            left_out.push("an item is no object".into());
        }
        let updated_at = self.version(data)?;
        let of = Subscription::read(data, updated_at, self.sent_at, status);
        let newest = self.items(&objects, &of, &mut left_out);

        let ids = || newest.keys().cloned().collect();
        let listed = match (status, elements.is_empty()) {
            (Some("ended" | "expired"), _) => Some(ids()),
            (_, false) if newest.is_empty() => return Err(summary(&left_out)),
            // What was not read may be one that must stay.
            (_, false) => left_out.is_empty().then(ids),
            (Some("abandoned" | "incomplete"), true) if list.is_ok() => Some(Vec::new()),
            (Some("canceled"), true) => None,
            (_, true) => return Err(contradiction(status, list.as_ref().err())),
        };
        // It cannot be older than the newest change that it shows.
        let shown = newest.values().map(|observed| observed.item.updated_at).max();
        let updated_at = shown.map_or(updated_at, |shown| shown.max(updated_at));
        let sent_at = self.sent_at.unwrap_or(updated_at);
        let canceled = elements.is_empty() && listed.is_none();
        let snapshot = Snapshot { updated_at, sent_at, listed, canceled };
        let snapshot = Some(snapshot).filter(|new| new.listed.is_some() || canceled);
        let items = newest.into_values().collect();
        Ok(News::Items { subject, items, snapshot, remark, left_out })
    }

    /// The items of a subscription that can be read. Of one that is listed twice, the later state counts.
    fn items(
        &self,
        objects: &[Object<'_>],
        of: &Subscription,
        left_out: &mut Vec<String>,
    ) -> BTreeMap<Arc<str>, Observation> {
        let version = |observed: &Observation| (observed.item.updated_at, observed.item.rank());
        let mut newest: BTreeMap<Arc<str>, Observation> = BTreeMap::new();
        for object in objects {
            match observe(object, of, self.now, left_out) {
                Err(why) => left_out.push(why),
                Ok(observed) => {
                    let known = newest.get(&observed.item.id).map(version);
                    if known.is_none_or(|known| known < version(&observed)) {
                        newest.insert(observed.item.id.clone(), observed);
                    }
                }
            }
        }
        newest
    }

    /// When Clerk last changed it, else when it was sent.
    fn version(&self, data: &Object<'_>) -> Result<DateTime<Utc>, String> {
        let updated_at = data.whole("updated_at").ok().flatten();
        let updated_at = instant("updated_at", updated_at, self.now)?;
        let dated = updated_at.or(self.sent_at).or(self.signed_at);
        dated.ok_or_else(|| "neither `updated_at` nor `timestamp`".into())
    }

    /// The payer that `data` names, else the one that its items name.
    fn payer(
        &self,
        data: &Object<'_>,
        items: &[Object<'_>],
    ) -> Result<(Subject, Option<&'static str>), String> {
        if let Some(asked) = &self.asked {
            return Ok((asked.clone(), None));
        }
        if let Some(found) = payer(data)? {
            return Ok(found);
        }
        let mut named = items.iter().filter_map(|item| payer(item).transpose());
        let found = named.next().transpose()?;
        for other in named {
            if found.as_ref().map(|(subject, _)| subject) != Some(&other?.0) {
                return Err("its items name several payers".into());
            }
        }
        found.ok_or_else(|| "no payer: no id of one is filled".into())
    }
}

/// The payer that an object names, with a remark if that is odd.
fn payer(data: &Object<'_>) -> Result<Option<(Subject, Option<&'static str>)>, String> {
    let Some(payer) = data.object("payer").ok().flatten() else { return Ok(None) };
    let id = |key| payer.text(key).map_err(|misfit| format!("the payer's {misfit}"));
    let both = "both payer ids are filled: the organization pays";
    let (kind, id, remark) = match (id("organization_id")?, id("user_id")) {
        (Some(id), Ok(None)) => (Kind::Organization, id, None),
        (Some(id), _) => (Kind::Organization, id, Some(both)),
        (None, user) => match user? {
            Some(id) => (Kind::User, id, None),
            None => return Ok(None),
        },
    };
    let subject = Subject::of(kind, &id).map_err(|e| format!("the payer's id {e}"))?;
    Ok(Some((subject, remark)))
}

/// The items of a subscription: webhooks and the Backend API call them by two names. Nothing is an empty list.
fn list<'j>(data: &Object<'j>) -> Result<Vec<Json<'j>>, Misfit> {
    let items = match (data.array("items"), data.array("subscription_items")) {
        (Ok(Some(items)), _) if !items.is_empty() => items,
        (_, Ok(Some(items))) => items,
        (Err(misfit), _) | (_, Err(misfit)) => return Err(misfit),
        (Ok(items), _) => items.unwrap_or_default(),
    };
    if items.len() > MOST_ITEMS {
        return Err(Misfit { key: "items", rule: "lists more than 1,000 of them" });
    }
    Ok(items)
}

/// A subscription that goes on has items: without any, something about it was not understood.
fn contradiction(status: Option<&str>, unreadable: Option<&Misfit>) -> String {
    let what = match status {
        Some(status) => format!("the subscription is `{status}`"),
        None => "the subscription has no status".into(),
    };
    match unreadable {
        Some(misfit) => format!("{what}, and {misfit}"),
        None => format!("{what}, and lists no item"),
    }
}

/// The payer, or another subject of the event, as far as it can be told from what may not be understood otherwise.
fn payer_in(data: Option<&Object<'_>>) -> Option<Subject> {
    let data = data?;
    let id = |data: &Object<'_>, of: &'static str, key| {
        data.object(of).ok().flatten()?.text(key).ok().flatten()
    };
    let payer = |data: &Object<'_>| {
        id(data, "payer", "organization_id").or_else(|| id(data, "payer", "user_id"))
    };
    let items = || list(data).unwrap_or_default().iter().find_map(|item| payer(&item.object()?));
    if let Some(payer) = payer(data).or_else(items) {
        return payer.parse().ok();
    }
    let own = data.text("id").ok().flatten().and_then(|id| id.parse().ok());
    own.or_else(|| id(data, "public_user_data", "user_id").and_then(|id| id.parse().ok()))
}
