//! Clerk's published examples with one part changed. A change to a part that no rule uses changes no answer, and no
//! change affects another item or another subject.

use crate::{
    support::database::Db,
    support::rng::Rng,
    support::service::{Answer, Replica, eventually, payload},
    support::webhook_cases::{FAR, ask, item, part, shown, with},
};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::{env, fs};

/// The date of the examples, and the end of the periods in them.
const DATE: i64 = 1_716_883_200_000;
const END: &str = "1719561600000";

/// The needed paths of an event about one item, and of each item of a list.
const NEEDED_OF_ITEMS: [&str; 12] = [
    "id",
    "status",
    "updated_at",
    "is_free_trial",
    "period_start",
    "period_end",
    "canceled_at",
    "past_due_at",
    "plan_id",
    "plan/id",
    "plan/slug",
    "seats/quantity",
];

/// The other needed paths of an event.
const NEEDED: [&str; 7] = [
    "type",
    "timestamp",
    "data/object",
    "data/deleted",
    "data/items",
    "data/payer/user_id",
    "data/payer/organization_id",
];

/// Whether a rule needs the value at a path, a part of it, or a value that contains it.
fn is_needed(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    let related = |needed: &str| {
        let [path, needed] = [path, needed].map(|path| format!("{path}/"));
        path.starts_with(&needed) || needed.starts_with(&path)
    };
    let item = ["data/items/0/", "data/"].into_iter().find_map(|list| path.strip_prefix(list));
    let of_items = item.is_some_and(|rest| {
        NEEDED_OF_ITEMS.iter().any(|needed| {
            let [rest, needed] = [rest, needed].map(|path| format!("{path}/"));
            rest.starts_with(&needed) || needed.starts_with(&rest)
        })
    });
    let in_list = path.starts_with("data/items/0/");
    of_items
        || path == "data"
        || (!in_list && NEEDED.iter().any(|needed| related(needed)))
        || path == "data/items/0"
}

/// A change of one part.
#[derive(Debug, Clone, Copy)]
enum Change {
    Delete,
    Null,
    Zero,
    Negative,
    Huge,
    Endless,
    OtherType,
    Nul,
    Surrogate,
    Nested,
    Twice,
    Repeated,
}

const CHANGES: [Change; 12] = [
    Change::Delete,
    Change::Null,
    Change::Zero,
    Change::Negative,
    Change::Huge,
    Change::Endless,
    Change::OtherType,
    Change::Nul,
    Change::Surrogate,
    Change::Nested,
    Change::Twice,
    Change::Repeated,
];

impl Change {
    /// The text of the event after the change at this path.
    fn apply(self, mut event: Value, path: &str) -> String {
        let old = event.pointer(path).unwrap().clone();
        let key = path.rsplit('/').next().unwrap();
        let text = match self {
            Self::Delete => {
                delete(&mut event, path);
                return event.to_string();
            }
            Self::Null => "null".into(),
            Self::Zero => "0".into(),
            Self::Negative => "-62135596800000".into(),
            Self::Huge => "99999999999999999999".into(),
            Self::Endless => "1e400".into(),
            Self::OtherType => match old {
                Value::Null | Value::Bool(_) => "[\"x\"]".into(),
                Value::Number(_) => "\"x\"".into(),
                Value::String(_) => "{\"x\":7}".into(),
                Value::Array(_) => "{}".into(),
                Value::Object(_) => "[]".into(),
            },
            Self::Nul => r#""a\u0000b""#.into(),
            Self::Surrogate => r#""a\ud800b""#.into(),
            Self::Nested => format!("{}{}", "[".repeat(300), "]".repeat(300)),
            Self::Twice => format!("{old},\"zz\":[1e400,\"\\udc00\\u0000\"],\"zz\":{{}}"),
            Self::Repeated => format!("[1e400,{{\"a\":\"\\u0000\"}}],\"{key}\":{old}"),
        };
        put(&mut event, path);
        let is_in_list = key.parse::<usize>().is_ok();
        let adds_a_key = matches!(self, Self::Twice | Self::Repeated);
        let text = if is_in_list && adds_a_key { old.to_string() } else { text };
        event.to_string().replace("\"@raw@\"", &text)
    }
}

