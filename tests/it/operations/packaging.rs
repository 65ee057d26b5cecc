//! The image and the workflows: what the Dockerfile builds and runs, and its health check.

use crate::{
    support::certificates::Authority,
    support::database::Db,
    support::manifests::{Image, documents, file, settings, the},
    support::service::{Replica, config, eventually, payload},
    support::shell::Shell,
};
use entitlements::config::{Config, ListenerFiles};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

#[tokio::test]
async fn the_health_check_of_containers_says_whether_the_service_is_ready() {
    let replica = Replica::start(&Db::new().await).await;
    let internal = replica.bound.operator;
    let everywhere = format!("0.0.0.0:{}", internal.port());
    for address in [internal.to_string(), everywhere] {
        let (code, stdout, _) =
            Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
        assert_eq!((code, &*stdout), (0, "ready\n"), "{address}");
    }
    let nowhere = "postgres://me@127.0.0.1:1/none".parse().unwrap();
    let waiting = Replica::launch(Config { database: nowhere, ..config(&Db::absent()) }).await;
    let address = waiting.bound.operator.to_string();
    let (code, stdout, _) =
        Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
    assert_eq!((code, &*stdout), (1, "has not read the database yet\n"));
    replica.stop().await.unwrap();
    let address = internal.to_string();
    let (code, _, stderr) =
        Shell::new(&[("ENTITLEMENTS_OPERATOR_LISTEN", &address)]).run(&["ready"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("is `entitlements serve` running?"), "{stderr}");
}

#[tokio::test]
async fn the_health_check_speaks_tls_where_the_service_does() {
    let authority = Authority::new();
    let listeners = ListenerFiles {
        operator: Some(authority.listener()),
        client_ca: Some(authority.client_ca()),
        ..ListenerFiles::default()
    };
    let replica = Replica::start_with(Config { listeners, ..config(&Db::new().await) }).await;
    let address = format!("0.0.0.0:{}", replica.bound.operator.port());
    let plain = ("ENTITLEMENTS_OPERATOR_LISTEN", &*address);
    let (code, stdout, _) =
        Shell::new(&[plain, ("ENTITLEMENTS_OPERATOR_TLS_CERT", "cert.pem")]).run(&["ready"]).await;
    assert_eq!((code, &*stdout), (0, "ready\n"));
    let (code, _, stderr) = Shell::new(&[plain]).run(&["ready"]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&format!("nothing answers on http://{}", replica.bound.operator)),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_change_log_restored_from_another_cluster_is_pruned() {
    let db = Db::new().await;
    let pool = db.pool().await;
    // The transaction id is ahead of this cluster, so the row would be read again by every poll of the log.
    let insert = "insert into entitlements.change_log (subject, tx) select 'user_' || n, ($1 + n)::text::xid8
        from generate_series(1, 100) n";
    sqlx::query(insert).bind(1_i64 << 40).execute(&pool).await.unwrap();
    let replica = Replica::start(&db).await;
    let ours = "select count(*) filter (where tx < pg_snapshot_xmax(pg_current_snapshot())),
        count(*) from entitlements.change_log";
    replica.send(&payload("subscriptionItem.active")).await;
    eventually("only rows of this cluster are left", async || {
        let (ours, all): (i64, i64) = sqlx::query_as(ours).fetch_one(&pool).await.unwrap();
        ours == all && ours > 0
    })
    .await;
}

#[tokio::test]
async fn rows_of_the_change_log_older_than_a_day_are_pruned() {
    let db = Db::new().await;
    let pool = db.pool().await;
    let insert = "insert into entitlements.change_log (subject, tx, logged_at)
        select 'user_' || n, (3 + n / 50)::text::xid8, now() - case when n % 100 = 0 then '23 hours' else '25 hours' end::interval
        from generate_series(1, 12000) n";
    sqlx::query(insert).execute(&pool).await.unwrap();
    let _replica = Replica::start(&db).await;
    let count = "select count(*) filter (where logged_at < now() - interval '24 hours'),
        count(*) filter (where logged_at < now() - interval '22 hours') from entitlements.change_log";
    eventually("only rows of the last day are left", async || {
        let left: (i64, i64) = sqlx::query_as(count).fetch_one(&pool).await.unwrap();
        left == (0, 120)
    })
    .await;
}

#[tokio::test]
async fn the_image_runs_serve_as_nobody_and_opens_its_listeners() {
    let image = Image::read();
    image.container().check_settings(&[]).await;
    assert!(image.user().is_some_and(|user| user > 0), "not a number, or root: {:?}", image.user());
    let exposed: BTreeSet<_> = image.words("EXPOSE").map(|port| port.parse().unwrap()).collect();
    assert_eq!(exposed, image.ports().into_values().collect());
    for command in [image.list("CMD"), image.list("HEALTHCHECK").split_off(1)] {
        settings(&command[0]).await;
    }
    let entrypoint = image.list("ENTRYPOINT");
    assert_eq!(entrypoint[0], image.list("HEALTHCHECK")[0]);
}

#[test]
fn the_folder_for_the_volume_of_compose_belongs_to_the_user_of_the_image() {
    let image = Image::read();
    let copied = image.arguments("COPY").find(|copied| copied.ends_with(" /config"));
    let mut words = copied.expect("no folder for an empty volume").split_whitespace();
    let owner = words.find_map(|word| word.strip_prefix("--chown="));
    assert_eq!(owner, image.words("USER").next());
}

#[test]
fn the_image_is_built_from_all_that_the_binary_is_made_of() {
    let ignore = file(".dockerignore");
    let sent: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest: toml::Value = toml::from_str(&file("Cargo.toml")).unwrap();
    let mut needed = vec!["Cargo.toml".into(), "Cargo.lock".into(), "build.rs".into()];
    needed.extend([".sqlx", ".cargo", "crates", "src", "proto", "migrations"].map(String::from));
    if manifest.get("bench").is_some() {
        needed.push("benches".into());
    }
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.ends_with("tests.rs")
                || path.components().any(|part| part.as_os_str() == "tests")
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let included = text.split("include_str!(\"../../").skip(1);
            let parent = |path: &str| match path.rsplit_once('/') {
                Some((folder, _)) => folder.to_owned(),
                None => path.to_owned(),
            };
            needed.extend(included.filter_map(|rest| Some(parent(rest.split('"').next()?))));
        }
    }
    for name in needed {
        assert!(sent.contains(&&*name), ".dockerignore leaves out {name}");
    }
}

#[test]
fn the_workflows_run_the_ci_script_with_few_rights_and_pinned_actions() {
    for name in ["ci", "release"] {
        let workflow = the(documents(&file(&format!(".github/workflows/{name}.yml"))));
        assert_eq!(workflow["permissions"], json!({ "contents": "read" }), "{name}");
        let jobs = workflow["jobs"].as_object().unwrap().values();
        let steps: Vec<_> = jobs.flat_map(|job| job["steps"].as_array().unwrap()).collect();
        let run = |step: &&&Value| step["run"].as_str().is_some_and(|run| run.contains(".ci/run"));
        assert_eq!(steps.iter().filter(run).count(), 1, "{name}");
        for action in steps.iter().filter_map(|step| step["uses"].as_str()) {
            let pin = action.split_once('@').map(|(_, pin)| pin).unwrap_or_default();
            let is_hash = pin.len() == 40 && pin.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_hash, "{name}: {action} is not pinned by the hash of a commit");
        }
    }
}
