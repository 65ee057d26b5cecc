//! An independent model of a subject's state, computed from the set of its webhook bodies: the oracle of the generated
//! stories. It is written from the rules and shares no code with the service.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The id and the body of a delivery.
pub type Message = (String, Value);

/// The expected state of a subject: its items by id with plan and status, and its features.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct State {
    pub deleted: bool,
    pub items: BTreeMap<String, (String, String)>,
    pub features: BTreeSet<String>,
}

/// Of two statuses with equal times, the one further back in this list counts.
const RANKS: [&[&str]; 8] = [
    &["incomplete", "upcoming"],
    &["paused"],
    &["active"],
    &["past_due"],
    &["canceled"],
    &["abandoned"],
    &["expired"],
    &["ended"],
];

/// How long a trial without a payment lasts after its period, in milliseconds.
const TRIAL_GRACE: i64 = 3 * 24 * 3_600_000;

/// The data of all messages about one item.
struct Item<'m> {
    /// The newest observation: its version, its body, and its status.
    newest: (((i64, i64), usize, &'m str), &'m Value, &'m str),
    /// The newest plan, with the version of the observation that named it.
    plan: ((i64, i64), &'m str, &'m str),
    was_active: bool,
    /// The time of the newest change that had a period's end, and that end.
    last_period_end: Option<(i64, i64)>,
    /// The newest time without an open payment.
    paid_at: i64,
    /// Failed payments: the time of the item's last change, and the time of the failure.
    failed: Vec<(i64, i64)>,
}

pub fn expected_state(messages: &[Message], catalog: &Value, kind: &str, now: i64) -> State {
    if messages.iter().any(|(_, body)| body["data"]["deleted"] == true) {
        return State { deleted: true, ..State::default() };
    }
    let (mut items, mut listing, mut canceled) = (BTreeMap::new(), None, None);
    for (svix_id, body) in messages {
        let (data, sent) = (&body["data"], body["timestamp"].as_i64().unwrap());
        let sent = if sent < 100_000_000_000 { sent * 1000 } else { sent };
        let top = text(&data["status"]);
        let is_item = data["plan"].is_object();
        let listed: Vec<&Value> = data["items"].as_array().into_iter().flatten().collect();
        if !is_item && listed.is_empty() && ["active", "past_due"].contains(&top) {
            continue; // the message contradicts itself
        }
        for item in if is_item { vec![data] } else { listed.clone() } {
            let status = if !is_item && top == "ended" { "ended" } else { text(&item["status"]) };
            let of = (!is_item).then_some(data);
            observe(&mut items, item, status, sent, svix_id);
            pay(items.get_mut(text(&item["id"])).unwrap(), item, of);
        }
        let updated_at = |value: &Value| value["updated_at"].as_i64().unwrap();
        let shown = listed.iter().map(|item| updated_at(item)).max();
        let version = ((updated_at(data).max(shown.unwrap_or(0)), sent), svix_id);
        if is_item {
        } else if !listed.is_empty() || top != "canceled" {
            let ids: Vec<_> = listed.iter().map(|item| text(&item["id"])).collect();
            listing = listing.max(Some((version, ids)));
        } else {
            canceled = canceled.max(Some(version));
        }
    }
    let mut state = State::default();
    let (mut found, mut lasted) = (Vec::new(), 0);
    for (id, item) in items {
        let (((times, ..), observed, status), plan) = (item.newest, item.plan.2.to_owned());
        let withdrawn = |((of, _), ids): &(_, Vec<&str>)| times <= *of && !ids.contains(&id);
        let ends = |(of, _): &(_, _)| {
            times <= *of && listing.as_ref().is_none_or(|((last, _), _)| last <= of)
        };
        let is_canceled = canceled.as_ref().is_some_and(ends);
        let status = match status {
            _ if listing.as_ref().is_some_and(withdrawn) => "withdrawn",
            "active" if is_canceled => "canceled",
            status => status,
        };
        let known = item.last_period_end.map(|(_, end)| end);
        let may_be_older = observed["is_free_trial"] == true || status == "canceled";
        let end = observed["period_end"].as_i64().or(known.filter(|_| may_be_older));
        let unpaid =
            observed["is_free_trial"] == true && end.is_some_and(|end| end + TRIAL_GRACE <= now);
        let paid = end.is_some_and(|end| now < end);
        let since = item.failed.iter().filter(|(at, _)| *at >= item.paid_at);
        let failed_at = since.map(|(_, failed_at)| *failed_at).min().unwrap_or(times.0);
        if item.was_active {
            lasted = lasted.max(match status {
                "active" | "canceled" | "withdrawn" => end.unwrap_or(0),
                _ => times.0,
            });
        }
        found.push((plan.clone(), status, unpaid, paid, item.was_active, failed_at));
        state.items.insert(id.into(), (plan, status.into()));
    }
    let live =
        found.into_iter().filter(
            |(_, status, unpaid, paid, was_active, failed_at)| match *status {
                "active" => !unpaid,
                "past_due" => *was_active || lasted < *failed_at,
                "canceled" => *paid,
                _ => false,
            },
        );
    let mut live: BTreeSet<_> = live.map(|(plan, ..)| plan).collect();
    let is_unknown = |plan: &String| catalog[kind]["plans"].get(plan).is_none();
    if live.is_empty() || live.iter().any(is_unknown) {
        live.extend(catalog[kind]["default_plan"].as_str().map(str::to_owned));
    }
    let features =
        live.iter().filter_map(|plan| catalog[kind]["plans"][plan]["features"].as_array());
    state.features = features.flatten().map(|feature| text(feature).into()).collect();
    state
}

fn observe<'m>(
    items: &mut BTreeMap<&'m str, Item<'m>>,
    item: &'m Value,
    status: &'m str,
    sent: i64,
    svix_id: &'m str,
) {
    let rank = RANKS.iter().position(|words| words.contains(&status)).unwrap();
    let times = (item["updated_at"].as_i64().unwrap(), sent);
    let newest = ((times, rank, svix_id), item, status);
    let plan = (times, text(&item["plan"]["id"]), text(&item["plan"]["slug"]));
    let known = items.entry(text(&item["id"])).or_insert(Item {
        newest,
        plan,
        was_active: false,
        last_period_end: None,
        paid_at: 0,
        failed: Vec::new(),
    });
    if newest.0 > known.newest.0 {
        known.newest = newest;
    }
    known.plan = known.plan.max(plan);
    known.was_active |= item["status"] == "active";
    known.last_period_end =
        known.last_period_end.max(item["period_end"].as_i64().map(|end| (times.0, end)));
}

/// Records the payment state of an observation; `of` is the subscription that lists the item.
fn pay(known: &mut Item<'_>, item: &Value, of: Option<&Value>) {
    let updated_at = |value: &Value| value["updated_at"].as_i64().unwrap();
    let changed = updated_at(item);
    let last = of.map_or(changed, |of| updated_at(of).max(changed));
    let over = item["period_end"].as_i64().filter(|end| *end <= last);
    let past_due = of.filter(|of| of["status"] == "past_due").map(updated_at);
    match (text(&item["status"]), over, past_due) {
        _ if of.is_some_and(|of| of["status"] == "ended") => {}
        ("past_due", _, _) => known.failed.push((changed, changed)),
        ("active", Some(end), Some(since)) => known.failed.push((changed, since.max(end))),
        ("active", None, _) => known.paid_at = known.paid_at.max(changed),
        _ => {}
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