/// Puts a mark at a path, which may lead through lists.
fn put(event: &mut Value, path: &str) {
    *event.pointer_mut(path).unwrap() = "@raw@".into();
}

fn delete(event: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('/').unwrap();
    match event.pointer_mut(parent).unwrap() {
        Value::Array(list) => drop(list.remove(key.parse().unwrap())),
        Value::Object(map) => drop(map.remove(key)),
        _ => {}
    }
}

/// The paths of all parts of a value, except the item that is listed beside the example's item.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(n, v)| (n.to_string(), v)).collect(),
        _ => vec![],
    };
    for (key, child) in children {
        let path = format!("{at}/{key}");
        if path != "/data/items/1" {
            all.push(path.clone());
            paths(child, &path, all);
        }
    }
}

/// Another item of the subject, which no mutation may affect.
fn beside(tag: &str) -> Value {
    let beside = part(&format!("csub_item_beside_{tag}"), "active", "max");
    with(with(beside, "/updated_at", DATE - 1000), "/created_at", DATE - 1000)
}

/// A published example, changed to a subject of its own.
fn example(name: &str, tag: &str, runs: bool) -> Value {
    let text = payload(&format!("published/{name}"))
        .replace("ins_2g7np7Hrk0SN6kj5EDMLDaKNL0S", "ins_1")
        .replace("2g7np7Hrk0SN6kj5EDMLDaKNL0S", tag)
        .replace("34D368EufHwugfYh4yyGNEheM0S", tag)
        .replace("2h8op3Isl1QR7tKu5FGNfaLKEoU", tag);
    let text = if runs { text.replace(END, &FAR.to_string()) } else { text };
    let mut event: Value = serde_json::from_str(&text).unwrap();
    for place in ["/data/plan/slug", "/data/items/0/plan/slug"] {
        if let Some(slug) = event.pointer_mut(place) {
            *slug = "pro".into();
        }
    }
    if let Some(items) = event["data"]["items"].as_array_mut() {
        items.push(beside(tag));
    }
    event
}

fn names() -> Vec<String> {
    let entries = fs::read_dir("tests/payloads/published").unwrap();
    let name = |path: std::path::PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap().path())).collect();
    names.sort();
    assert_eq!(names.len(), 20);
    names
}

/// Delivers, and repeats the delivery while the service is overloaded, as Svix does.
async fn delivered(replica: &Replica, id: &str, body: &str) -> Answer {
    let mut answer = replica.send_as(id, body).await;
    eventually("the delivery is answered", async || {
        if answer.status == 503 {
            answer = replica.send_as(id, body).await;
        }
        answer.status != 503
    })
    .await;
    answer
}

/// The account of a subject after the delivery of the other item and this body. A status other than 2xx is an error.
async fn outcome(replica: &Replica, name: &str, tag: &str, body: &str) -> Result<String, String> {
    let subject = match name {
        "organization.deleted" => format!("org_{tag}"),
        _ => format!("user_{tag}"),
    };
    let first = with(item(&subject, beside(tag)), "/instance_id", "ins_1");
    delivered(replica, &format!("msg_beside_{tag}"), &first.to_string()).await;
    let answer = delivered(replica, &format!("msg_{tag}"), body).await;
    if !(200..300).contains(&answer.status) {
        return Err(format!("{answer:?}"));
    }
    if !name.ends_with(".deleted") || name.starts_with("organizationM") {
        let found = ask(replica, &subject, "ai_assistant").await;
        if !found.allowed {
            return Err(format!("the item beside: {}; {answer:?}", shown(&found)));
        }
    }
    let account = replica.account(&subject).await;
    Ok(format!("{account:#?}").replace(tag, "TAG"))
}

