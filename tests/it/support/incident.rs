//! The stories of the incidents in `docs/support.md`.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// An incident: its story, and texts that its explanation must contain.
pub struct Incident {
    pub title: &'static str,
    pub causes: &'static [&'static str],
    /// What happened, each with the time at which it was recorded.
    pub events: fn() -> Vec<(&'static str, Event)>,
}

pub enum Event {
    /// A catalog that an operator applied.
    Catalog(String),
    /// The id and the body of a webhook message.
    Message(&'static str, Value),
    /// The deletion of this subject was reverted.
    Undeleted(&'static str),
}

const CATALOG: &str = r#"
    [user]
    default_plan = "free"
    [user.plans.free]
    features = ["reports"]
    [user.plans.pro]
    features = ["reports", "export"]
    limits = { projects = 25 }
    [organization.plans.team]
    features = ["reports", "export", "sso"]
    limits = { projects = 100 }
    "#;

fn catalog(more: &str) -> Event {
    Event::Catalog(format!("{more}\n{CATALOG}"))
}

fn ms(at: &str) -> i64 {
    at.parse::<DateTime<Utc>>().unwrap().timestamp_millis()
}

/// A message about an item of a plan, changed at this time, with more fields.
fn item(id: &'static str, changed_at: &str, plan: &str, status: &str, more: Value) -> Event {
    item_of(("user_ada", "csub_item_1"), id, changed_at, plan, status, more)
}

fn item_of(
    (subject, item): (&str, &str),
    id: &'static str,
    changed_at: &str,
    plan: &str,
    status: &str,
    mut more: Value,
) -> Event {
    let (user, org) = if subject.starts_with("user_") { (subject, "") } else { ("", subject) };
    let mut data = json!({
        "object": "subscription_item",
        "id": item,
        "status": status,
        "is_free_trial": false,
        "plan": { "id": format!("cplan_{plan}"), "slug": plan },
        "payer": { "user_id": user, "organization_id": org },
        "period_start": ms("2026-10-06T12:00:00Z"),
        "period_end": ms("2026-11-06T12:00:00Z"),
        "updated_at": ms(changed_at),
    });
    data.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    let timestamp = ms(changed_at) + 400;
    let event = json!({ "type": "subscriptionItem.updated", "timestamp": timestamp, "data": data });
    Event::Message(id, event)
}

fn period_to(end: &str) -> Value {
    json!({ "period_end": ms(end) })
}

fn trial_to(end: &str) -> Value {
    json!({ "is_free_trial": true, "period_end": ms(end) })
}

const START: &str = "2026-10-01T00:00:00Z";
const BOUGHT: &str = "2026-10-06T12:00:00Z";
const BOUGHT_KNOWN: &str = "2026-10-06T12:00:02Z";

/// The item of October: bought and recorded.
fn bought() -> (&'static str, Event) {
    (BOUGHT_KNOWN, item("msg_bought", BOUGHT, "pro", "active", json!({})))
}

pub const INCIDENTS: &[Incident] = &[
    Incident {
        title: "Denied after paying",
        causes: &[
            "REASON_NOT_IN_PLAN",
            "REASON_PLAN, plan pro",
            "msg_paid, recorded 2026-11-03T15:10:00Z",
        ],
        events: || {
            let free = item("msg_free", BOUGHT, "free", "active", json!({ "period_end": null }));
            let (id, paid) = (("user_ada", "csub_item_2"), "2026-11-03T13:58:00Z");
            let end = period_to("2026-12-03T13:58:00Z");
            vec![
                (START, catalog("")),
                (BOUGHT_KNOWN, free),
                ("2026-11-03T15:10:00Z", item_of(id, "msg_paid", paid, "pro", "active", end)),
            ]
        },
    },
    Incident {
        title: "Lost access on Friday night",
        causes: &["REASON_PERIOD_OVER", "canceled 2026-10-20T09:30:00Z", "msg_canceled"],
        events: || {
            let canceled = json!({
                "canceled_at": ms("2026-10-20T09:30:00Z"), "period_end": ms("2026-11-06T22:00:00Z"),
            });
            let canceled =
                item("msg_canceled", "2026-10-20T09:30:00Z", "pro", "canceled", canceled);
            vec![(START, catalog("")), bought(), ("2026-10-20T09:30:01Z", canceled)]
        },
    },
    Incident {
        title: "The renewal never came",
        causes: &["REASON_PERIOD_OVER", "renewal 6h", "msg_bought"],
        events: || vec![(START, catalog("[grace]\nrenewal = \"6h\"")), bought()],
    },
    Incident {
        title: "Still allowed after the period",
        causes: &["REASON_RENEWAL_OVERDUE", "renewal none", "period to 2026-11-06T12:00:00Z"],
        events: || vec![(START, catalog("")), bought()],
    },
    Incident {
        title: "The plan is not in the catalog",
        causes: &["REASON_UNKNOWN_PLAN", "professional", "msg_renamed"],
        events: || {
            let at = "2026-10-20T08:00:00Z";
            let plan = json!({ "plan": { "id": "cplan_new", "slug": "professional" } });
            let renamed = item("msg_renamed", at, "professional", "active", plan);
            vec![(START, catalog("")), ("2026-10-20T08:00:01Z", renamed)]
        },
    },
    Incident {
        title: "The catalog changed under them",
        causes: &["catalog 2", "- export: REASON_NOT_IN_PLAN", "2026-10-15T10:00:00Z"],
        events: || {
            let without_export = CATALOG.replace("[\"reports\", \"export\"]", "[\"reports\"]");
            let second = Event::Catalog(without_export);
            vec![(START, catalog("")), bought(), ("2026-10-15T10:00:00Z", second)]
        },
    },
    Incident {
        title: "Deleted in Clerk",
        causes: &["REASON_SUBJECT_DELETED", "msg_deleted", "recorded 2026-10-21T07:00:03Z"],
        events: || vec![(START, catalog("")), bought(), ("2026-10-21T07:00:03Z", deleted())],
    },
    Incident {
        title: "Deleted and came back",
        causes: &[
            "undeletion by an operator",
            "- export: REASON_SUBJECT_DELETED",
            "+ export: REASON_PLAN",
        ],
        events: || {
            let again = "2026-10-22T09:00:00Z";
            let end = period_to("2026-11-22T09:00:00Z");
            vec![
                (START, catalog("")),
                bought(),
                ("2026-10-21T07:00:03Z", deleted()),
                ("2026-10-22T08:15:00Z", Event::Undeleted("user_ada")),
                ("2026-10-22T09:00:01Z", item("msg_again", again, "pro", "active", end)),
            ]
        },
    },
    Incident {
        title: "Answered from stale data",
        causes: &["REASON_STALE", "stale data", "42 s behind the database"],
        events: || vec![(START, catalog("strict = [\"export\"]")), bought()],
    },
    Incident {
        title: "The payment failed, and the grace is over",
        causes: &["REASON_PAST_DUE", "past_due 3days", "msg_failed"],
        events: || vec![(START, catalog("[grace]\npast_due = \"3days\"")), bought(), failed()],
    },
    Incident {
        title: "The payment failed, and access goes on",
        causes: &["REASON_PAST_DUE_IN_GRACE", "2026-11-09T12:00:00Z: denied, REASON_PAST_DUE"],
        events: || {
            let catalog = catalog("[grace]\npast_due = \"3days\"").without_default_plan();
            vec![(START, catalog), bought(), failed()]
        },
    },
    Incident {
        title: "The trial ended",
        causes: &["REASON_TRIAL_OVER", "trial 1day", "until 2026-10-21T12:00:00Z"],
        events: || {
            let trial = trial_to("2026-10-20T12:00:00Z");
            let trial = item("msg_trial", BOUGHT, "pro", "active", trial);
            let catalog = catalog("[grace]\ntrial = \"1day\"").without_default_plan();
            vec![(START, catalog), (BOUGHT_KNOWN, trial)]
        },
    },
    Incident {
        title: "The upgrade was not paid",
        causes: &["REASON_PAST_DUE", "csub_item_2", "msg_upgrade"],
        events: || {
            let free =
                item("msg_free", BOUGHT, "free", "active", period_to("2027-11-06T12:00:00Z"));
            let (id, at) = (("user_ada", "csub_item_2"), "2026-10-12T10:00:00Z");
            let upgrade = json!({ "period_start": ms(at), "past_due_at": ms(at) });
            let upgrade = item_of(id, "msg_upgrade", at, "pro", "past_due", upgrade);
            vec![(START, catalog("")), (BOUGHT_KNOWN, free), ("2026-10-12T10:00:01Z", upgrade)]
        },
    },
    Incident {
        title: "The checkout was not completed",
        causes: &["REASON_CHECKOUT_INCOMPLETE", "msg_checkout"],
        events: || {
            let checkout = item("msg_checkout", BOUGHT, "pro", "incomplete", json!({}));
            vec![(START, catalog("").without_default_plan()), (BOUGHT_KNOWN, checkout)]
        },
    },
    Incident {
        title: "The plan has not begun",
        causes: &["REASON_NOT_STARTED", "upcoming", "msg_upcoming"],
        events: || {
            let begins = json!({
                "period_start": ms("2026-12-01T00:00:00Z"), "period_end": ms("2027-01-01T00:00:00Z"),
            });
            let upcoming = item("msg_upcoming", BOUGHT, "pro", "upcoming", begins);
            vec![(START, catalog("").without_default_plan()), (BOUGHT_KNOWN, upcoming)]
        },
    },
    Incident {
        title: "The feature is misspelled",
        causes: &["REASON_UNKNOWN_FEATURE"],
        events: || vec![(START, catalog("")), bought()],
    },
    Incident {
        title: "The question has the wrong scope",
        causes: &["REASON_OUT_OF_SCOPE", "leaves out user_ada"],
        events: || vec![(START, catalog("")), bought()],
    },
    Incident {
        title: "Clerk sent a status that nobody knows",
        causes: &["REASON_UNKNOWN_STATUS", "paused", "msg_paused"],
        events: || {
            let at = "2026-10-18T11:00:00Z";
            let paused = item("msg_paused", at, "pro", "paused", json!({}));
            vec![
                (START, catalog("").without_default_plan()),
                bought(),
                ("2026-10-18T11:00:01Z", paused),
            ]
        },
    },
    Incident {
        title: "The subscription no longer lists the item",
        causes: &["withdrawn", "msg_swapped", "REASON_ENDED"],
        events: || {
            let at = "2026-10-19T16:00:00Z";
            let free = json!({
                "object": "subscription_item", "id": "csub_item_2", "status": "active",
                "plan": { "id": "cplan_free", "slug": "free" }, "period_start": ms(at), "updated_at": ms(at),
            });
            let data = json!({
                "object": "commerce_subscription", "id": "csub_1", "status": "active", "updated_at": ms(at),
                "payer": { "user_id": "user_ada", "organization_id": "" }, "items": [free],
            });
            let event =
                json!({ "type": "subscription.updated", "timestamp": ms(at) + 400, "data": data });
            let swapped = Event::Message("msg_swapped", event);
            vec![(START, catalog("")), bought(), ("2026-10-19T16:00:01Z", swapped)]
        },
    },
    Incident {
        title: "The limit is higher than expected",
        causes: &["limit 100", "plan team", "of org_acme", "limit 25"],
        events: || {
            let id = ("org_acme", "csub_item_9");
            let team = item_of(
                id,
                "msg_team",
                BOUGHT,
                "team",
                "active",
                period_to("2027-10-06T12:00:00Z"),
            );
            vec![(START, catalog("")), bought(), ("2026-10-07T08:00:00Z", team)]
        },
    },
];

/// The deletion of the user in Clerk.
fn deleted() -> Event {
    let data = json!({ "object": "user", "id": "user_ada", "deleted": true });
    let at = ms("2026-10-21T07:00:00Z");
    Event::Message("msg_deleted", json!({ "type": "user.deleted", "timestamp": at, "data": data }))
}

/// The payment of November failed.
fn failed() -> (&'static str, Event) {
    let at = "2026-11-06T12:00:00Z";
    let failed = json!({ "past_due_at": ms(at), "period_end": ms("2026-12-06T12:00:00Z") });
    ("2026-11-06T12:00:01Z", item("msg_failed", at, "pro", "past_due", failed))
}

impl Event {
    fn without_default_plan(self) -> Self {
        match self {
            Self::Catalog(toml) => Self::Catalog(toml.replace("default_plan = \"free\"", "")),
            other => other,
        }
    }
}
