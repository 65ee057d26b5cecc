//! The first hour with the service: `dev`, examples, `init`, secrets in files, completions, and ports of other protocols.

use crate::support::{
    certificates::Authority,
    checkout::Checkout,
    database::Db,
    process::Process,
    service::{ADA, Replica, SECRET, config, eventually, logged_field, payload},
    shell::Shell,
};
use entitlements::config::{Config, ListenerFiles};
use std::{fs, os::unix::fs::PermissionsExt};

#[tokio::test]
async fn dev_puts_an_edit_of_its_catalog_in_force_and_refuses_a_broken_one() {
    let checkout = Checkout::new().await;
    let dev = checkout.start().await;
    let log = checkout.folder.path().join("log");
    let text = || fs::read_to_string(&log).unwrap();
    let (_, banner) = text()
        .split_once("entitlements is ready")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert!(!banner.contains("\"timestamp\""), "the banner is last: {banner}");
    for part in [
        "send --example active",
        "grpcurl -plaintext",
        "curl -s",
        "webhooks listen",
        "catalog.toml (an edit is in force",
    ] {
        assert!(banner.contains(part), "{part}: {banner}");
    }
    let file = checkout.kept().join("catalog.toml");
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &dev_address(&log).await)]);
    let (code, _, _) = shell.run(&["check", "charts", "--user", ADA]).await;
    assert_eq!(code, 1);

    let catalog = fs::read_to_string(&file).unwrap();
    fs::write(&file, catalog.replacen("\"basic_reports\"]", "\"basic_reports\", \"charts\"]", 1))
        .unwrap();
    eventually("the edit is in force", async || {
        shell.run(&["check", "charts", "--user", ADA]).await.0 == 0
    })
    .await;
    eventually("the log says so", async || {
        text().contains("a new catalog is in force\",\"number\":2")
    })
    .await;

    fs::write(&file, "[user.plans.pro]\nfeature = []\n").unwrap();
    eventually("the broken edit is refused", async || {
        text().contains("reload failed") && text().contains("unknown field `feature`")
    })
    .await;
    assert_eq!(
        shell.run(&["check", "charts", "--user", ADA]).await.0,
        0,
        "the last good catalog stays"
    );
    drop(dev);
}

/// The address of the API listener, from the log of `dev`.
async fn dev_address(log: &std::path::Path) -> String {
    format!("http://{}", logged_field(log, "api").await)
}

