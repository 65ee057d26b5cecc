//! A catalog goes into force by a deployment, forward and back alike; replicas only compare it.

use crate::support::{
    database::Db,
    overrides::CATALOG,
    process::Process,
    service::{ADA, eventually, payload},
    shell::Shell,
};
use entitlements::api::pb::CheckFeatureRequest;
use insta::assert_snapshot;
use std::path::PathBuf;

/// A folder with the catalogs of two releases: the second takes `export` from `pro` and lowers its limit.
fn releases(shell: &Shell) -> [PathBuf; 2] {
    let second = CATALOG
        .replacen("features = [\"reports\", \"export\"]", "features = [\"reports\", \"charts\"]", 1)
        .replacen("projects = 25", "projects = 10", 1);
    shell.write("first.toml", CATALOG);
    shell.write("second.toml", &second);
    ["first.toml", "second.toml"].map(|name| shell.path(name))
}

async fn is_allowed(process: &Process, feature: &str) -> bool {
    let request =
        CheckFeatureRequest { user_id: ADA.into(), feature: feature.into(), ..Default::default() };
    process.client().check_feature(request).await.unwrap().into_inner().allowed
}

async fn differs(process: &Process) -> bool {
    process.metrics().await.contains("\nentitlements_catalog_file_differs 1\n")
}

