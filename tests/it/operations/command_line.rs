//! Tests of the command line.

use crate::{
    support::database::{Db, at_newest_migration},
    support::process::Process,
    support::service::{ADA, Replica, SECRET, eventually, logged_field, plain_http},
    support::shell::Shell,
};
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, net::TcpListener, process::Stdio};

const PAYLOAD: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/subscriptionItem.active.json");
const NOWHERE: &str = "postgres://me:hunter2@127.0.0.1:1/nothing";

/// Checks that `serve` with these variables ends with this exit code and error.
async fn check_refused(variables: &[(&'static str, &str)], code: i32, words: &str) {
    let any = [
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ];
    let given = |name| variables.iter().any(|(given, _)| *given == name);
    let mut all: Vec<_> = any.into_iter().filter(|(name, _)| !given(*name)).collect();
    all.extend(variables);
    let shell = Shell::new(&all);
    shell.write("bad.toml", "[user.plans.pro]\nfeature = []");
    shell.write("default.toml", "[user]\ndefault_plan = \"pro\"");
    let (found, stdout, stderr) = shell.run(&["serve"]).await;
    assert_eq!(found, code, "{variables:?}: {stderr}");
    let errors: Vec<_> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
    assert!(errors[0].starts_with("error: "), "{variables:?}: {stderr}");
    assert!(stderr.contains(words), "{variables:?}: {stderr}");
    assert!(!stderr.contains("backtrace") && !stderr.contains("hunter2"), "{stderr}");
    assert_eq!(stdout, "");
}

#[tokio::test]
async fn serve_refuses_to_start_on_settings_that_cannot_work_and_names_them() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let secret = ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET);
    let database = ("DATABASE_URL", NOWHERE);
    let both = [
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:8080"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:8080"),
    ];
    let key = ("CLERK_SECRET_KEY", "sk_test_x");
    for (variables, words) in [
        (vec![secret], "DATABASE_URL is not set"),
        (vec![secret, ("DATABASE_URL", "")], "DATABASE_URL is not set"),
        (vec![secret, ("DATABASE_URL", "hunter2")], "DATABASE_URL is not a Postgres URL"),
        (vec![database], "CLERK_WEBHOOK_SIGNING_SECRET is not set"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "changeme")], "fewer than 16 bytes"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_AQ==")], "fewer than 16 bytes"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_!")], "is not base64"),
        (
            vec![database, secret, ("ENTITLEMENTS_CATALOG", "absent.toml")],
            "ENTITLEMENTS_CATALOG: cannot read absent.toml",
        ),
        (vec![database, secret, ("ENTITLEMENTS_CATALOG", "bad.toml")], "unknown field `feature`"),
        (
            vec![database, secret, ("ENTITLEMENTS_CATALOG", "default.toml")],
            "user.default_plan: user.plans has no plan `pro`",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_API_LISTEN", &taken)],
            "ENTITLEMENTS_API_LISTEN: cannot listen on",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_OPERATOR_LISTEN", &taken)],
            "ENTITLEMENTS_OPERATOR_LISTEN: cannot",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_LOG", "a=b=c")],
            "ENTITLEMENTS_LOG is not a log filter",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_WEBHOOK_LISTEN", "here")],
            "'here' for ENTITLEMENTS_WEBHOOK_LISTEN: must be ADDRESS:PORT",
        ),
        (vec![database, secret, ("ENTITLEMENTS_API_LISTEN", ":50051")], "must be ADDRESS:PORT"),
        (
            vec![database, secret, both[0], both[1]],
            "ENTITLEMENTS_WEBHOOK_LISTEN and ENTITLEMENTS_OPERATOR_LISTEN are both",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_WEBHOOK_LISTEN", "192.0.2.1:80")],
            "ENTITLEMENTS_WEBHOOK_LISTEN: cannot listen on",
        ),
        (
            vec![database, secret, ("ENTITLEMENTS_MAX_STALENESS", "3600")],
            "must be a duration such as 250ms",
        ),
        (vec![database, secret, ("ENTITLEMENTS_CHECK_TIMEOUT", "0s")], "must be longer than 0s"),
        (vec![secret, ("DATABASE_URL", "mysql://me@here/db")], "DATABASE_URL is not a Postgres"),
        (vec![database, secret, ("CLERK_SECRET_KEY", "pk_test_x")], "is not a secret key (sk_…)"),
        (vec![database, secret, ("CLERK_PUBLISHABLE_KEY", "sk_live_x")], "not a publishable key"),
        (vec![database, secret, key, ("CLERK_API_URL", "api.clerk.com")], "must be as https://"),
        (vec![database, secret, key, ("CLERK_API_URL", "http://api.clerk.com/v1")], "use https://"),
        (vec![database, secret, ("CLERK_JWKS_URL", "http://10.0.0.1/jwks")], "use https://"),
        (
            vec![database, secret, ("CLERK_JWKS_URL", "http://127.0.0.1.nip.io/jwks")],
            "use https://",
        ),
        (
            vec![database, secret, ("CLERK_JWKS_URL", "ftp://clerk.example.com")],
            "is not an https:// URL",
        ),
    ] {
        check_refused(&variables, 2, words).await;
    }
}

