//! Parts that no rule reads change nothing, in any form of JSON text.

use crate::support::webhook_cases::{Case, SENT, check, item, part, snapshot, with};
use serde_json::Value;

/// Places for a member that no rule reads.
const PLACES: [&str; 5] =
    ["", "/data", "/data/payer", "/data/plan", "/event_attributes/http_request"];

/// The text of an event with an additional member at a place.
fn member(event: Value, place: &str, text: &str) -> String {
    with(event, &format!("{place}/@raw@"), 0).to_string().replace("\"@raw@\":0", text)
}

/// Unread members, named by their oddity.
fn odd_members() -> Vec<(String, String)> {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("\"zz\":{}1{}", open.repeat(levels), close.repeat(levels))
    };
    let mut all: Vec<(String, String)> = [
        ("a NUL in a text", r#""zz":"a\u0000b""#),
        ("only a NUL", r#""zz":"\u0000""#),
        ("a NUL in a key", r#""z\u0000z":1"#),
        ("a high surrogate alone", r#""zz":"\ud800""#),
        ("a low surrogate alone", r#""zz":"a\udc00b""#),
        ("surrogates the wrong way round", r#""zz":"\udc00\ud800""#),
        ("a surrogate in a key", r#""z\ud83dz":1"#),
        ("a number of 400 digits' worth", r#""zz":1e400"#),
        ("a negative number as large", r#""zz":-1e400"#),
        ("a number of 20 digits", r#""zz":12345678901234567890"#),
        ("a negative number of 20 digits", r#""zz":-92233720368547758080"#),
        ("a number next to nothing", r#""zz":1e-400"#),
        ("a key twice", r#""zz":1,"zz":2"#),
        ("a key twice, of two types", r#""zz":{"a":1},"zz":[null]"#),
        ("a key twice further down", r#""zz":[{"a":1,"a":"x"}]"#),
        ("an empty key", r#""":null"#),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    for levels in [200, 5_000] {
        all.push((format!("{levels} arrays"), nested("[", "]", levels)));
        all.push((format!("{levels} objects"), nested("{\"a\":", "}", levels)));
        all.push((format!("{levels} of both"), nested("[{\"a\":", "}]", levels / 2)));
    }
    all
}

/// For each oddity and place, a granting event and an ending event apply.
fn cases_of_members() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, (name, text)) in odd_members().into_iter().enumerate() {
        for (m, place) in PLACES.into_iter().enumerate() {
            let (subject, id) = (format!("user_odd_{n}_{m}"), format!("csub_item_odd_{n}_{m}"));
            let active = item(&subject, part(&id, "active", "pro"));
            let ended = with(part(&id, "ended", "pro"), "/updated_at", SENT + 9);
            let ended = item(&subject, ended);
            let name = format!("{name} at `{place}`");
            let active = Case::new(format!("{name}, active"), &subject)
                .sends(&member(active, place, &text), "applied");
            cases.push(active.then("export", "PLAN"));
            let ended = Case::new(format!("{name}, ended"), &subject)
                .sends(&member(ended, place, &text), "applied");
            cases.push(ended.then("export", "ENDED"));
        }
    }
    cases
}

#[tokio::test]
async fn an_unknown_member_of_any_form_changes_nothing() {
    check(&cases_of_members()).await;
}

#[tokio::test]
async fn an_unknown_member_of_any_form_in_a_listed_item_changes_nothing() {
    let mut cases = Vec::new();
    for (n, (name, text)) in odd_members().into_iter().enumerate() {
        let (subject, id) = (format!("user_list_{n}"), format!("csub_item_list_{n}"));
        let listed = snapshot(&subject, "active", vec![part(&id, "active", "pro")]);
        for (ms, place) in [(5, "/data/items/0"), (6, "/data/items/0/plan")] {
            let event = with(listed.clone(), "/data/updated_at", SENT + ms);
            let case = Case::new(format!("{name} at `{place}`"), &subject)
                .sends(&member(event, place, &text), "applied");
            cases.push(case.then("export", "PLAN"));
        }
    }
    check(&cases).await;
}

/// Known keys that no rule reads.
const UNREAD: [&str; 12] = [
    "/object",
    "/event_attributes",
    "/event_attributes/http_request/user_agent",
    "/data/created_at",
    "/data/interval",
    "/data/plan/name",
    "/data/plan/amount",
    "/data/payer/first_name",
    "/data/payer/email",
    "/data/payer/image_url",
    "/data/payer/organization_name",
    "/data/payer/object",
];

#[tokio::test]
async fn a_member_that_no_rule_reads_may_have_any_value() {
    let values = [
        "null",
        "0",
        "-1",
        "1e400",
        "99999999999999999999",
        "[]",
        "{}",
        "true",
        r#""""#,
        r#""a\u0000b""#,
        r#""\ud800""#,
        r#"[[[{"a":[1,2,{"b":null}]}]]]"#,
    ];
    let mut cases = Vec::new();
    for (n, place) in UNREAD.into_iter().enumerate() {
        for (m, value) in values.into_iter().enumerate() {
            let (subject, id) = (format!("user_any_{n}_{m}"), format!("csub_item_any_{n}_{m}"));
            let event = item(&subject, part(&id, "active", "pro"));
            let body = crate::support::webhook_cases::with_text(event, place, value);
            let case = Case::new(format!("{place} is {value}"), &subject).sends(&body, "applied");
            cases.push(case.then("export", "PLAN"));
        }
    }
    check(&cases).await;
}

/// The text of an event about one item, with a part replaced.
fn edited(subject: &str, from: &str, to: &str) -> String {
    let part = part(&format!("csub_item_{subject}"), "active", "pro");
    let text = item(subject, part).to_string();
    assert!(text.contains(from), "{text} has no {from}");
    text.replacen(from, to, 1)
}

#[tokio::test]
async fn the_last_value_of_a_repeated_key_counts() {
    let (status, end) = (r#""status":"active""#, r#""period_end":4102444800000"#);
    let (slug, user) = (r#""slug":"pro""#, r#""organization_id":"""#);
    let mut cases = Vec::new();
    for (n, (from, first, last, reason)) in [
        (status, r#""status":"ended""#, status, "PLAN"),
        (status, status, r#""status":"ended""#, "ENDED"),
        (status, r#""status":[7]"#, status, "PLAN"),
        (slug, r#""slug":"gold""#, slug, "PLAN"),
        (slug, r#""slug":"p\u0000""#, slug, "PLAN"),
        (end, r#""period_end":1e400"#, end, "PLAN"),
        (end, r#""period_end":[{}]"#, end, "PLAN"),
        (user, r#""organization_id":"org_other""#, user, "PLAN"),
        (user, r#""organization_id":"\ud800""#, user, "PLAN"),
    ]
    .into_iter()
    .enumerate()
    {
        let subject = format!("user_twice_{n}");
        let body = edited(&subject, from, &format!("{first},{last}"));
        let case = Case::new(format!("{first}, {last}"), subject).sends(&body, "applied");
        cases.push(case.then("export", reason));
    }
    check(&cases).await;
}

#[tokio::test]
async fn the_last_value_of_a_repeated_envelope_key_counts() {
    let case = |subject: &str, from: &str, to: &str, result, reason| {
        let body = edited(subject, from, to);
        Case::new(to, subject).sends(&body, result).then("export", reason)
    };
    let ending = "\"type\":\"subscriptionItem.active\"}";
    let other = "\"type\":\"user.updated\"";
    check(&[
        case("user_first_data", "{", r#"{"data":{"id":7},"#, "applied", "PLAN"),
        case("user_first_null", "{", r#"{"data":null,"#, "applied", "PLAN"),
        case("user_first_type", "{", &format!("{{{other},"), "applied", "PLAN"),
        case(
            "user_last_data",
            ending,
            &ending.replace('}', ",\"data\":7}"),
            "parked",
            "NOT_IN_PLAN",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_byte_order_mark_and_white_space_around_a_body_change_nothing() {
    let mut cases = Vec::new();
    let around =
        [("\u{feff}", ""), ("\u{feff}\n ", "\n"), (" \r\n\t", " \r\n\t"), ("\u{feff}", " ")];
    for (n, (before, after)) in around.into_iter().enumerate() {
        let (subject, id) = (format!("user_bom_{n}"), format!("csub_item_bom_{n}"));
        let active = item(&subject, part(&id, "active", "pro"));
        let ended = with(part(&id, "ended", "pro"), "/updated_at", SENT + 9);
        let listed = snapshot(&subject, "active", vec![ended]);
        let listed = with(listed, "/data/updated_at", SENT + 9);
        let case = Case::new(format!("{before:?} and {after:?}"), &subject)
            .sends(&format!("{before}{active}{after}"), "applied")
            .sends(&format!("{before}{listed}{after}"), "applied");
        cases.push(case.then("export", "ENDED"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn a_nul_in_a_stored_text_parks_an_event_about_one_item() {
    let mut cases = Vec::new();
    for (n, place) in ["/data/id", "/data/status", "/data/payer/user_id"].into_iter().enumerate() {
        let (subject, id) = (format!("user_nul_{n}"), format!("csub_item_nul_{n}"));
        let active = item(&subject, part(&id, "active", "pro"));
        let ended = with(part(&id, "ended", "pro"), "/updated_at", SENT + 9);
        let ended = with(item(&subject, ended), place, "ended\0");
        let case = Case::new(place, &subject).sends(&active, "applied").sends(&ended, "parked");
        cases.push(case.then("export", "PLAN"));
    }
    check(&cases).await;
}