#[tokio::test]
async fn a_deployment_moves_the_catalog_forward_and_back_and_replicas_do_not() {
    let db = Db::new().await;
    let url = db.url.clone();
    let shell = Shell::new(&[("DATABASE_URL", &url)]);
    let files = releases(&shell);
    let [first, second] = files.each_ref().map(|path| path.to_str().unwrap());
    let release =
        async |catalog: &str| Process::start(&url, &[("ENTITLEMENTS_CATALOG", catalog)]).await;

    // The first replica puts its file in force, because there is no catalog yet.
    let one = release(first).await;
    one.send(&payload("subscriptionItem.active")).await;
    assert!(is_allowed(&one, "export").await);
    assert!(!differs(&one).await, "{}", one.log());

    // A replica of the next release only compares its file.
    let two = release(second).await;
    assert!(is_allowed(&two, "export").await && differs(&two).await);
    assert!(two.log().contains("differs from catalog 1, which stays in force"), "{}", two.log());
    let doctor = Shell::new(&[("DATABASE_URL", &url), ("ENTITLEMENTS_CATALOG", second)]);
    let (_, report, _) = doctor.run(&["doctor"]).await;
    assert!(
        report.contains("differs from catalog 1, which stays in force: 3 differences"),
        "{report}"
    );

    // The step of the deployment needs consent, because a customer loses something.
    let (code, refused, stderr) = shell.run(&["catalog", "apply", "second.toml"]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(
        refused.contains(
            "not applied: 1 user would lose export, 1 user would get a lower limit of projects"
        ),
        "{refused}"
    );
    let apply = [
        "catalog",
        "apply",
        "second.toml",
        "--most-losses",
        "1",
        "--by",
        "release 2",
        "--reason",
        "new prices",
    ];
    let (code, applied, stderr) = shell.run(&apply).await;
    assert!(code == 0 && applied.contains("catalog 2 is in force now"), "{applied}{stderr}");
    for replica in [&one, &two] {
        eventually("the new catalog is in force", async || !is_allowed(replica, "export").await)
            .await;
    }
    assert!(differs(&one).await && !differs(&two).await);

    // During the rolling restart, replicas of both releases start, and none of them changes the catalog.
    let again = release(first).await;
    assert!(!is_allowed(&again, "export").await && is_allowed(&again, "charts").await);

    // The rollback applies the old file again.
    let (code, applied, stderr) = shell
        .run(&["catalog", "apply", "first.toml", "--most-losses", "1", "--by", "rollback"])
        .await;
    assert!(code == 0 && applied.contains("catalog 3 is in force now"), "{applied}{stderr}");
    for replica in [&one, &two, &again] {
        eventually("the old catalog is in force", async || is_allowed(replica, "export").await)
            .await;
    }
    let (_, history, _) = shell.run(&["--json", "catalog", "history"]).await;
    let history: Vec<serde_json::Value> =
        history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = history
        .iter()
        .map(|version| {
            (
                version["number"].as_u64().unwrap(),
                version["appliedBy"].as_str().unwrap(),
                version["reason"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(said, [(3, "rollback", ""), (2, "release 2", "new prices"), (1, "", "")]);
    for process in [one, two, again] {
        assert!(process.terminate().await);
    }
}

#[tokio::test]
async fn a_plan_shows_the_difference_first_then_who_gains_and_loses() {
    let db = Db::new().await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    releases(&shell);
    let process = Process::start(
        &db.url,
        &[("ENTITLEMENTS_CATALOG", shell.path("first.toml").to_str().unwrap())],
    )
    .await;
    process.send(&payload("subscriptionItem.active")).await;
    let (code, same, _) = shell.run(&["catalog", "plan", "first.toml"]).await;
    assert_eq!((code, &*same), (0, "nothing changes: catalog 1 has this content\n"));
    let (code, plan, _) = shell.run(&["catalog", "plan", "second.toml", "--subjects"]).await;
    assert_eq!(code, 0);
    assert_snapshot!(plan, @r"
    + user.plans.pro.features.charts: no limit
    - user.plans.pro.features.export: no limit
    ~ user.plans.pro.features.projects: limit 25 -> limit 10
    FOR   FEATURE   GAIN  LOSE  LOWER LIMIT  EXAMPLES
    user  charts    1                        user_3jKRaOPcHB95IyjLKz2dmcVGvBR
    user  export          1                  user_3jKRaOPcHB95IyjLKz2dmcVGvBR
    user  projects              1            user_3jKRaOPcHB95IyjLKz2dmcVGvBR
    SUBJECT                           WOULD GAIN  WOULD LOSE
    user_3jKRaOPcHB95IyjLKz2dmcVGvBR  charts      export, projects (limit)
    1 subject compared: 1 would gain, 1 would lose a feature, a plan, some of its time, or a part of its limit
    ");
    let (_, json, _) = shell.run(&["catalog", "plan", "second.toml", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["inForce"], &json["effect"]["losing"]), (&1.into(), &1.into()));
    assert!(process.terminate().await);
}

#[tokio::test]
async fn a_shown_catalog_is_a_file_that_apply_takes_and_a_diff_compares_versions() {
    let db = Db::new().await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    releases(&shell);
    for file in ["first.toml", "second.toml"] {
        let (code, _, stderr) = shell.run(&["catalog", "apply", file]).await;
        assert_eq!(code, 0, "{stderr}");
    }
    let (_, diff, _) = shell.run(&["catalog", "diff", "1", "2"]).await;
    assert_snapshot!(diff, @r"
    catalog 1 -> catalog 2
    + user.plans.pro.features.charts: no limit
    - user.plans.pro.features.export: no limit
    ~ user.plans.pro.features.projects: limit 25 -> limit 10
    ");
    let (_, shown, _) = shell.run(&["catalog", "show", "1"]).await;
    shell.write("shown.toml", &shown);
    let (code, applied, stderr) = shell.run(&["catalog", "apply", "shown.toml"]).await;
    assert!(code == 0 && applied.ends_with("catalog 3 is in force now\n"), "{applied}{stderr}");
    let (_, same, _) = shell.run(&["catalog", "diff", "1", "3"]).await;
    assert_eq!(same, "catalog 1 -> catalog 3\nnothing changes\n");
    let (code, _, missing) = shell.run(&["catalog", "diff", "1", "9"]).await;
    assert_eq!(code, 2);
    assert!(
        missing.contains("there is no catalog 9: `catalog history` lists all catalogs"),
        "{missing}"
    );
    let (code, _, no_part) = shell.run(&["catalog", "show", "--part", "clerk"]).await;
    assert!(code == 2 && no_part.contains("has no such part"), "{no_part}");
}

#[tokio::test]
async fn a_loss_that_only_the_default_plan_or_a_later_time_shows_needs_consent_too() {
    let db = Db::new().await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    shell.write("first.toml", CATALOG);
    shell.write("no-default.toml", &CATALOG.replacen("default_plan = \"free\"", "", 1));
    let (code, _, stderr) = shell.run(&["catalog", "apply", "first.toml"]).await;
    assert_eq!(code, 0, "{stderr}");
    // Nobody is in the database, but everybody has the default plan.
    for most in ["0", "1000"] {
        let apply = ["catalog", "apply", "no-default.toml", "--most-losses", most];
        let (code, refused, _) = shell.run(&apply).await;
        assert!(
            code == 1 && refused.contains("every user without a record would lose reports"),
            "{refused}"
        );
    }
    // A canceled plan ends, and the default plan follows.
    let process = Process::start(
        &db.url,
        &[("ENTITLEMENTS_CATALOG", shell.path("first.toml").to_str().unwrap())],
    )
    .await;
    process.send(&payload("subscriptionItem.canceled")).await;
    shell.write(
        "less-later.toml",
        &CATALOG.replacen(
            "[user.plans.free]\n    features = [\"reports\"]",
            "[user.plans.free]",
            1,
        ),
    );
    let (code, refused, _) = shell.run(&["catalog", "plan", "less-later.toml"]).await;
    assert!(code == 0 && refused.contains("user  reports  1"), "{refused}");
    assert!(refused.contains("EARLIER"), "{refused}");
    assert!(process.terminate().await);
}
