//! `[numbers]` of a catalog file: a number in a slug is the limit of a feature.

use crate::support::{
    database::Db,
    fake_clerk::Clerk,
    service::{ADA, Replica, SECRET, eventually, payload},
    shell::Shell,
};
use insta::assert_snapshot;
use serde_json::{Value, json};

const FILE: &str = "
    [numbers]
    projects = \"projects_{n}\"
    [user.plans.pro]
    features = [\"export\", \"projects_25\"]
    [user.plans.max]
    features = [\"export\", \"projects_50\", \"projects_100\", \"projectsx_7\"]
";

#[tokio::test]
async fn a_check_answers_with_the_number_in_the_slug_and_so_does_sql() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    shell.write("numbers.toml", FILE);
    let (code, applied, stderr) = shell.run(&["catalog", "apply", "numbers.toml", "--yes"]).await;
    assert_eq!(code, 0, "{applied}{stderr}");
    eventually("the catalog is in force", async || {
        replica.check(ADA, "", "projects").await.limit == Some(25)
    })
    .await;
    // The slug stays a feature, as in Clerk's `has()`; a slug that only looks like it is nothing else.
    assert!(replica.check(ADA, "", "projects_25").await.allowed);
    let (code, types, _) = shell.run(&["catalog", "types", "--language", "ts"]).await;
    assert!(code == 0 && types.contains("type LimitedFeature =\n  | \"projects\";"), "{types}");
    let limit = "select entitlements.limit_of('projects', $1, null)";
    let limit: i64 = sqlx::query_scalar(limit).bind(ADA).fetch_one(&db.pool().await).await.unwrap();
    assert_eq!(limit, 25);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_plan_and_doctor_tell_which_of_several_numbers_counts() {
    let db = Db::new().await;
    let shell = Shell::new(&[
        ("DATABASE_URL", &db.url),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ]);
    shell.write("numbers.toml", FILE);
    let (_, plan, _) = shell.run(&["catalog", "plan", "numbers.toml"]).await;
    assert_snapshot!(plan, @r#"
    + numbers.projects: projects_{n}
    + user.plans.max: export, projects (limit 100), projects_100, projects_50, projectsx_7
    + user.plans.pro: export, projects (limit 25), projects_25
    note: user.plans.max: `projects_100`, `projects_50` state a limit of `projects`; the largest counts, 100
    0 subjects compared: 0 would gain, 0 would lose a feature, a plan, some of its time, or a part of its limit
    "#);
    let (_, json, _) = shell.run(&["catalog", "plan", "numbers.toml", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["notes"].as_array().unwrap().len(), 1, "{json}");
    let finding = async || {
        let (_, report, _) = shell.run(&["doctor"]).await;
        let line = report.lines().find(|line| line.contains("numbers in slugs"));
        line.map(str::to_owned)
    };
    assert_eq!(finding().await, None);
    for (file, expected) in [
        (FILE.to_owned(), "warn  numbers in slugs"),
        (FILE.replace("\"projects_50\", ", ""), "ok    numbers in slugs"),
        (FILE.replace("_{n}", ".{n}"), "warn  numbers in slugs"),
    ] {
        shell.write("numbers.toml", &file);
        let (code, _, stderr) = shell.run(&["catalog", "apply", "numbers.toml", "--yes"]).await;
        assert_eq!(code, 0, "{stderr}");
        let found = finding().await.unwrap_or_default();
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(
            found.starts_with("warn"),
            found.contains(" -> correct the features"),
            "{found}"
        );
    }
}

/// A plan in Clerk's list.
fn plan(slug: &str, features: &[&str]) -> Value {
    let features: Vec<_> = features.iter().map(|slug| json!({ "slug": slug })).collect();
    json!({ "id": format!("cplan_{slug}"), "slug": slug, "for_payer_type": "user", "features": features })
}

#[tokio::test]
async fn a_file_with_nothing_but_patterns_gives_limits_to_the_plans_that_clerk_lists() {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let shell = Shell::with_clerk(&db, &clerk);
    clerk.state.lock().unwrap().plans = vec![
        plan("pro", &["export", "projects_25"]),
        plan("max", &["export", "projects_50", "projects_100", "projectsx_7"]),
    ];
    shell.write("patterns.toml", "[numbers]\nprojects = \"projects_{n}\"\n");
    for arguments in [&["catalog", "apply", "patterns.toml"][..], &["catalog", "pull"]] {
        let (code, stdout, stderr) = shell.run(arguments).await;
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
    let (_, shown, _) = shell.run(&["catalog", "show", "--part", "all"]).await;
    assert_snapshot!(shown.split_once('\n').unwrap().1, @r#"
    [numbers]
    projects = "projects_{n}"

    [user.plans.max]
    id = "cplan_max"
    features = ["export", "projects_100", "projects_50", "projectsx_7"]

    [user.plans.pro]
    id = "cplan_pro"
    features = ["export", "projects_25"]

    [organization.plans]
    "#);
    let (_, clerks, _) = shell.run(&["catalog", "show", "--part", "clerk"]).await;
    assert!(!clerks.contains("numbers"), "{clerks}");
    // The same catalog as a file, in another database.
    let other = Db::new().await;
    let other = Shell::new(&[("DATABASE_URL", &other.url)]);
    other.write("shown.toml", &shown);
    let (code, plan, stderr) = other.run(&["catalog", "apply", "shown.toml"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(
        plan.contains("+ user.plans.pro: export, projects (limit 25), projects_25\n"),
        "{plan}"
    );
    let (_, again, _) = other.run(&["catalog", "show", "--part", "all"]).await;
    assert_eq!(again.split_once('\n').unwrap().1, shown.split_once('\n').unwrap().1);
    let keys = async |shell: &Shell| shell.run(&["catalog", "types", "--language", "go"]).await.1;
    assert_eq!(keys(&shell).await, keys(&other).await);
}

#[tokio::test]
async fn an_import_keeps_the_patterns_and_notes_those_that_match_nothing() {
    let shell = Shell::new(&[]);
    shell.write("billing.json", &payload("config/pulled"));
    let import = ["catalog", "import", "billing.json", "--number", "seats={n}_seats"];
    let (code, toml, stderr) = shell.run(&import).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(toml.contains("[numbers]\nseats = \"{n}_seats\"\n"), "{toml}");
    assert!(toml.contains("features = [\"2_seats\"]") && !toml.contains("limits ="), "{toml}");
    shell.write("catalog.toml", &toml);
    let types = ["catalog", "types", "--language", "python", "--file", "catalog.toml"];
    let (_, types, _) = shell.run(&types).await;
    assert!(types.contains("LimitedFeature: TypeAlias = Literal[\n    \"seats\",\n]"), "{types}");
    for (number, code, words) in [
        ("runs=runs_{n}", 0, "note: numbers.runs: no feature of a plan matches `runs_{n}`"),
        ("runs=runs", 2, "error: --number: numbers.runs: `runs` has no {n}; write it in place of"),
        ("runs", 2, "needs a feature and a pattern, as projects=projects_{n}"),
    ] {
        let import = ["catalog", "import", "billing.json", "--number", number];
        let (found, _, stderr) = shell.run(&import).await;
        assert!(found == code && stderr.contains(words), "{number}: {stderr}");
    }
}

#[tokio::test]
async fn an_invalid_pattern_in_a_file_is_refused_with_its_key() {
    let shell = Shell::new(&[]);
    shell.write("bad.toml", &FILE.replace("projects_{n}", "projects_"));
    let types = ["catalog", "types", "--language", "ts", "--file", "bad.toml"];
    let (code, stdout, stderr) = shell.run(&types).await;
    assert_eq!((code, &*stdout), (2, ""));
    assert_snapshot!(stderr, @"error: bad.toml: the catalog is invalid: numbers.projects: `projects_` has no {n}; write it in place of the number, as projects_{n}");
}