#[tokio::test]
async fn send_has_examples_and_sends_a_folder_without_deleting_its_users() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let url = format!("http://{}/webhooks/clerk", replica.bound.webhook);
    let address = format!("http://{}", replica.bound.api);
    let shell = Shell::new(&[
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ENTITLEMENTS_WEBHOOK_URL", &url),
        ("ENTITLEMENTS_ADDR", &address),
    ]);
    let (code, sent, stderr) =
        shell.run(&["send", "--example", "active", "--example", "canceled"]).await;
    assert!(code == 0 && sent.ends_with("2 bodies sent, 2 accepted\n"), "{sent}{stderr}");
    assert!(replica.check(ADA, "", "export").await.allowed);

    fs::create_dir(shell.path("bodies")).unwrap();
    shell.write("bodies/1-active.json", &payload("subscriptionItem.active"));
    shell.write("bodies/2-deleted.json", &format!(r#"{{"type":"user.deleted","data":{{"id":"{ADA}","deleted":true}},"timestamp":1800000000000}}"#));
    shell.write("bodies/readme.txt", "not a body");
    let (code, sent, stderr) = shell.run(&["send", "--all", "bodies"]).await;
    assert!(
        code == 0 && sent.contains("2-deleted.json: left out, because it deletes its subject"),
        "{sent}{stderr}"
    );
    let (_, listed, _) = shell.run(&["list", "--user", ADA]).await;
    assert!(!listed.contains("deleted "), "{listed}");
    let (code, _, stderr) = shell.run(&["send", "--all", "no-such-folder"]).await;
    assert!(code == 2 && stderr.contains("cannot read no-such-folder"), "{stderr}");
}

#[tokio::test]
async fn init_makes_the_files_of_an_installation_once_and_serve_reads_secrets_from_files() {
    let db = Db::new().await;
    let shell = Shell::new(&[]);
    let (code, made, stderr) = shell.run(&["init", "config"]).await;
    assert!(code == 0 && made.lines().all(|line| line.starts_with("created  ")), "{made}{stderr}");
    let path = |name: &str| shell.path("config").join(name).to_str().unwrap().to_owned();
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    for (name, mode) in
        [("api-key", 0o600), ("webhook-signing-secret", 0o600), ("catalog.toml", 0o644)]
    {
        assert_eq!(fs::metadata(path(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
    let before = ["api-key", "callers.toml", "webhook-signing-secret", "catalog.toml"].map(read);
    let (_, again, _) = shell.run(&["init", "config"]).await;
    assert!(
        again.lines().count() == 3 && again.lines().all(|line| line.starts_with("exists  ")),
        "{again}"
    );
    assert_eq!(
        before,
        ["api-key", "callers.toml", "webhook-signing-secret", "catalog.toml"].map(read)
    );

    let (secret, catalog, callers) =
        (path("webhook-signing-secret"), path("catalog.toml"), path("callers.toml"));
    let files = [
        ("CLERK_WEBHOOK_SIGNING_SECRET", " "),
        ("CLERK_WEBHOOK_SIGNING_SECRET_FILE", &*secret),
        ("ENTITLEMENTS_CATALOG", &catalog),
        ("ENTITLEMENTS_CALLERS", &callers),
    ];
    let process = Process::start(&db.url, &files).await;
    let key = path("api-key");
    let url = format!("{}/webhooks/clerk", process.http);
    let client = Shell::new(&[
        ("ENTITLEMENTS_ADDR", &process.grpc),
        ("ENTITLEMENTS_KEY_FILE", &key),
        ("ENTITLEMENTS_WEBHOOK_URL", &url),
        ("CLERK_WEBHOOK_SIGNING_SECRET_FILE", &secret),
    ]);
    let (code, sent, stderr) = client.run(&["send", "--example", "active"]).await;
    assert_eq!(code, 0, "{sent}{stderr}");
    let (code, checked, stderr) = client.run(&["check", "export", "--user", ADA]).await;
    assert_eq!(code, 0, "{checked}{stderr}");
    let (code, _, stderr) = Shell::new(&[("ENTITLEMENTS_KEY_FILE", "absent")])
        .run(&["check", "export", "--user", ADA])
        .await;
    assert!(
        code == 2 && stderr.contains("ENTITLEMENTS_KEY_FILE: absent: No such file"),
        "{stderr}"
    );
    assert!(process.terminate().await);
}

#[tokio::test]
async fn errors_say_which_protocol_a_port_speaks_instead() {
    let db = Db::new().await;
    let authority = Authority::new();
    let listeners = ListenerFiles {
        api: Some(authority.listener()),
        webhook: Some(authority.listener()),
        ..ListenerFiles::default()
    };
    let replica = Replica::launch(Config { listeners, ..config(&db) }).await;
    let (api, webhook, operator) =
        (replica.bound.api, replica.bound.webhook, replica.bound.operator);
    let shell = Shell::new(&[("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)]);
    for (arguments, words) in [
        (
            format!("check export --user {ADA} --addr http://{api}"),
            "this port speaks TLS: give --addr as https://",
        ),
        (
            format!("check export --user {ADA} --addr http://{operator}"),
            "this port is not gRPC, it speaks HTTP/1.1",
        ),
        (
            format!("check export --user {ADA} --addr https://{operator}"),
            "this port does not speak TLS",
        ),
        (
            format!("send --example active --url http://{webhook}/webhooks/clerk"),
            "this port speaks TLS: give --url as https://",
        ),
        (
            format!("send --example active --url https://{operator}/webhooks/clerk"),
            "this port does not speak TLS",
        ),
    ] {
        let (code, _, stderr) = shell.run(&arguments.split(' ').collect::<Vec<_>>()).await;
        assert!(code == 2 && stderr.contains(words), "{arguments}: {stderr}");
    }
}

#[tokio::test]
async fn flags_stand_before_or_after_the_subcommand_and_shells_complete_them() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let address = format!("http://{}", replica.bound.api);
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    for arguments in [
        ["--json", "deliveries", "--addr", &address, "list"],
        ["deliveries", "list", "--addr", &address, "--json"],
        ["deliveries", "--json", "list", "--addr", &address],
    ] {
        let (code, stdout, stderr) = shell.run(&arguments).await;
        assert!(code == 0 && stdout.is_empty(), "{arguments:?}: {stdout}{stderr}");
    }
    for shell_name in ["bash", "zsh", "fish"] {
        let (code, script, _) = shell.run(&["completions", shell_name]).await;
        assert!(code == 0 && script.contains("most-losses"), "{shell_name}: {script}");
    }
}