/// The number of mutations, set by `MUTATIONS`.
fn count() -> usize {
    env::var("MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// One mutation of an example.
struct Mutation {
    name: String,
    tag: String,
    runs: bool,
    path: String,
    change: Change,
}

impl Mutation {
    fn new(n: usize, names: &[String], rng: &mut Rng) -> Self {
        let (name, tag, runs) = (rng.pick(names), format!("m{n:06}"), rng.below(2) == 0);
        let mut all = Vec::new();
        paths(&example(&name, &tag, runs), "", &mut all);
        Self { name, tag, runs, path: rng.pick(&all), change: rng.pick(&CHANGES) }
    }

    /// Whether the account may differ from the one without the change.
    fn may_differ(&self) -> bool {
        is_needed(&self.path) && !matches!(self.change, Change::Twice | Change::Repeated)
    }

    /// The fault of the outcome, if any, compared with the expected outcome.
    async fn fault(&self, replica: &Replica, right: &str) -> Option<String> {
        let body = self.change.apply(example(&self.name, &self.tag, self.runs), &self.path);
        let found = outcome(replica, &self.name, &self.tag, &body).await;
        let title = format!("{} {:?} at {}", self.name, self.change, self.path);
        match found {
            Err(error) => Some(format!("{title}: {error}")),
            Ok(found) if found != right && !self.may_differ() => {
                let lines = found.lines().zip(right.lines()).find(|(found, right)| found != right);
                Some(format!("{title}: {lines:?}"))
            }
            Ok(_) => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_to_an_unused_part_changes_no_answer_and_no_change_affects_another_item() {
    let (db, names, mut rng) = (Db::new().await, names(), Rng::new());
    let replica = Replica::start(&db).await;
    let other = item("user_control", part("csub_item_control", "active", "pro"));
    replica.send(&with(other, "/instance_id", "ins_1").to_string()).await;
    let mut right = Vec::new();
    for (n, name) in names.iter().enumerate() {
        for runs in [false, true] {
            let tag = format!("b{n:05}{}", usize::from(runs));
            let body = example(name, &tag, runs).to_string();
            right.push(((name.clone(), runs), outcome(&replica, name, &tag, &body).await.unwrap()));
        }
    }
    let all: Vec<_> = (0..count()).map(|n| Mutation::new(n, &names, &mut rng)).collect();
    let tries = all.iter().map(|one| {
        let same =
            |((name, runs), _): &&((String, bool), String)| *name == one.name && *runs == one.runs;
        let right = &right.iter().find(same).unwrap().1;
        one.fault(&replica, right)
    });
    let faults: Vec<_> = stream::iter(tries).buffer_unordered(8).collect().await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    let needed = all.iter().filter(|one| one.may_differ()).count();
    println!(
        "{} mutations, {needed} of them of what is needed, {} faults",
        all.len(),
        faults.len()
    );
    let shown: Vec<_> = faults.iter().take(20).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), all.len(), shown.join("\n"));
    assert!(ask(&replica, "user_control", "export").await.allowed);
}

#[test]
fn the_list_of_needed_paths_matches_paths_and_their_parents() {
    for path in [
        "/type",
        "/data",
        "/data/id",
        "/data/items",
        "/data/items/0",
        "/data/items/0/plan",
        "/data/items/0/plan/slug",
        "/data/payer",
        "/data/payer/user_id",
        "/data/seats/quantity",
    ] {
        assert!(is_needed(path), "{path}");
    }
    for path in [
        "/object",
        "/data/created_at",
        "/data/payer/id",
        "/data/items/0/object",
        "/data/plan/name",
        "/instance_id",
        "/data/items/0/interval",
        "/data/subscription_id",
    ] {
        assert!(!is_needed(path), "{path}");
    }
}
