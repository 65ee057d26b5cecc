//! Generated subjects and deliveries, and the service's state in the oracle's format.

use crate::{
    support::oracle::{Message, State},
    support::rng::Rng,
    support::service::Replica,
};
use entitlements::{api::pb::Account, domain::Catalog};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

const USER_PLANS: [&str; 4] = ["free_user", "pro", "max", "gold"];
const ORG_PLANS: [&str; 3] = ["free_org", "team", "enterprise"];
const STATUSES: [&str; 9] = [
    "active",
    "active",
    "past_due",
    "canceled",
    "ended",
    "upcoming",
    "incomplete",
    "abandoned",
    "paused",
];
const START: i64 = 1_790_000_000_000;

/// A subject and its messages, whose order must not matter. Equal times are frequent on purpose.
pub struct Story {
    pub subject: String,
    pub messages: Vec<Message>,
}

impl Story {
    pub fn new(n: usize, rng: &mut Rng) -> Self {
        let kind = ["user", "org"][rng.below(2)];
        let subject = format!("{kind}_{n}");
        let count = 1 + rng.below(14);
        let messages = (0..count).map(|m| {
            let id = format!("msg_{n}_{}_{m}", rng.below(10));
            (id, message(&subject, rng))
        });
        let mut messages: Vec<_> = messages.collect();
        if rng.below(12) == 0 {
            let object = if kind == "org" { "organization" } else { "user" };
            let data = json!({ "object": object, "id": subject, "deleted": true });
            let body =
                json!({ "type": format!("{object}.deleted"), "timestamp": START, "data": data });
            messages.push((format!("msg_{n}_deleted"), body));
        }
        Self { subject, messages }
    }
}

/// Sends deliveries to the replicas in turn, up to 24 at a time.
pub async fn send_all(replicas: &[Replica], deliveries: &[&Message]) {
    let sent = deliveries.iter().enumerate().map(|(i, (id, body))| {
        let replica = &replicas[i % replicas.len()];
        async move {
            let answer = replica.send_as(id, &body.to_string()).await;
            assert_eq!(answer.status, 200, "{id}: {answer:?}");
        }
    });
    stream::iter(sent).buffer_unordered(24).collect::<Vec<()>>().await;
}

fn message(subject: &str, rng: &mut Rng) -> Value {
    let updated_at = START + i64::try_from(rng.below(6)).unwrap() * 1000;
    let timestamp = match rng.below(3) {
        0 => updated_at / 1000,
        lag => updated_at + i64::try_from(lag).unwrap() * 500,
    };
    let payer = if subject.starts_with("org_") {
        json!({ "user_id": "", "organization_id": subject })
    } else {
        json!({ "user_id": subject, "organization_id": null })
    };
    let mut data = match rng.below(3) {
        0 => subscription(subject, updated_at, rng),
        _ => item(subject, rng.below(4), updated_at, rng),
    };
    data["payer"] = payer;
    json!({ "type": "subscription.updated", "timestamp": timestamp, "data": data })
}

fn item(subject: &str, n: usize, updated_at: i64, rng: &mut Rng) -> Value {
    let is_org = subject.starts_with("org_");
    let plan = if is_org { rng.pick(&ORG_PLANS) } else { rng.pick(&USER_PLANS) };
    let period_end = rng.pick(&[Value::Null, json!(4_102_444_800_000_i64), json!(START)]);
    json!({
        "object": "subscription_item",
        "id": format!("csub_item_{n}"),
        "status": rng.pick(&STATUSES),
        "is_free_trial": rng.below(4) == 0,
        "plan": { "id": format!("cplan_{plan}"), "slug": plan },
        "period_start": START,
        "period_end": period_end,
        "updated_at": updated_at,
        "seats": if is_org { json!({ "quantity": rng.below(9) }) } else { Value::Null },
    })
}

fn subscription(subject: &str, updated_at: i64, rng: &mut Rng) -> Value {
    let top = ["active", "active", "past_due", "canceled", "ended", "incomplete"];
    let mut items = Vec::new();
    for n in 0..4 {
        if rng.below(2) == 0 {
            let before = i64::try_from(rng.below(4)).unwrap() * 1000;
            items.push(item(subject, n, updated_at - before, rng));
        }
    }
    let items = if items.is_empty() { Value::Null } else { items.into() };
    json!({
        "object": "commerce_subscription",
        "id": "csub_1",
        "status": rng.pick(&top),
        "updated_at": updated_at,
        "items": items,
    })
}

/// The service's state of a subject, in the oracle's format.
pub fn state(account: &Account) -> State {
    let item = |item: &entitlements::api::pb::Item| {
        (item.id.clone(), (item.plan.clone(), item.status.clone()))
    };
    State {
        deleted: account.deleted_at.is_some(),
        items: account.items.iter().map(item).collect(),
        features: account.entitlements.iter().map(|e| e.feature.clone()).collect(),
    }
}

/// The catalog, in the format that the oracle reads.
pub fn catalog() -> Value {
    let catalog = Catalog::from_toml(include_str!("../../../catalog.example.toml")).unwrap();
    serde_json::from_str(&catalog.to_json()).unwrap()
}

/// The catalog's name for the kind of a subject.
pub fn kind(subject: &str) -> &'static str {
    if subject.starts_with("org_") { "organization" } else { "user" }
}
