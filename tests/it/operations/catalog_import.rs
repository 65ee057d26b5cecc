//! `catalog import`: the file of Clerk's command line becomes a catalog file.

use crate::support::{database::Db, fake_clerk::Clerk, rng::Rng, service::payload, shell::Shell};
use entitlements::domain::Catalog;
use insta::assert_snapshot;
use serde_json::{Map, Value, json};

fn fixture(name: &str) -> String {
    payload(&format!("config/{name}"))
}

/// The exit code, the output and the errors of an import.
async fn import(text: &str) -> (i32, String, String) {
    let shell = Shell::new(&[]);
    shell.write("billing.json", text);
    shell.run(&["catalog", "import", "billing.json"]).await
}

#[tokio::test]
async fn a_pulled_file_becomes_a_catalog_file_that_apply_takes() {
    let (code, toml, stderr) = import(&fixture("pulled")).await;
    assert_eq!(code, 0, "{stderr}");
    assert_snapshot!(toml, @r#"
    # Imported from billing.json. Clerk has no limits and no grace: add them here.

    [user]
    default_plan = "free_user"

    [user.plans.free_user]
    features = ["2_seats"]

    [user.plans.pro]
    features = ["2_seats", "_unlimited_boards_"]

    [organization]
    default_plan = "free_org"

    [organization.plans.free_org]
    features = []

    [organization.plans.team]
    features = ["_unlimited_boards_", "audit-log"]
    "#);
    assert_snapshot!(stderr, @r#"
    note: user.default_plan: `free_user` assumed, which Clerk creates
    note: organization.default_plan: `free_org` assumed, which Clerk creates
    "#);
    let db = Db::new().await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    shell.write("catalog.toml", &toml);
    let (code, applied, stderr) = shell.run(&["catalog", "apply", "catalog.toml"]).await;
    assert!(code == 0 && applied.ends_with("catalog 1 is in force now\n"), "{applied}{stderr}");
}

#[tokio::test]
async fn every_form_of_the_file_is_read() {
    let plans = r#"{"pro":{"payer_type":"user","features":["sso"]}}"#;
    for (text, expected) in [
        (fixture("list"), &["[user.plans.pro]\nfeatures = [\"calendar\", \"export\"]"][..]),
        (format!(r#"{{"billing":{{"plans":{plans}}}}}"#), &["[user.plans.pro]"]),
        (format!(r#"{{"plans":{plans}}}"#), &["[user.plans.pro]"]),
        (format!("\u{feff}{{\"plans\":{plans}}}"), &["[user.plans.pro]"]),
        (
            payload("bapi/plans"),
            &["default_plan = \"free_org\"", "id = \"cplan_3DVPbB4nwtt0ozbRtlyF0GSGEpD\""],
        ),
        (
            payload("field/captured/98-bare-array"),
            &["[user.plans."],
        ),
        // An object of JSON may have a key twice: one plan for each kind of payer.
        (
            r#"{"plans":{"pro":{"payer_type":"user","features":["a"]},"pro":{"payer_type":"org","features":["b"]}}}"#
                .into(),
            &["[user.plans.pro]\nfeatures = [\"a\"]", "[organization.plans.pro]\nfeatures = [\"b\"]"],
        ),
    ] {
        let (code, toml, stderr) = import(&text).await;
        assert_eq!(code, 0, "{text}: {stderr}");
        for words in expected {
            assert!(toml.contains(words), "{words}: {toml}");
        }
    }
}

#[tokio::test]
async fn a_plan_that_cannot_be_read_is_left_out_with_its_place_and_the_reason() {
    let good = r#""good":{"payer_type":"organization","features":[],"new":{"x":[1]}}"#;
    for (plan, why) in [
        (r#""pro":{"payer_type":"user"}"#, "billing.plans.pro: it came without its features"),
        (r#""pro":{"payer_type":"user","features":null}"#, "billing.plans.pro: it came without"),
        (r#""pro":{"payer_type":"user","features":"sso"}"#, "`features` is not a list"),
        (
            r#""pro":{"payer_type":"user","features":["a",{}]}"#,
            "plans.pro: features[1]: has no slug",
        ),
        (
            r#""pro":{"payer_type":"user","features":["a:b"]}"#,
            "features[0]: a slug contains a colon",
        ),
        (
            r#""pro":{"features":[]}"#,
            "billing.plans.pro: its payer type is neither `user` nor `org`",
        ),
        (r#""pro":{"payer_type":"team","features":[]}"#, "its payer type is neither"),
        (r#""pro":{"payer_type":["user"],"features":[]}"#, "`payer_type` is not a string"),
        (r#""a:b":{"payer_type":"user","features":[]}"#, "a slug contains a colon, which is"),
        (r#""pro":7"#, "billing.plans.pro: it is not an object"),
    ] {
        for text in [format!("{plan},{good}"), format!("{good},{plan}")] {
            let (code, toml, stderr) =
                import(&format!(r#"{{"billing":{{"plans":{{{text}}}}}}}"#)).await;
            assert_eq!(code, 1, "{plan}: {stderr}");
            let warning =
                stderr.lines().find(|line| line.starts_with("warning: billing.json: left out"));
            assert!(warning.is_some_and(|line| line.contains(why)), "{why}: {stderr}");
            assert!(toml.contains("[organization.plans.good]\nfeatures = []"), "{toml}");
        }
    }
    let twice = r#"[{"slug":"a","payer_type":"user","features":[]},{"slug":"a","payer_type":"user","features":[]},{}]"#;
    let (code, _, stderr) = import(twice).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("the list[1]: the file has another user plan `a` before it"),
        "{stderr}"
    );
    assert!(stderr.contains("the list[2]: it has no slug"), "{stderr}");
}

#[tokio::test]
async fn a_default_plan_is_taken_if_the_file_or_clerk_names_it() {
    let plan = |slug: &str, more: &str| {
        format!(r#"{{"plans":{{"{slug}":{{"payer_type":"user","features":[]{more}}}}}}}"#)
    };
    for (text, default, note) in [
        (plan("basic", r#","is_default":true"#), true, ""),
        (plan("free_user", r#","amount":0"#), true, "`free_user` assumed, which Clerk creates"),
        (
            plan("free_user", r#","amount":900"#),
            false,
            "every user without a subscription has no feature",
        ),
        (plan("free_org", ""), false, "user.default_plan: the file names none; add it"),
    ] {
        let (code, toml, stderr) = import(&text).await;
        assert_eq!((code, toml.contains("default_plan = ")), (0, default), "{text}: {toml}");
        assert!(
            stderr.contains(note) && (note.is_empty() == stderr.is_empty()),
            "{text}: {stderr}"
        );
    }
}

#[tokio::test]
async fn a_file_without_plans_is_an_error_that_names_the_fix() {
    for (text, words) in [
        ("", "billing.json: it is not JSON: EOF while parsing"),
        ("[user]", "it is not JSON: expected value at line 1 column 2"),
        ("{}", "it has no `billing.plans`: write it by `clerk config pull --keys billing"),
        (r#"{"session":{"lifetime":1}}"#, "it has no `billing.plans`"),
        (r#"{"billing":{"plans":{}}}"#, "`billing.plans` has no plan that can be read: enable"),
        (r#"{"billing":{"plans":{"pro":{}}}}"#, "(billing.plans.pro: its payer type"),
        (
            r#"{"plans":[{"slug":"a","id":"cplan_a","payer_type":"user","features":[]},{"slug":"b","id":"cplan_a","payer_type":"user","features":[]}]}"#,
            "already has the id `cplan_a`",
        ),
    ] {
        let (code, toml, stderr) = import(text).await;
        assert_eq!((code, &*toml), (2, ""), "{text}: {stderr}");
        assert!(stderr.starts_with("error: billing.json") && stderr.contains(words), "{stderr}");
    }
}

#[tokio::test]
async fn a_catalog_file_that_exists_is_never_changed() {
    let shell = Shell::new(&[]);
    shell.write("billing.json", &fixture("pulled"));
    let arguments = ["catalog", "import", "billing.json", "--output", "catalog.toml"];
    let (code, created, stderr) = shell.run(&arguments).await;
    assert_eq!((code, &*created), (0, "created  catalog.toml, with 4 plans\n"), "{stderr}");
    shell.write("catalog.toml", "mine");
    let (code, _, stderr) = shell.run(&arguments).await;
    assert!(code == 2 && stderr.contains("catalog.toml exists, and may have limits"), "{stderr}");
    assert_eq!(std::fs::read_to_string(shell.path("catalog.toml")).unwrap(), "mine");
}

/// A plan of a generated configuration: the slug, and its form in the file and in the Backend API.
fn plan(rng: &mut Rng, nth: usize) -> (String, Value, Value) {
    const FEATURES: [&str; 7] = ["export", "sso", "2_seats", "audit-log", "a.b", "größe", "x_25"];
    let is_user = rng.below(2) == 0;
    let payer = if is_user { "user" } else { "org" };
    let slug = match (nth, is_user) {
        (0, true) => "free_user".into(),
        (0, false) => "free_org".into(),
        _ => format!("plan_{nth}{}", ["", "-x", "_25", ".y"][rng.below(4)]),
    };
    let features: Vec<_> = FEATURES.into_iter().filter(|_| rng.below(3) == 0).collect();
    let objects: Vec<_> =
        features.iter().map(|slug| json!({ "slug": slug, "name": "x" })).collect();
    let amount = if nth == 0 { 0 } else { 900 };
    let file = json!({ "payer_type": payer, "features": features, "amount": amount, "name": slug });
    let api = json!({
        "object": "commerce_plan", "id": format!("cplan_{nth}"), "slug": slug, "for_payer_type": payer,
        "features": objects, "is_default": nth == 0, "is_recurring": true,
    });
    (slug, file, api)
}

/// The canonical form of a catalog file without ids, which the file of Clerk's command line lacks.
fn without_ids(toml: &str) -> String {
    let lines = toml.lines().filter(|line| !line.starts_with("id = ")).collect::<Vec<_>>();
    Catalog::from_toml(&lines.join("\n")).unwrap().to_json()
}

#[tokio::test]
async fn an_import_gives_the_plans_that_pull_gets_with_a_key() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let shell = Shell::with_clerk(&db, &clerk);
    let mut rng = Rng::new();
    for case in 0..50 {
        let count = 1 + rng.below(8);
        let plans: Vec<_> = (0..count).map(|nth| plan(&mut rng, nth)).collect();
        let keyed: Map<_, _> =
            plans.iter().map(|(slug, file, _)| (slug.clone(), file.clone())).collect();
        shell.write("billing.json", &json!({ "billing": { "plans": keyed } }).to_string());
        clerk.state.lock().unwrap().plans = plans.into_iter().map(|(_, _, api)| api).collect();
        let (code, imported, stderr) = shell.run(&["catalog", "import", "billing.json"]).await;
        assert_eq!(code, 0, "{stderr}");
        let pull = ["catalog", "pull", "--remove-retired", "--yes"];
        let (code, _, stderr) = shell.run(&pull).await;
        assert_eq!(code, 0, "{stderr}");
        let (_, pulled, _) = shell.run(&["catalog", "show", "--part", "clerk"]).await;
        assert_eq!(
            without_ids(&imported),
            without_ids(&pulled),
            "case {case}: {imported}\n{pulled}"
        );
    }
}
