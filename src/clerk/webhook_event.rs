//! Parses the body of a webhook. The form of `data` decides how it is parsed, not the name of the event: Clerk has
//! changed names before, and the status inside `data` is authoritative.
//!
//! Fields that no rule needs are not parsed, so they cannot cause an error. A needed field that cannot be parsed
//! affects only its own part: the rest is applied, and the ledger names the parts that were left out.

use super::{
    json::{Json, Misfit, Object},
    webhook_item::{Subscription, instant, observe},
};
use crate::domain::{
    Kind, ObservedItem, Parsed, Snapshot, Subject, SubscriptionUpdate, WebhookEvent, summary,
};
use chrono::{DateTime, Utc};
use std::{collections::BTreeMap, sync::Arc};

/// A `timestamp` below this is in seconds: Clerk's documentation says milliseconds, its examples have seconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// The maximum number of items: more than a body of Svix's usual size holds. Each item costs a round trip to Postgres.
const MAX_LISTED_ITEMS: usize = 1000;
/// Longer than any instance id, in bytes.
const MAX_INSTANCE_LEN: usize = 100;

/// Parses a body whose signature was verified. `signed_at` is the signed time, which dates parts that have no date of
/// their own. `now` is only used to reject impossible dates.
#[must_use]
pub fn read(body: &[u8], signed_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> WebhookEvent {
    let parsed = Parsed::Parked(String::new());
    let mut webhook_event =
        WebhookEvent { event: None, sent_at: None, instance: None, subject: None, parsed };
    webhook_event.parsed =
        open(body, signed_at, now, &mut webhook_event).unwrap_or_else(Parsed::Parked);
    webhook_event
}

/// Parses the envelope into `webhook_event`, and `data`; an error says why the body must be parked.
fn open(
    body: &[u8],
    signed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    webhook_event: &mut WebhookEvent,
) -> Result<Parsed, String> {
    if body.is_empty() {
        return Err("the body is empty".into());
    }
    let event = Json::parse(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let event = event.object().ok_or("the body is not an event: it is not an object")?;
    let data = event.object("data");
    webhook_event.subject = payer_in(data.as_ref().ok().and_then(Option::as_ref));
    webhook_event.instance = instance_of(&event);
    let name = event.identifier("type").map_err(|e| e.to_string())?;
    let name = name.ok_or("the event has no `type`")?;
    webhook_event.event = Some(name.clone());
    let requested = event.text("subject").ok().flatten().filter(|_| name.starts_with("api."));
    let requested = requested.and_then(|id| id.parse().ok());
    webhook_event.subject = requested.clone().or(webhook_event.subject.take());

    let data = match data {
        Ok(data) => data.unwrap_or_default(),
        Err(misfit) if is_billing(&name) => return Err(misfit.to_string()),
        Err(_) => return Ok(ignored(&name)),
    };
    let shape = match shape(&name, &data) {
        Some(shape) => shape,
        None if is_billing(&name) => return Err("`data` is not a subscription or an item".into()),
        None => return Ok(ignored(&name)),
    };
    let in_ms = |t: i64| if t < SECONDS_BELOW { t.saturating_mul(1000) } else { t };
    let timestamp = event.whole("timestamp").ok().flatten().map(in_ms);
    webhook_event.sent_at = instant("timestamp", timestamp, now)?;
    let reader = Reader { requested, sent_at: webhook_event.sent_at, signed_at, now };
    let update = reader.update(shape, &data)?;
    webhook_event.subject = Some(update.subject().clone()); // the items may name a payer that `data` does not name
    Ok(Parsed::Update(update))
}

/// The instance that an event names. An id that cannot be parsed is not that of the served instance.
fn instance_of(event: &Object<'_>) -> Option<String> {
    let is_short = |id: &Option<String>| id.as_ref().is_none_or(|id| id.len() <= MAX_INSTANCE_LEN);
    let instance = event.identifier("instance_id").ok().filter(is_short);
    instance.unwrap_or_else(|| Some("unreadable".into()))
}

/// Whether an event of this name must be about billing, so that it is parked if it cannot be parsed.
fn is_billing(name: &str) -> bool {
    name.starts_with("subscription")
        || name.starts_with("api.")
        || matches!(name, "user.deleted" | "organization.deleted")
}

fn ignored(name: &str) -> Parsed {
    Parsed::Ignored(format!("`{name}` does not affect entitlements"))
}

/// The form of `data`.
#[derive(Clone, Copy)]
enum Shape {
    Subscription,
    Item,
    Deletion(Kind),
}

fn shape(name: &str, data: &Object<'_>) -> Option<Shape> {
    let object = data.identifier("object").ok().flatten().unwrap_or_default();
    let is_deleted = data.truth("deleted") == Ok(Some(true));
    match (name, &*object) {
        ("user.deleted", _) => return Some(Shape::Deletion(Kind::User)),
        ("organization.deleted", _) => return Some(Shape::Deletion(Kind::Organization)),
        (_, "user") if is_deleted => return Some(Shape::Deletion(Kind::User)),
        (_, "organization") if is_deleted => return Some(Shape::Deletion(Kind::Organization)),
        _ => {}
    }
    // `object` takes precedence over the event's name, which Clerk has changed more often.
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

/// Parses `data` with the fields of its envelope.
struct Reader {
    /// The payer that this service requested from the Backend API, if the event is its answer.
    requested: Option<Subject>,
    sent_at: Option<DateTime<Utc>>,
    signed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl Reader {
    fn update(&self, shape: Shape, data: &Object<'_>) -> Result<SubscriptionUpdate, String> {
        match shape {
            Shape::Subscription => self.subscription(data),
            Shape::Item => self.item_alone(data),
            Shape::Deletion(kind) => self.deletion(kind, data),
        }
    }

    fn deletion(&self, kind: Kind, data: &Object<'_>) -> Result<SubscriptionUpdate, String> {
        if data.truth("deleted") == Ok(Some(false)) {
            return Err(
                "the event is a deletion, but `deleted` is false, and a deletion is final".into()
            );
        }
        let id = data.text("id").map_err(|e| e.to_string())?.ok_or("the deletion names no id")?;
        let subject = Subject::of(kind, &id).map_err(|e| format!("`data.id` {e}"))?;
        Ok(SubscriptionUpdate::Deleted {
            subject,
            at: self.sent_at.or(self.signed_at).unwrap_or(self.now),
        })
    }

    fn item_alone(&self, data: &Object<'_>) -> Result<SubscriptionUpdate, String> {
        let (subject, remark) = self.payer(data, &[])?;
        let updated_at = self.version(data)?;
        let mut left_out = Vec::new();
        let alone = Subscription::none(updated_at, self.sent_at);
        let observed = observe(data, &alone, self.now, &mut left_out)?;
        Ok(SubscriptionUpdate::Items {
            subject,
            items: vec![observed],
            snapshot: None,
            remark,
            left_out,
        })
    }

    fn subscription(&self, data: &Object<'_>) -> Result<SubscriptionUpdate, String> {
        let list = list(data);
        let elements = list.as_deref().unwrap_or_default();
        let objects: Vec<_> = elements.iter().filter_map(|element| element.object()).collect();
        let (subject, remark) = self.payer(data, &objects)?;
        let mut left_out = Vec::new();
        let status = data.identifier("status").unwrap_or_else(|misfit| {
            left_out.push(format!("the subscription's {misfit}"));
            None
        });
        let status = status.as_deref();
        if objects.len() < elements.len() {
            left_out.push("an item is not an object".into());
        }
        let updated_at = self.version(data)?;
        let of = Subscription::read(data, updated_at, self.sent_at, status);
        let newest = self.items(&objects, &of, &mut left_out);

        let ids = || newest.keys().cloned().collect();
        let listed = match (status, elements.is_empty()) {
            (Some("ended" | "expired"), _) => Some(ids()),
            (_, false) if newest.is_empty() => return Err(summary(&left_out)),
            // A part that was left out may be an item that is still listed.
            (_, false) => left_out.is_empty().then(ids),
            (Some("abandoned" | "incomplete"), true) if list.is_ok() => Some(Vec::new()),
            (Some("canceled"), true) => None,
            (_, true) => return Err(contradiction(status, list.as_ref().err())),
        };
        // A snapshot cannot be older than the newest of its items.
        let latest = newest.values().map(|observed| observed.item.updated_at).max();
        let updated_at = latest.map_or(updated_at, |latest| latest.max(updated_at));
        let sent_at = self.sent_at.unwrap_or(updated_at);
        let canceled = elements.is_empty() && listed.is_none();
        let snapshot = Snapshot { updated_at, sent_at, listed, canceled };
        let snapshot = Some(snapshot).filter(|new| new.listed.is_some() || canceled);
        let items = newest.into_values().collect();
        Ok(SubscriptionUpdate::Items { subject, items, snapshot, remark, left_out })
    }

    /// The items of a subscription that can be parsed. If an item is listed twice, the later state counts.
    fn items(
        &self,
        objects: &[Object<'_>],
        of: &Subscription,
        left_out: &mut Vec<String>,
    ) -> BTreeMap<Arc<str>, ObservedItem> {
        let version = |observed: &ObservedItem| (observed.item.updated_at, observed.item.rank());
        let mut newest: BTreeMap<Arc<str>, ObservedItem> = BTreeMap::new();
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

    /// When Clerk last changed `data`, else when it was sent.
    fn version(&self, data: &Object<'_>) -> Result<DateTime<Utc>, String> {
        let updated_at = data.whole("updated_at").ok().flatten();
        let updated_at = instant("updated_at", updated_at, self.now)?;
        let dated = updated_at.or(self.sent_at).or(self.signed_at);
        dated.ok_or_else(|| "neither `updated_at` nor `timestamp` is a valid date".into())
    }

    /// The payer that `data` names, else the one that its items name.
    fn payer(
        &self,
        data: &Object<'_>,
        items: &[Object<'_>],
    ) -> Result<(Subject, Option<&'static str>), String> {
        if let Some(requested) = &self.requested {
            return Ok((requested.clone(), None));
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
        found.ok_or_else(|| "no payer: `payer` has neither a user nor an organization id".into())
    }
}

/// The payer that an object names, with a remark if both ids are filled.
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

/// The items of a subscription, which webhooks and the Backend API have under different keys. A missing list is empty.
fn list<'j>(data: &Object<'j>) -> Result<Vec<Json<'j>>, Misfit> {
    let items = match (data.array("items"), data.array("subscription_items")) {
        (Ok(Some(items)), _) if !items.is_empty() => items,
        (_, Ok(Some(items))) => items,
        (Err(misfit), _) | (_, Err(misfit)) => return Err(misfit),
        (Ok(items), _) => items.unwrap_or_default(),
    };
    if items.len() > MAX_LISTED_ITEMS {
        return Err(Misfit { key: "items", rule: "has more than 1,000 elements" });
    }
    Ok(items)
}

/// Why a subscription without items is parked: unless it is over, it must have items.
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

/// Best-effort subject of a body that may not be parsed otherwise: the payer, else the id in `data`, else the member.
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
