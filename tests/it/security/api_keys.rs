//! API keys, their scopes, and the callers file.

use crate::{
    support::callers_file::CallersFile,
    support::database::Db,
    support::grpc_methods::{Method, methods},
    support::process::Process,
    support::raw_socket::{self, Http2},
    support::service::{ADA, eventually},
    support::shell::{Shell, check_refused},
};
use entitlements::server::auth::Scope;
use std::{fs, os::unix::fs::PermissionsExt};
use tonic::{Code, Status};

/// An empty message.
const EMPTY: [u8; 5] = [0; 5];
const LIST: &str = "/entitlements.v1.Entitlements/ListEntitlements";
const DELIVERIES: &str = "/entitlements.v1.Admin/ListDeliveries";

/// The head of the response to a call with these values of `authorization`.
async fn call(connection: &Http2, method: &str, authorizations: &[&str]) -> Status {
    let headers: Vec<_> = authorizations.iter().map(|value| ("authorization", *value)).collect();
    raw_socket::opened(connection, method, &headers, EMPTY.into()).await
}

/// Whether a call passes authentication: then its empty message is rejected as invalid or answered, and Envoy's check
/// is UNAVAILABLE because the service has no session keys.
fn is_authenticated(status: &Status) -> bool {
    let is_about_sessions = status.message().contains("CLERK_JWT_KEY");
    matches!(status.code(), Code::InvalidArgument | Code::Ok)
        || (status.code() == Code::Unavailable && is_about_sessions)
}

#[tokio::test]
async fn every_method_needs_a_scope() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let check = file.create("backend", &[Scope::Check]);
    let admin = file.create("operator", &[Scope::Admin]);
    let support = file.create("alice", &[Scope::Support]);
    let overrides = file.create("bob", &[Scope::Overrides]);
    // Each has all scopes but one.
    let all = [Scope::Check, Scope::Support, Scope::Overrides, Scope::Admin];
    let rest = all.map(|missing| {
        let others: Vec<_> = all.into_iter().filter(|scope| *scope != missing).collect();
        file.create(&format!("no-{missing}"), &others)
    });
    let replica = file.replica(&db).await;
    let connection = raw_socket::http2(replica.bound.api).await;
    for Method { path: method, scope, .. } in methods() {
        assert_eq!(call(&connection, &method, &[]).await.code(), Code::Unauthenticated, "{method}");
        let (with, without) = match scope {
            Scope::Check => (&check, &rest[0]),
            Scope::Support => (&support, &rest[1]),
            Scope::Overrides => (&overrides, &rest[2]),
            Scope::Admin => (&admin, &rest[3]),
        };
        let admitted = call(&connection, &method, &[with]).await;
        assert!(
            is_authenticated(&admitted) || admitted.code() == Code::NotFound,
            "{method}: {admitted:?}"
        );
        let refused = call(&connection, &method, &[without]).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{method}: {refused:?}");
        assert!(refused.message().contains(&format!("`{scope}`")), "{method}: {refused:?}");
    }
    for version in ["v1", "v1alpha"] {
        let method = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let refused = call(&connection, &method, &[]).await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{method}");
        let admitted = call(&connection, &method, &[&admin]).await;
        assert!(is_authenticated(&admitted), "{method}: {admitted:?}");
    }
    let unknown = "/entitlements.v1.Entitlements/DropEverything";
    assert_eq!(call(&connection, unknown, &[]).await.code(), Code::Unauthenticated);
    assert_eq!(call(&connection, unknown, &[&check]).await.code(), Code::Unimplemented);
}

