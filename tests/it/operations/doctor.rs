//! `entitlements doctor` on good and faulty setups.

use crate::{
    support::certificates::Authority,
    support::database::Db,
    support::fake_clerk::{Clerk, INSTANCE, KEY},
    support::proxy::{Link, Proxy},
    support::service::{Replica, SECRET, config, payload},
    support::shell::Shell,
};
use entitlements::{
    config::{Config, ListenerFiles},
    domain::Catalog,
};
use serde_json::Value;
use std::net::TcpListener;

const CATALOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml");

/// The exit code and output lines of `doctor` with these settings besides the usual ones.
async fn examined(variables: &[(&'static str, &str)]) -> (i32, Vec<String>) {
    let usual = [
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ENTITLEMENTS_CATALOG", CATALOG),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ];
    let given = |name| variables.iter().any(|(given, _)| *given == name);
    let mut all: Vec<_> = usual.into_iter().filter(|(name, _)| !given(*name)).collect();
    all.extend(variables);
    all.retain(|(_, value)| !value.is_empty());
    let (code, stdout, stderr) = Shell::new(&all).run(&["doctor"]).await;
    assert_eq!(stderr, "");
    for secret in ["hunter2", "C2FVsBQIhrscChlQIMV", KEY] {
        assert!(!stdout.contains(secret), "{secret} in:\n{stdout}");
    }
    let (lines, summary) = stdout.trim_end().rsplit_once('\n').unwrap();
    assert!(summary.contains(" checks: "), "{summary}");
    (code, lines.lines().map(str::to_owned).collect())
}

/// Checks that `doctor` with these settings ends with this code and has these lines, each with all of its words, and
/// that each warning and failure has a fix. Returns all lines.
async fn check(variables: &[(&'static str, &str)], code: i32, expected: &[&[&str]]) -> Vec<String> {
    let (found, lines) = examined(variables).await;
    let text = lines.join("\n");
    assert_eq!(found, code, "{text}");
    for words in expected {
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        assert!(lines.iter().find(fits).is_some(), "{words:?} in:\n{text}");
    }
    for line in &lines {
        let is_well = line.starts_with("ok    ");
        assert!(is_well != line.contains(" -> "), "{line}");
        assert!(is_well || line.starts_with("warn  ") || line.starts_with("fail  "), "{line}");
    }
    lines
}

/// A database with an active catalog and one applied delivery.
async fn in_use() -> Db {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.stop().await.unwrap();
    db
}

#[tokio::test]
async fn a_good_setup_passes_and_nothing_is_changed() {
    let (db, clerk) = (in_use().await, Clerk::start().await);
    let before = db.fingerprint().await;
    let variables =
        [("DATABASE_URL", &*db.url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &*clerk.url)];
    let (code, lines) = examined(&variables).await;
    let what: Vec<_> = lines.iter().map(|line| line[6..23].trim_end()).collect();
    let all = [
        "signing secrets",
        "catalog file",
        "settings",
        "API listener",
        "webhook listener",
        "operator listener",
        "database",
        "Postgres version",
        "TLS to Postgres",
        "clock",
        "rights",
        "other roles",
        "migrations",
        "notifications",
        "parked",
        "catalog",
        "plans held",
        "catalog in force",
        "Clerk's API",
        "Clerk instance",
    ];
    assert_eq!(what, all, "{lines:#?}");
    assert!(code == 0 && lines.iter().all(|line| line.starts_with("ok    ")), "{lines:#?}");
    assert_eq!(db.fingerprint().await, before);
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let db = in_use().await;
    let url = ("DATABASE_URL", &*db.url);
    let short = ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_AAECAwQFBgcICQoLDA0ODw==");
    check(&[url, short], 0, &[&["warn", "signing secrets", "16 bytes", "24"]]).await;
    let word = ("CLERK_WEBHOOK_SIGNING_SECRET", "changeme");
    check(&[url, word], 1, &[&["fail", "signing secrets", "fewer than 16 bytes"]]).await;
    let absent = ("ENTITLEMENTS_CATALOG", "absent.toml");
    check(&[url, absent], 1, &[&["fail", "catalog file", "cannot read absent.toml"]]).await;
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, "[user]\nplan = 1\n").unwrap();
    let broken = ("ENTITLEMENTS_CATALOG", broken.to_str().unwrap());
    let place = "TOML parse error at line 2, column 1: unknown field `plan`";
    check(&[url, broken], 1, &[&["fail", "catalog file", place]]).await;
    check(
        &[url, ("ENTITLEMENTS_LOG", "a=b=c")],
        1,
        &[&["fail", "settings", "ENTITLEMENTS_LOG is not a log filter"]],
    )
    .await;
    let none = ("DATABASE_URL", "");
    check(&[none], 1, &[&["fail", "database", "DATABASE_URL is not set"]]).await;
}

#[tokio::test]
async fn an_unreachable_absent_or_silent_database_is_distinguished() {
    let nowhere = ("DATABASE_URL", "postgres://me:hunter2@127.0.0.1:1/nothing");
    let refused = ["fail", "`nothing` at 127.0.0.1:1, as `me`", "refused", "this machine may"];
    check(&[nowhere], 1, &[&refused]).await;
    let absent = Db::absent();
    check(&[("DATABASE_URL", &absent.url)], 1, &[&["fail", "does not exist", "create the"]]).await;
    let db = Db::new().await;
    let proxy = Proxy::before(&db.url).await;
    proxy.set(Link::BlackHole);
    let silent = proxy.url(db.name());
    check(&[("DATABASE_URL", &silent)], 1, &[&["fail", "does not answer within 5 s"]]).await;
}

#[tokio::test]
async fn a_schema_mismatch_is_reported_with_its_versions() {
    let db = Db::absent();
    db.create_empty().await;
    let url = ("DATABASE_URL", &*db.url);
    let behind = ["fail", "migrations", "at 0, behind", "entitlements migrate"];
    check(&[url], 1, &[&behind]).await;
    check(
        &[url, ("ENTITLEMENTS_MIGRATE", "true")],
        0,
        &[&["warn", "migrations", "serve --migrate"]],
    )
    .await;
    let db = in_use().await;
    let later = "insert into entitlements._sqlx_migrations
        (version, description, success, checksum, execution_time) values (999, '', true, '', 0)";
    db.run(later).await;
    let ahead = ["fail", "migrations", "at 999, too far ahead", "deploy the release"];
    check(&[("DATABASE_URL", &db.url)], 1, &[&ahead]).await;
}

#[tokio::test]
async fn missing_rights_are_reported_as_the_grants_that_give_them() {
    let db = in_use().await;
    let role = format!("{}_clerk", db.name());
    let url = db.url_as(&role);
    assert_ne!(url, db.url);
    db.run(&format!("create role {role} login password '{role}'")).await;
    let grants = [
        "fail",
        "rights",
        &format!("`{role}` lacks rights"),
        &format!("grant usage on schema entitlements to \"{role}\""),
        &format!("grant execute on function entitlements.history() to \"{role}\""),
        "grant delete, insert, select, update on table entitlements.change_log, entitlements.failed_payment, \
         entitlements.item, entitlements.override, entitlements.snapshot to",
        "grant select, update on table entitlements.deletion_lock, entitlements.history_retention to",
    ];
    let lines = check(&[("DATABASE_URL", &url)], 1, &[&grants]).await;
    // The statements work as they are printed.
    let mut statements =
        lines.iter().filter_map(|line| line.split_once("as the owner of the tables: "));
    db.run(statements.next().unwrap().1).await;
    check(&[("DATABASE_URL", &url)], 0, &[&["ok", "rights", &role], &["ok", "other roles"]]).await;
    db.run(&format!("revoke insert on entitlements.delivery from {role}")).await;
    let grant = format!("grant insert on table entitlements.delivery to \"{role}\";");
    check(&[("DATABASE_URL", &url)], 1, &[&["fail", "rights", &grant]]).await;
    db.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn other_roles_with_rights_are_reported_with_the_statements_that_revoke_them() {
    let db = in_use().await;
    let (url, role) = (("DATABASE_URL", &*db.url), format!("{}_other", db.name()));
    let closed = ["ok", "other roles", "no other role can use the tables"];
    check(&[url], 0, &[&closed]).await;
    db.run(&format!("create role {role} login")).await;
    for grant in [
        "select on table entitlements.item, entitlements.subject",
        "select (body) on table entitlements.delivery",
        "create on schema entitlements",
        "execute on function entitlements.history()",
        "usage on sequence entitlements.change_log_id_seq",
    ] {
        for (to, verdict, code) in [(&*role, "warn", 0), ("public", "fail", 1)] {
            db.run(&format!("grant {grant} to {to}")).await;
            let revoke = format!("revoke {grant} from {to};");
            check(&[url], code, &[&[verdict, "other roles", to, &revoke]]).await;
            db.run(&revoke).await;
        }
        check(&[url], 0, &[&closed]).await;
    }
    // Another service's role is known by its rights, and only what it has beside them is listed.
    let (service, as_service) = db.service_role().await;
    let except = format!("except as a service: {service}");
    check(&[url], 0, &[&["ok", "other roles", &except]]).await;
    check(&[("DATABASE_URL", &as_service)], 0, &[&closed]).await;
    db.run(&format!("grant truncate on entitlements.item to {service}")).await;
    let revoke = format!(": revoke truncate on table entitlements.item from {service};");
    check(&[url], 0, &[&["warn", "other roles", &revoke]]).await;
    // Roles that can act as the owner of the tables are trusted.
    db.run(&format!("grant select on entitlements.item to {role}; grant entitlements to {role}"))
        .await;
    check(&[url], 0, &[&["warn", "other roles", &revoke]]).await;
    db.run(&format!("drop owned by {role}, {service}; drop role {role}, {service}")).await;
}

#[tokio::test]
async fn plain_text_to_another_machine_and_missing_notifications_are_warnings() {
    let db = in_use().await;
    let proxy = Proxy::before(&db.url).await;
    // An address of this machine that is not recognized as one.
    let url = proxy.url(db.name()).replace("127.0.0.1", "0.0.0.0");
    check(&[("DATABASE_URL", &url)], 0, &[&["warn", "TLS", "not encrypted", "verify-full"]]).await;
    let url = proxy.url(db.name());
    check(&[("DATABASE_URL", &url)], 0, &[&["ok", "TLS", "on this machine"]]).await;
    proxy.set(Link::Deaf);
    let deaf = ["warn", "notifications", "not received within 2 s", "every 250 ms"];
    check(&[("DATABASE_URL", &url)], 0, &[&deaf]).await;
}

#[tokio::test]
async fn a_catalog_that_is_missing_or_lacks_plans_is_a_warning() {
    let db = Db::new().await;
    let (url, no_catalog) = (("DATABASE_URL", &*db.url), ("ENTITLEMENTS_CATALOG", ""));
    check(
        &[url, no_catalog],
        0,
        &[&["warn", "catalog", "no catalog is in force", "set ENTITLEMENTS_CATALOG"]],
    )
    .await;
    let mut config = config(&db);
    let catalog = Catalog::from_toml("[organization.plans.pro]\nfeatures = [\"sso\"]").unwrap();
    config.catalog = Some((catalog, "other.toml".into()));
    let replica = Replica::start_with(config).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send("not json").await;
    replica.stop().await.unwrap();
    let held = ["warn", "plans held", "user.plans.pro", "no more than the default plan"];
    let parked = ["warn", "parked", "1 delivery", "deliveries list --result parked"];
    check(&[url], 0, &[&held, &parked, &["ok", "catalog", "1 is in force, from other.toml"]]).await;
}

#[tokio::test]
async fn addresses_in_use_are_reported_unless_this_service_uses_them() {
    let db = Db::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let (url, listen) = (("DATABASE_URL", &*db.url), ("ENTITLEMENTS_WEBHOOK_LISTEN", &*at));
    check(&[url, listen], 1, &[&["fail", "webhook listener", &at, "in use by another process"]])
        .await;
    let away = ("ENTITLEMENTS_OPERATOR_LISTEN", "192.0.2.1:9090");
    check(&[url, away], 1, &[&["fail", "operator listener", "cannot listen on 192.0.2.1"]]).await;
    let replica = Replica::start(&db).await;
    let (grpc, http) = (replica.bound.api.to_string(), replica.bound.webhook.to_string());
    let running = ["ok", "API listener", &*grpc, "this service is running there"];
    check(&[url, ("ENTITLEMENTS_API_LISTEN", &grpc)], 0, &[&running]).await;
    check(
        &[url, ("ENTITLEMENTS_API_LISTEN", &grpc), ("ENTITLEMENTS_WEBHOOK_LISTEN", &http)],
        0,
        &[&running],
    )
    .await;
    let authority = Authority::new();
    let listeners =
        ListenerFiles { webhook: Some(authority.listener()), ..ListenerFiles::default() };
    let replica = Replica::launch(Config { listeners, ..config(&db) }).await;
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| authority.path(name));
    let http = replica.bound.webhook.to_string();
    let running = ["ok", "webhook listener", &*http, "this service is running there"];
    let tls = [
        ("ENTITLEMENTS_WEBHOOK_TLS_CERT", cert.to_str().unwrap()),
        ("ENTITLEMENTS_WEBHOOK_TLS_KEY", key.to_str().unwrap()),
    ];
    check(&[url, ("ENTITLEMENTS_WEBHOOK_LISTEN", &http), tls[0], tls[1]], 0, &[&running]).await;
}

#[tokio::test]
async fn clerks_key_is_tried_and_its_instance_compared() {
    let (db, clerk) = (in_use().await, Clerk::start().await);
    let (url, api) = (("DATABASE_URL", &*db.url), ("CLERK_API_URL", &*clerk.url));
    let wrong = ("CLERK_SECRET_KEY", "sk_live_hunter2");
    check(&[url, api, wrong], 1, &[&["fail", "Clerk's API", "refuses the key"]]).await;
    clerk.state.lock().unwrap().instance = "ins_other".into();
    let key = ("CLERK_SECRET_KEY", KEY);
    let other = ["warn", "ins_other is served", "deliveries are of ins_3a2", "parked"];
    check(&[url, api, key], 0, &[&other]).await;
    let set = ("CLERK_INSTANCE", INSTANCE);
    let other = ["fail", "Clerk's API", "of instance ins_other, but CLERK_INSTANCE is ins_3a2"];
    check(&[url, api, key, set], 1, &[&other]).await;
    check(&[url, set], 0, &[&["ok", "Clerk instance", "is served"]]).await;
    let odd = ("CLERK_INSTANCE", "production");
    check(&[url, odd], 1, &[&["fail", "settings", "CLERK_INSTANCE is `production`"]]).await;
    let nowhere = ("CLERK_API_URL", "http://127.0.0.1:1/v1");
    let away = ["warn", "Clerk's API", "go on"];
    check(&[url, nowhere, ("CLERK_SECRET_KEY", KEY)], 0, &[&away]).await;
}

#[tokio::test]
async fn findings_are_json_on_request() {
    let variables = [("DATABASE_URL", "hunter2"), ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
    let (code, stdout, _) = Shell::new(&variables).run(&["doctor", "--json"]).await;
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let database = lines.iter().find(|line| line["check"] == "database").unwrap();
    assert_eq!((code, database["verdict"].as_str()), (1, Some("fail")), "{stdout}");
    assert!(database["fix"].as_str().unwrap().contains("postgres://"), "{stdout}");
    assert_eq!(lines[0]["fix"], Value::Null);
    assert!(!stdout.contains("hunter2"), "{stdout}");
}
