//! Table tests of deliveries with unusual content: the needed parts are read, and the rest has no effect.

use crate::{
    support::database::Db,
    support::fake_clerk::INSTANCE,
    support::service::{Replica, payload},
};
use entitlements::api::pb::{CheckFeatureResponse, Reason};
use serde_json::{Value, json};

/// The past date at which the events of these tests were sent.
pub const SENT: i64 = 1_793_491_200_000;

/// The end of a current period.
pub const FAR: i64 = 4_102_444_800_000;

/// Deliveries in order, and the expected answers after them.
pub struct Case {
    name: String,
    subject: String,
    deliveries: Vec<(String, &'static str)>,
    answers: Vec<(&'static str, &'static str)>,
    details: Vec<String>,
}

impl Case {
    pub fn new(name: impl Into<String>, subject: impl Into<String>) -> Self {
        let (name, subject) = (name.into(), subject.into());
        Self { name, subject, deliveries: vec![], answers: vec![], details: vec![] }
    }

    /// A case with bodies from files, each with its expected result.
    pub fn files(subject: &str, files: &[(&str, &'static str)]) -> Self {
        let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        let case = Self::new(names.join(", "), subject);
        files.iter().fold(case, |case, (name, result)| {
            case.sends(&payload(&format!("field/{name}")), result)
        })
    }

    /// Adds a delivery with its expected result; `|` separates alternatives.
    pub fn sends(mut self, body: &impl ToString, result: &'static str) -> Self {
        self.deliveries.push((body.to_string(), result));
        self
    }

    /// Expects an answer for a feature after all deliveries: a reason, `ALLOWED` or `DENIED`.
    pub fn then(mut self, feature: &'static str, reason: &'static str) -> Self {
        self.answers.push((feature, reason));
        self
    }

    /// Expects one of these words in the detail of the last delivery's response.
    pub fn explained(mut self, words: &[&str]) -> Self {
        self.details = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Runs the case, and returns all deviations.
    pub async fn faults(&self, replica: &Replica) -> Vec<String> {
        let mut faults = Vec::new();
        let mut detail = String::new();
        for (n, (body, expected)) in self.deliveries.iter().enumerate() {
            let answer = replica.send(body).await;
            if answer.status != 200 || !expected.split('|').any(|word| word == answer.result()) {
                faults.push(format!("delivery {}: {expected} expected: {answer:?}", n + 1));
            }
            answer.body["detail"].as_str().unwrap_or_default().clone_into(&mut detail);
        }
        if !self.details.is_empty() && !self.details.iter().any(|word| detail.contains(word)) {
            faults.push(format!("{:?} expected in the detail: {detail}", self.details));
        }
        for (feature, expected) in &self.answers {
            let found = ask(replica, &self.subject, feature).await;
            if !fits(&found, expected) {
                faults.push(format!("{feature}: {expected} expected: {}", shown(&found)));
            }
        }
        faults
    }
}

/// Checks a feature for a subject.
pub async fn ask(replica: &Replica, subject: &str, feature: &str) -> CheckFeatureResponse {
    if subject.starts_with("org_") {
        replica.check("", subject, feature).await
    } else {
        replica.check(subject, "", feature).await
    }
}

/// The reason of an answer, without the prefix `REASON_`.
fn reason(found: &CheckFeatureResponse) -> String {
    let name = Reason::try_from(found.reason).map_or("unknown", |reason| reason.as_str_name());
    name.trim_start_matches("REASON_").to_owned()
}

pub fn shown(found: &CheckFeatureResponse) -> String {
    let verdict = if found.allowed { "ALLOWED" } else { "DENIED" };
    format!("{verdict} {} {}", reason(found), found.plan)
}

/// Whether an answer has this reason, or is `ALLOWED` or `DENIED`.
pub fn fits(found: &CheckFeatureResponse, expected: &str) -> bool {
    match expected {
        "ALLOWED" => found.allowed,
        "DENIED" => !found.allowed,
        name => reason(found) == name && found.allowed == (found.reason < 50),
    }
}

/// Runs all cases on one replica in order, and lists the failing ones.
pub async fn check(cases: &[Case]) {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    check_on(&replica, cases).await;
}

/// Runs all cases on this replica.
pub async fn check_on(replica: &Replica, cases: &[Case]) {
    let mut failed = Vec::new();
    for case in cases {
        let faults = case.faults(replica).await;
        if !faults.is_empty() {
            failed.push(format!("{}: {}", case.name, faults.join("; ")));
        }
    }
    let count = failed.len();
    assert!(failed.is_empty(), "{count} of {} fail:\n{}", cases.len(), failed.join("\n"));
}

/// A payer in the format of Clerk's events.
pub fn payer(subject: &str) -> Value {
    let (user, organization) =
        if subject.starts_with("org_") { ("", subject) } else { (subject, "") };
    json!({
        "object": "commerce_payer", "id": "cpayer_1", "user_id": user, "first_name": "Ada",
        "last_name": "Example", "email": "ada@example.com", "organization_id": organization,
        "organization_name": "", "image_url": "",
    })
}

/// An item in the format of a subscription's list.
pub fn part(id: &str, status: &str, plan: &str) -> Value {
    json!({
        "object": "subscription_item", "id": id, "status": status, "is_free_trial": false,
        "created_at": SENT, "updated_at": SENT, "period_start": SENT, "period_end": FAR,
        "interval": "month", "plan_id": format!("cplan_{plan}"),
        "plan": { "id": format!("cplan_{plan}"), "slug": plan, "name": plan, "amount": 0 },
    })
}

/// An event about one item.
pub fn item(subject: &str, part: Value) -> Value {
    let mut data = part;
    data["payer"] = payer(subject);
    let kind = format!("subscriptionItem.{}", data["status"].as_str().unwrap_or("updated"));
    let sent = data["updated_at"].clone();
    json!({
        "object": "event", "type": kind, "instance_id": INSTANCE, "timestamp": sent, "data": data,
        "event_attributes": { "http_request": { "client_ip": "192.0.2.1", "user_agent": "x" } },
    })
}

/// An event about a subscription, five milliseconds after its items.
pub fn snapshot(subject: &str, status: &str, items: Vec<Value>) -> Value {
    json!({
        "object": "event", "type": "subscription.updated", "instance_id": INSTANCE,
        "timestamp": SENT + 5,
        "event_attributes": { "http_request": { "client_ip": "192.0.2.1", "user_agent": "x" } },
        "data": {
            "object": "commerce_subscription", "id": "csub_1", "status": status,
            "created_at": SENT, "updated_at": SENT + 5, "active_at": SENT, "canceled_at": null,
            "ended_at": null, "past_due_at": null, "latest_payment_id": null,
            "payment_source_id": null, "payer_id": "cpayer_1", "payer": payer(subject),
            "items": Value::from(items),
        },
    })
}

/// The event with one value replaced at a JSON pointer.
pub fn with(mut event: Value, place: &str, value: impl Into<Value>) -> Value {
    let (parent, key) = place.rsplit_once('/').unwrap();
    match event.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.into(),
        object => object[key] = value.into(),
    }
    event
}

/// The event without the value at a JSON pointer.
pub fn without(mut event: Value, place: &str) -> Value {
    let (parent, key) = place.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    event
}

/// The text of an event with one value replaced by a text that a JSON value cannot hold.
pub fn with_text(event: Value, place: &str, text: &str) -> String {
    with(event, place, "@raw@").to_string().replace("\"@raw@\"", text)
}

/// All permutations of so many things.
pub fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..count {
        let longer = |order: &Vec<usize>| {
            (0..=order.len())
                .map(|at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Cases with these bodies in every order, each about a subject of its own. Each delivery is recorded, applied or
/// superseded.
pub fn in_every_order(
    name: &str,
    bodies: impl Fn(&str) -> Vec<String>,
    answers: &[(&'static str, &'static str)],
) -> Vec<Case> {
    let kind = if name.contains("organization") { "org" } else { "user" };
    let slug: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let count = bodies("user_0").len();
    let cases = orders(count).into_iter().map(|order| {
        let digits: String = order.iter().map(ToString::to_string).collect();
        let subject = format!("{kind}_{slug}_{digits}");
        let bodies = bodies(&subject);
        let mut case = Case::new(format!("{name}, order {digits}"), &subject);
        for n in order {
            case = case.sends(&bodies[n], "applied|superseded");
        }
        answers.iter().fold(case, |case, (feature, reason)| case.then(feature, reason))
    });
    cases.collect()
}
