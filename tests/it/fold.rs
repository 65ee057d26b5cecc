//! The state of a subject as a fold over the set of its messages, written from the rules and not from the code: the
//! oracle of the generated stories. It reads the bodies themselves.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One message: its id, and its body.
pub type Message = (String, Value);

/// What a subject should look like: the items by id with plan and status, and the features.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct State {
    pub deleted: bool,
    pub items: BTreeMap<String, (String, String)>,
    pub features: BTreeSet<String>,
}

/// Of two states told at the same times, the later one stands further behind.
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

pub fn fold(messages: &[Message], catalog: &Value, kind: &str, now: i64) -> State {
    if messages.iter().any(|(_, body)| body["data"]["deleted"] == true) {
        return State { deleted: true, ..State::default() };
    }
    let (mut items, mut listing, mut whole) = (BTreeMap::new(), None, None);
    for (svix_id, body) in messages {
        let (data, sent) = (&body["data"], body["timestamp"].as_i64().unwrap());
        let sent = if sent < 100_000_000_000 { sent * 1000 } else { sent };
        let top = text(&data["status"]);
        let is_item = data["plan"].is_object();
        let listed: Vec<&Value> = data["items"].as_array().into_iter().flatten().collect();
        for item in if is_item { vec![data] } else { listed.clone() } {
            let status = if !is_item && top == "ended" { "ended" } else { text(&item["status"]) };
            let rank = RANKS.iter().position(|words| words.contains(&status)).unwrap();
            let version = ((item["updated_at"].as_i64().unwrap(), sent), rank, svix_id);
            let newest = items.entry(text(&item["id"])).or_insert((version, item, status));
            if version > newest.0 {
                *newest = (version, item, status);
            }
        }
        let version = ((data["updated_at"].as_i64().unwrap(), sent), svix_id);
        if is_item {
        } else if data["items"].is_array() || !["active", "past_due", "canceled"].contains(&top) {
            let ids: Vec<_> = listed.iter().map(|item| text(&item["id"])).collect();
            listing = listing.max(Some((version, ids)));
        } else {
            whole = whole.max(Some((version, top == "canceled")));
        }
    }
    let mut state = State::default();
    let mut live = BTreeSet::new();
    for (id, ((times, ..), item, status)) in items {
        let withdrawn = |((of, _), ids): &(_, Vec<&str>)| times <= *of && !ids.contains(&id);
        let canceled = |((of, _), canceled): &((_, _), bool)| {
            *canceled && times <= *of && listing.as_ref().is_none_or(|((last, _), _)| last <= of)
        };
        let status = match status {
            _ if listing.as_ref().is_some_and(withdrawn) => "withdrawn",
            "active" if whole.as_ref().is_some_and(canceled) => "canceled",
            status => status,
        };
        let plan = text(&item["plan"]["slug"]).to_owned();
        let paid = item["period_end"].as_i64().is_some_and(|end| now < end);
        if ["active", "past_due"].contains(&status) || (status == "canceled" && paid) {
            live.insert(plan.clone());
        }
        state.items.insert(id.into(), (plan, status.into()));
    }
    if live.is_empty() {
        live.extend(catalog[kind]["default_plan"].as_str().map(str::to_owned));
    }
    let features =
        live.iter().filter_map(|plan| catalog[kind]["plans"][plan]["features"].as_array());
    state.features = features.flatten().map(|feature| text(feature).into()).collect();
    state
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