#[tokio::test]
async fn a_core_dump_cannot_hold_secrets() {
    let db = Db::new().await;
    let process = Process::start(&db.url, &[]).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    assert!(process.terminate().await);
}

#[tokio::test]
async fn serve_ends_with_3_if_the_schema_does_not_fit() {
    let db = Db::absent();
    db.create_empty().await;
    let variables = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("DATABASE_URL", db.url.as_str())];
    check_refused(&variables, 3, "run `entitlements migrate`").await;
}

#[tokio::test]
async fn a_mistyped_flag_suggests_the_nearest_one() {
    let (code, _, stderr) = Shell::new(&[]).run(&["serve", "--database-ulr", "x"]).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--database-url"), "{stderr}");
}

#[tokio::test]
async fn migrate_then_serve_then_stop() {
    let db = Db::absent();
    db.create_empty().await;
    let secrets = format!("{SECRET}\n");
    let shell = Shell::new(&[
        ("DATABASE_URL", &db.url),
        ("CLERK_WEBHOOK_SIGNING_SECRET", &secrets),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ]);
    for _ in 0..2 {
        let (code, stdout, stderr) = shell.run(&["migrate"]).await;
        assert_eq!((code, stdout.as_str()), (0, &*at_newest_migration()), "{stderr}");
    }
    let log = shell.path("log");
    let mut command = shell.command(&["serve"]);
    command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null());
    let mut served = command.spawn().unwrap();
    let http = logged_field(&log, "webhook").await;
    let probe = plain_http();
    eventually("serve is ready", async || {
        let ready = probe.get(format!("http://{http}/readyz")).send().await;
        ready.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let pid = Pid::from_raw(served.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || served.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(fs::read_to_string(log).unwrap().contains("\"message\":\"stopped\""));
}

#[tokio::test]
async fn send_reports_the_outcome_of_each_body() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let url = format!("http://{}/webhooks/clerk", replica.bound.webhook);
    let shell =
        Shell::new(&[("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("ENTITLEMENTS_WEBHOOK_URL", &url)]);
    let (code, stdout, _) = shell.run(&["send", PAYLOAD, PAYLOAD]).await;
    let results: Vec<_> =
        stdout.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    assert!(code == 0 && stdout.ends_with("2 bodies sent, 2 accepted\n"), "{stdout}");
    assert!(results[0].starts_with("200 {\"result\":\"applied\""), "{stdout}");
    assert!(results[1].starts_with("200 {"), "{stdout}");

    let once = ["send", PAYLOAD, "--id", "msg_1"];
    shell.run(&once).await;
    let (code, stdout, _) = shell.run(&once).await;
    assert!(code == 0 && stdout.contains("\"result\":\"duplicate\""), "{stdout}");

    let old = shell.run(&["send", PAYLOAD, "--timestamp", "1700000000"]).await;
    assert!(old.0 == 1 && old.1.contains("401"), "{old:?}");
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let forged = shell.run(&["send", PAYLOAD, "--secret", other]).await;
    assert!(forged.0 == 1 && forged.1.contains("401"), "{forged:?}");
    for (arguments, words) in [
        (vec!["send", "absent.json"], "cannot read absent.json"),
        (vec!["send", PAYLOAD, PAYLOAD, "--id", "msg_1"], "--id names one message"),
        (vec!["send", PAYLOAD, "--url", "http://127.0.0.1:1/"], "cannot reach"),
        (vec!["send", PAYLOAD, "--secret", "short"], "--secret"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = Shell::new(&[]).run(&["send", PAYLOAD]).await;
    assert!(code == 2 && stderr.contains("no secret to sign with"), "{stderr}");
}

#[tokio::test]
async fn check_prints_the_decision_and_exits_with_its_code() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&crate::support::service::payload("subscriptionItem.canceled")).await;
    let address = format!("http://{}", replica.bound.api);
    let webhook = format!("http://{}", replica.bound.webhook);
    let https = address.replace("http://", "https://");
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (code, stdout, _) = shell.run(&["check", "export", "--user", ADA]).await;
    assert_eq!(code, 0);
    assert_snapshot!(stdout.trim_end(), @"export: allowed, REASON_CANCELED_BUT_PAID, plan pro, of user_3jKRaOPcHB95IyjLKz2dmcVGvBR, valid until 2100-02-01T00:00:00Z");
    let (code, stdout, _) = shell.run(&["check", "sso", "--org", "org_1", "--user", ADA]).await;
    assert_eq!(code, 1);
    assert_snapshot!(stdout.trim_end(), @r"
    sso: denied, REASON_NOT_IN_PLAN, of user_3jKRaOPcHB95IyjLKz2dmcVGvBR
      user_3jKRaOPcHB95IyjLKz2dmcVGvBR has pro, canceled: REASON_NOT_IN_PLAN
      org_1 has free_org, the default plan: REASON_NOT_IN_PLAN
      would allow it: the organization plan enterprise, the organization plan team, or an override (`entitlements override grant`)
    ");
    for (arguments, words) in [
        (vec!["check", "sso", "--user", "ada"], "user_id: must be a Clerk user id"),
        (vec!["check", "sso"], "--user"),
        (vec!["check", "sso", "--user", ADA, "--addr", "http://127.0.0.1:1"], "cannot reach"),
        (vec!["check", "sso", "--user", ADA, "--addr", "no such"], "--addr"),
        (vec!["check", "sso", "--user", ADA, "--addr", &webhook], "this port is not gRPC"),
        (vec!["check", "sso", "--user", ADA, "--addr", &https], "this port does not speak TLS"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn deliveries_lists_shows_and_replays() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send_as("msg_1", &crate::support::service::payload("subscriptionItem.active")).await;
    replica.send_as("msg_2", "not json").await;
    let address = format!("http://{}", replica.bound.api);
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (code, stdout, stderr) = shell.run(&["deliveries", "list"]).await;
    assert_eq!(code, 0, "{stderr}");
    let words = |line: &str| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = stdout.lines().map(words).collect();
    assert_eq!(lines[0], "RESULT ID EVENT SUBJECT DETAIL");
    assert!(lines[1].starts_with("parked msg_2 the body is not JSON"), "{stdout}");
    assert_eq!(lines[2..], [&format!("applied msg_1 subscriptionItem.active {ADA}"), "deliveries"]);
    let (_, stdout, _) =
        shell.run(&["deliveries", "list", "--result", "parked", "--limit", "5"]).await;
    assert!(stdout.lines().count() == 3 && stdout.ends_with("\n1 delivery\n"), "{stdout}");
    let (_, stdout, _) = shell.run(&["deliveries", "show", "msg_2"]).await;
    assert!(stdout.ends_with("not json\n"), "{stdout}");
    let (_, stdout, _) = shell.run(&["deliveries", "replay", "--id", "msg_1", "--dry-run"]).await;
    assert_snapshot!(stdout.trim_end(), @r"
    msg_1  applied -> superseded  the same or a newer state is known
    1 delivery would be read again, 1 with another result
    ");
    for (arguments, words) in [
        (vec!["deliveries", "show", "msg_9"], "there is no such delivery"),
        (vec!["deliveries", "list", "--result", "lost"], "filter.result: must be"),
        (vec!["deliveries", "list", "--from", "last week"], "--from"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn help_is_the_manual() {
    let shell = Shell::new(&[]);
    assert_snapshot!(shell.run(&["--help"]).await.1, @r#"
    Entitlements for Clerk Billing: records Clerk's webhooks in Postgres, and answers over gRPC whether
    a user or organization may use a feature.

    Every setting is a flag and an environment variable. Pass secrets as variables, because other users
    of the machine can see command lines. To try the service, run `entitlements dev`.

    Usage: entitlements [OPTIONS] <COMMAND>

    Commands:
      dev          Run the service for a first try, with an embedded Postgres, a generated secret and an
                   example catalog
      serve        Run the service; needs `DATABASE_URL` and `CLERK_WEBHOOK_SIGNING_SECRET`
      migrate      Apply missing migrations to the database of `DATABASE_URL`, then exit
      doctor       Check settings, listeners, database and Clerk's API as `serve` uses them; report each
                   problem with its fix
      send         Sign webhook bodies and send them to the service, as Svix does for Clerk
      check        Ask a running service whether a feature is allowed; print the answer and its reason
      list         List what a user and an organization may use now, and their subscription items
      explain      Explain an answer of a running service, past, present or future: what was weighed,
                   and where it is from
      history      List what changed for a user or an organization: when it became known, and what was
                   gained or lost
      override     Grant or deny a feature or a plan to one user or organization, list and end such
                   overrides
      subjects     List the users and organizations that may use a feature or have a plan, with the
                   reason
      ready        Check whether the service on this machine is ready: a health check for containers
      deliveries   List, show and replay the deliveries that a running service has recorded
      keys         Create, list and revoke API keys
      catalog      Compare catalog files with the catalog in force, apply them, and show earlier
                   versions
      reconcile    Compare the accounts in `DATABASE_URL` with Clerk's, and repair them; needs
                   `CLERK_SECRET_KEY`
      init         Create a catalog file, an API key and a signing secret in a folder, for a first
                   installation
      completions  Print a script that completes commands and flags in a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
          --json
              Print JSON for machines, one object in a line, instead of text

          --color <WHEN>
              When to print colours [default: in a terminal, unless `NO_COLOR` is set]

              Possible values:
              - auto:   In a terminal, unless `NO_COLOR` is set
              - always
              - never

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Exit codes:
      0  success; for `check` and `explain`: allowed
      1  the command worked, and the answer is no: denied, not ready, refused, a finding of `doctor`
      2  an error: a wrong argument or setting, or a service or database that cannot be reached
      3  the schema of the database does not match this release
    "#);
}

#[test]
fn a_reader_that_closes_early_is_not_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = Shell::new(&[]).command(&["doctor"]).stdout(writer).output().unwrap();
    assert_eq!((done.status.code(), &*done.stderr), (Some(128 + 13), &b""[..]));
}