#[tokio::test]
async fn every_call_without_a_valid_key_gets_the_same_error() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let good = file.create("backend", &[Scope::Check]);
    file.create("backend-2", &[Scope::Check, Scope::Admin]);
    let revoked = file.create("gone", &[Scope::Check]);
    file.revoke("gone");
    let replica = file.replica(&db).await;
    let connection = raw_socket::http2(replica.bound.api).await;
    let key = good.strip_prefix("Bearer ").unwrap();
    let longer = format!("{good}x");
    let small = good.to_lowercase();
    let basic = format!("Basic {key}");
    let spaced = format!("Bearer  {key}");
    let hash = fs::read_to_string(file.path()).unwrap();
    let hash = hash.split('"').find(|part| part.len() == 64).unwrap();
    let hash = format!("Bearer {hash}");
    let wrong: [&[&str]; 14] = [
        &[],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &["Bearer ent_backend_x"],
        &[key],
        &[&basic],
        &[&spaced],
        &[&longer],
        &[&good[..good.len() - 1]],
        &[&small],
        &[&hash],
        &[&revoked],
        &[&good, &good],
    ];
    let mut texts = Vec::new();
    for authorizations in wrong {
        let refused = call(&connection, LIST, authorizations).await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{authorizations:?}: {refused:?}");
        texts.push(refused.message().to_owned());
        assert!(
            is_authenticated(&call(&connection, LIST, &[&good]).await),
            "after {authorizations:?}"
        );
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("authorization: Bearer KEY"), "{texts:?}");
    assert!(is_authenticated(&call(&connection, LIST, &[&format!("bEARER {key}")]).await));
    assert_eq!(call(&connection, DELIVERIES, &[&good]).await.code(), Code::PermissionDenied);

    let (_, metrics) = replica.get("/metrics").await;
    for (cause, count) in [("no_key", 1), ("wrong_key", 12), ("several_keys", 1), ("no_scope", 1)] {
        let line = format!("entitlements_calls_refused_total{{cause=\"{cause}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn keys_are_added_and_revoked_without_a_restart_also_on_open_connections() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let old = file.create("backend", &[Scope::Check]);
    let replica = file.replica(&db).await;
    let connection = raw_socket::http2(replica.bound.api).await;
    assert!(is_authenticated(&call(&connection, LIST, &[&old]).await));

    let new = file.create("backend-2", &[Scope::Check]);
    eventually("the new key works", async || {
        is_authenticated(&call(&connection, LIST, &[&new]).await)
    })
    .await;
    assert!(is_authenticated(&call(&connection, LIST, &[&old]).await), "both work while rotating");
    file.revoke("backend");
    eventually("the revoked key does not work", async || {
        call(&connection, LIST, &[&old]).await.code() == Code::Unauthenticated
    })
    .await;
    assert!(is_authenticated(&call(&connection, LIST, &[&new]).await));

    let text = fs::read_to_string(file.path()).unwrap();
    fs::write(file.path(), text.replace("[\"check\"]", "[\"admin\"]")).unwrap();
    eventually("the scope is gone", async || {
        call(&connection, LIST, &[&new]).await.code() == Code::PermissionDenied
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_is_logged_once_and_changes_nothing() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let key = file.create("operator", &[Scope::Check, Scope::Admin]);
    let path = file.path();
    let variables = [("ENTITLEMENTS_CALLERS", path.to_str().unwrap())];
    let process = Process::start(&db.url, &variables).await;
    let connection =
        raw_socket::http2(process.grpc.strip_prefix("http://").unwrap().parse().unwrap()).await;
    assert_eq!(call(&connection, DELIVERIES, &[&key]).await.code(), Code::Ok, "without --admin");
    let occurrences = |words: &str| process.log().matches(words).count();

    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("sha256", "sha512")).unwrap();
    eventually("the broken file is logged", async || occurrences("unknown field `sha512`") > 0)
        .await;
    assert_eq!(call(&connection, DELIVERIES, &[&key]).await.code(), Code::Ok);
    fs::remove_file(&path).unwrap();
    eventually("the absent file is logged", async || occurrences("cannot read") > 0).await;
    assert_eq!(call(&connection, DELIVERIES, &[&key]).await.code(), Code::Ok);
    fs::write(&path, "").unwrap();
    eventually("the key is gone", async || {
        call(&connection, DELIVERIES, &[&key]).await.code() == Code::Unauthenticated
    })
    .await;
    assert_eq!((occurrences("unknown field `sha512`"), occurrences("cannot read")), (1, 1));
    let log = process.log();
    assert!(log.contains("\"caller\":\"operator\",\"method\":\"/entitlements.v1.Admin/"), "{log}");
    assert!(!log.contains(key.strip_prefix("Bearer ").unwrap()), "the key is in the log");
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_on_the_command_line() {
    let shell = Shell::new(&[
        ("ENTITLEMENTS_CALLERS", "callers.toml"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:1"),
    ]);
    let (code, key, stderr) = shell.run(&["keys", "create", "backend", "--scope", "check"]).await;
    assert!(code == 0 && key.starts_with("ent_backend_") && stderr.contains("Keep it"), "{stderr}");
    let scopes = ["keys", "create", "ops", "--scope", "check", "--scope", "admin"];
    assert_eq!(shell.run(&scopes).await.0, 0);
    let file = shell.path("callers.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(key.trim()) && text.contains("sha256 = "), "{text}");
    shell.write(
        "callers.toml",
        &format!("# ours\n{text}\n[certificates.\"ci\"] # of CI\nscopes = []\n"),
    );

    let (_, listed, _) = shell.run(&["keys", "list"]).await;
    let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = listed.lines().map(words).collect();
    assert_eq!(lines, ["NAME SCOPES", "backend check", "ops check,admin", "2 keys"]);
    for (arguments, words) in [
        (vec!["keys", "create", "backend", "--scope", "check"], "there is a key `backend` already"),
        (
            vec!["keys", "create", "Back End", "--scope", "check"],
            "`Back End` is not a valid key name",
        ),
        (vec!["keys", "create", "other"], "--scope"),
        (
            vec!["keys", "create", "other", "--scope", "everything"],
            "[possible values: check, support, overrides, admin]",
        ),
        (vec!["keys", "revoke", "other"], "there is no key `other`; there are: backend, ops"),
        (vec!["keys", "list", "--callers", "no/such"], "no/such"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    assert_eq!(shell.run(&["keys", "revoke", "ops"]).await.0, 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# ours\n# Callers.") && text.contains("# of CI"), "{text}");
    assert!(text.contains("[keys.backend]") && !text.contains("ops"), "{text}");

    shell.write("callers.toml", "[keys.x]\n");
    let (code, _, stderr) = shell.run(&["keys", "create", "y", "--scope", "check"]).await;
    assert!(code == 2 && stderr.contains("missing field `sha256`"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "[keys.x]\n");
}

#[tokio::test]
async fn commands_present_the_key() {
    let (db, file) = (Db::new().await, CallersFile::new());
    let key = file.create("backend", &[Scope::Check]);
    let key = key.strip_prefix("Bearer ").unwrap();
    let replica = file.replica(&db).await;
    let address = format!("http://{}", replica.bound.api);
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let ask = ["check", "export", "--user", ADA];
    let (code, _, stderr) = shell.run(&ask).await;
    assert!(code == 2 && stderr.contains("by --key or ENTITLEMENTS_KEY"), "{stderr}");
    assert_eq!(shell.run(&[&ask[..], &["--key", key]].concat()).await.0, 1);
    let (code, _, stderr) = shell.run(&["deliveries", "list", "--key", key]).await;
    assert!(code == 2 && stderr.contains("lacks the scope `admin`"), "{stderr}");
}

#[tokio::test]
async fn an_address_that_others_reach_is_served_only_to_callers() {
    let ways = ["error: ENTITLEMENTS_API_LISTEN", "keys create", "--api-client-ca", "--insecure"];
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"] {
        check_refused(&[("ENTITLEMENTS_API_LISTEN", address)], &ways).await;
    }
    let inside = ("ENTITLEMENTS_OPERATOR_LISTEN", "0.0.0.0:0");
    let everywhere = ("ENTITLEMENTS_API_LISTEN", "0.0.0.0:0");
    let absent = [everywhere, ("ENTITLEMENTS_CALLERS", "absent.toml")];
    check_refused(&absent, &["error: ENTITLEMENTS_CALLERS: cannot read absent.toml"]).await;
    check_refused(&[("ENTITLEMENTS_API_CLIENT_CA", "ca.pem")], &["--api-tls-cert"]).await;

    let (db, file) = (Db::new().await, CallersFile::new());
    let insecure = Process::start(&db.url, &[everywhere, ("ENTITLEMENTS_INSECURE", "true")]).await;
    assert!(insecure.log().contains("answers checks without authentication"), "{}", insecure.log());
    let path = file.path();
    let callers = ("ENTITLEMENTS_CALLERS", path.to_str().unwrap());
    let empty = Process::start(&db.url, &[everywhere, callers, inside]).await;
    assert!(empty.log().contains("ENTITLEMENTS_CALLERS has no keys yet"), "{}", empty.log());
    assert!(empty.log().contains("let only your monitoring reach it"), "{}", empty.log());
    file.create("backend", &[Scope::Check]);
    let keyed = Process::start(&db.url, &[everywhere, callers]).await;
    assert!(keyed.log().contains("API keys cross the network in plain text"), "{}", keyed.log());
}

#[tokio::test]
async fn a_database_connection_without_server_verification_is_warned_of() {
    let warning = "does not verify the certificate of 192.0.2.1";
    for (url, warned) in [
        ("postgres://me:hunter2@192.0.2.1/x", true),
        ("postgres://me:hunter2@192.0.2.1/x?sslmode=require", true),
        ("postgres://me:hunter2@192.0.2.1/x?sslmode=verify-full", false),
        ("postgres://me:hunter2@127.0.0.1:1/x", false),
        ("postgres://me:hunter2@localhost:1/x", false),
        ("postgres:///x?host=/nowhere", false),
    ] {
        let log = Process::log_of_start(url).await;
        assert_eq!(log.contains(warning), warned, "{url}: {log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}
