//! The binary as people and scripts use it.

use crate::{
    db::Db,
    rig::Process,
    service::{ADA, Replica, SECRET, eventually, plain_http, said},
};
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

const PAYLOAD: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/subscriptionItem.active.json");
const NOWHERE: &str = "postgres://me:hunter2@127.0.0.1:1/nothing";

/// The binary in an empty folder, with nothing in its environment but these variables.
pub struct Shell {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    pub fn new(variables: &[(&'static str, &str)]) -> Self {
        let variables =
            variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { folder: tempfile::tempdir().unwrap(), variables }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entitlements"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("RUST_BACKTRACE", "1").env("COLUMNS", "100");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, beside the test's own runtime.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(arguments);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// `serve` with these variables ends with this exit code and error.
async fn check_refused(variables: &[(&'static str, &str)], code: i32, words: &str) {
    let any = [
        ("GRPC_LISTEN", "127.0.0.1:0"),
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("INTERNAL_LISTEN", "127.0.0.1:0"),
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
    let both = [("HTTP_LISTEN", "127.0.0.1:8080"), ("INTERNAL_LISTEN", "127.0.0.1:8080")];
    let key = ("CLERK_SECRET_KEY", "sk_test_x");
    for (variables, words) in [
        (vec![secret], "DATABASE_URL is not set"),
        (vec![secret, ("DATABASE_URL", "")], "DATABASE_URL is not set"),
        (vec![secret, ("DATABASE_URL", "hunter2")], "DATABASE_URL is not a Postgres URL"),
        (vec![database], "CLERK_WEBHOOK_SIGNING_SECRET is not set"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "changeme")], "too short"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_AQ==")], "too short"),
        (vec![database, ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_!")], "is not base64"),
        (vec![database, secret, ("CATALOG", "absent.toml")], "CATALOG: cannot read absent.toml"),
        (vec![database, secret, ("CATALOG", "bad.toml")], "unknown field `feature`"),
        (vec![database, secret, ("CATALOG", "default.toml")], "user.default_plan names `pro`"),
        (vec![database, secret, ("GRPC_LISTEN", &taken)], "GRPC_LISTEN: cannot listen on"),
        (vec![database, secret, ("INTERNAL_LISTEN", &taken)], "INTERNAL_LISTEN: cannot"),
        (vec![database, secret, ("LOG", "a=b=c")], "LOG is no log filter"),
        (vec![database, secret, ("HTTP_LISTEN", "here")], "--http-listen"),
        (vec![database, secret, ("GRPC_LISTEN", ":50051")], "must be as ADDRESS:PORT"),
        (vec![database, secret, both[0], both[1]], "HTTP_LISTEN and INTERNAL_LISTEN are both"),
        (vec![database, secret, ("HTTP_LISTEN", "192.0.2.1:80")], "HTTP_LISTEN: cannot listen on"),
        (vec![database, secret, ("PAST_DUE_GRACE", "soon")], "--past-due-grace"),
        (vec![database, secret, ("MAX_STALENESS", "3600")], "must be as 250ms, 30s, 5m, 1h or"),
        (vec![database, secret, ("CHECK_TIMEOUT", "0s")], "must be longer than 0s"),
        (vec![secret, ("DATABASE_URL", "mysql://me@here/db")], "DATABASE_URL is not a Postgres"),
        (vec![database, secret, ("CLERK_SECRET_KEY", "pk_test_x")], "is no secret key (sk_…)"),
        (vec![database, secret, ("CLERK_PUBLISHABLE_KEY", "sk_live_x")], "not a publishable key"),
        (vec![database, secret, key, ("CLERK_API_URL", "api.clerk.com")], "must be as https://"),
        (vec![database, secret, key, ("CLERK_API_URL", "http://api.clerk.com/v1")], "use https://"),
        (vec![database, secret, ("CLERK_JWKS_URL", "http://10.0.0.1/jwks")], "use https://"),
        (
            vec![database, secret, ("CLERK_JWKS_URL", "http://127.0.0.1.nip.io/jwks")],
            "use https://",
        ),
        (vec![database, secret, ("CLERK_JWKS_URL", "ftp://clerk.example.com")], "is no URL"),
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
async fn a_mistyped_flag_is_answered_with_the_nearest_one() {
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
        ("GRPC_LISTEN", "127.0.0.1:0"),
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("INTERNAL_LISTEN", "127.0.0.1:0"),
    ]);
    for _ in 0..2 {
        let (code, stdout, stderr) = shell.run(&["migrate"]).await;
        assert_eq!((code, stdout.as_str()), (0, "the database is at migration 4\n"), "{stderr}");
    }
    let log = shell.folder.path().join("log");
    let mut command = shell.command(&["serve"]);
    command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null());
    let mut served = command.spawn().unwrap();
    let http = said(&log, "http").await;
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
async fn send_tells_what_became_of_each_body() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let url = format!("http://{}/webhooks/clerk", replica.bound.http);
    let shell = Shell::new(&[("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("WEBHOOK_URL", &url)]);
    let (code, stdout, _) = shell.run(&["send", PAYLOAD, PAYLOAD]).await;
    let told: Vec<_> = stdout.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(code, 0, "{stdout}");
    assert!(told[0].starts_with("200 {\"result\":\"applied\""), "{stdout}");
    assert!(told[1].starts_with("200 {"), "{stdout}");

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
async fn check_tells_the_answer_in_words_and_as_exit_code() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&crate::service::payload("subscriptionItem.canceled")).await;
    let address = format!("http://{}", replica.bound.grpc);
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (code, stdout, _) = shell.run(&["check", "export", "--user", ADA]).await;
    assert_eq!(code, 0);
    assert_snapshot!(stdout.trim_end(), @"export: allowed, REASON_CANCELED_BUT_PAID, plan pro, of user_3jKRaOPcHB95IyjLKz2dmcVGvBR, valid until 2100-02-01T00:00:00Z");
    let (code, stdout, _) = shell.run(&["check", "sso", "--org", "org_1", "--user", ADA]).await;
    assert_eq!(code, 1);
    assert_snapshot!(stdout.trim_end(), @"sso: denied, REASON_NOT_IN_PLAN, of user_3jKRaOPcHB95IyjLKz2dmcVGvBR");
    for (arguments, words) in [
        (vec!["check", "sso", "--user", "ada"], "user_id: must be a Clerk user id"),
        (vec!["check", "sso"], "--user"),
        (vec!["check", "sso", "--user", ADA, "--addr", "http://127.0.0.1:1"], "cannot reach"),
        (vec!["check", "sso", "--user", ADA, "--addr", "no such"], "--addr"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn deliveries_lists_shows_and_replays() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send_as("msg_1", &crate::service::payload("subscriptionItem.active")).await;
    replica.send_as("msg_2", "not json").await;
    let address = format!("http://{}", replica.bound.grpc);
    let shell = Shell::new(&[("ENTITLEMENTS_ADDR", &address)]);
    let (code, stdout, stderr) = shell.run(&["deliveries", "list"]).await;
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<_> = stdout.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert!(lines[0].starts_with("parked  msg_2  the body is not JSON"), "{stdout}");
    assert_eq!(lines[1], format!("applied  msg_1  subscriptionItem.active  {ADA}"));
    let (_, stdout, _) =
        shell.run(&["deliveries", "list", "--result", "parked", "--limit", "5"]).await;
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let (_, stdout, _) = shell.run(&["deliveries", "show", "msg_2"]).await;
    assert!(stdout.ends_with("not json\n"), "{stdout}");
    let (_, stdout, _) = shell.run(&["deliveries", "replay", "--id", "msg_1", "--dry-run"]).await;
    assert_snapshot!(stdout.trim_end(), @"msg_1  applied -> superseded  newer news of the same is known");
    for (arguments, words) in [
        (vec!["deliveries", "show", "msg_9"], "there is no such delivery"),
        (vec!["deliveries", "list", "--result", "lost"], "filter.result: must be"),
        (vec!["deliveries", "list", "--from", "yesterday"], "--from"),
    ] {
        let (code, _, stderr) = shell.run(&arguments).await;
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn help_is_the_manual() {
    let shell = Shell::new(&[]);
    assert_snapshot!(shell.run(&["--help"]).await.1, @r#"
    Answers over gRPC whether a Clerk user or organization may use a feature: Clerk Billing's webhooks
    in, Postgres as the source of truth, answers from memory.

    Every flag is also an environment variable. Give secrets as variables: other users of the machine
    can see arguments. Start with `entitlements dev`.

    Usage: entitlements <COMMAND>

    Commands:
      dev         Run everything for a first try: an embedded Postgres, a signing secret and the example
                  catalog
      serve       Run the service; needs `DATABASE_URL` and `CLERK_WEBHOOK_SIGNING_SECRET`
      migrate     Apply the missing migrations to `DATABASE_URL`, and exit
      doctor      Look at all that `serve` needs, with the settings that it would have: what is wrong,
                  and the way out
      send        Sign webhook bodies and POST them as Svix would
      check       Ask a running service over gRPC, and print the answer and why
      ready       Ask the service on this machine whether it is ready: a health check for containers
      deliveries  Look into the ledger of a running service, and replay deliveries
      keys        Make, list and revoke the API keys of callers
      catalog     Look into the catalog in `DATABASE_URL`, plan a change of it, and put it in force
      reconcile   Compare the accounts in `DATABASE_URL` with what Clerk says, and heal them; needs
                  `CLERK_SECRET_KEY`
      help        Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    "#);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "the manual is long")]
async fn help_of_serve_is_the_manual_of_all_settings() {
    let shell = Shell::new(&[]);
    assert_snapshot!(shell.run(&["serve", "-h"]).await.1, @r#"
    Run the service; needs `DATABASE_URL` and `CLERK_WEBHOOK_SIGNING_SECRET`

    Usage: entitlements serve [OPTIONS]

    Options:
          --database-url <URL>
              Postgres 14 or newer, as `postgres://user:password@host:5432/database` [env: DATABASE_URL]
          --clerk-webhook-signing-secret <SECRET>
              Signing secret of the webhook endpoint, `whsec_…`; several, separated by commas, while
              rotating [env: CLERK_WEBHOOK_SIGNING_SECRET]
          --clerk-secret-key <KEY>
              Secret key of Clerk's Backend API, `sk_…`: with it, the catalog is refreshed from Clerk
              and accounts heal [env: CLERK_SECRET_KEY]
          --clerk-instance <INSTANCE>
              The Clerk instance to serve, `ins_…`: deliveries of others are parked [default: that of
              the secret key, else any] [env: CLERK_INSTANCE=]
          --clerk-api-url <URL>
              Where Clerk's Backend API is [env: CLERK_API_URL=] [default: https://api.clerk.com/v1]
          --clerk-jwt-key <PEM>
              Public key (PEM) that session tokens are verified with: "JWKS Public Key" in Clerk's
              dashboard [env: CLERK_JWT_KEY=]
          --clerk-jwks-url <URL>
              Where such keys are fetched instead: Clerk's Frontend API, then `/.well-known/jwks.json`
              [env: CLERK_JWKS_URL=]
          --clerk-publishable-key <KEY>
              Publishable key of the instance, `pk_…`: with it, cookies are read exactly as Clerk's SDK
              reads them [env: CLERK_PUBLISHABLE_KEY=]
          --clerk-authorized-parties <ORIGIN>
              Origins that session tokens may have been made for (`azp`), separated by commas [default:
              any] [env: CLERK_AUTHORIZED_PARTIES=]
          --clerk-allow-missing-azp[=<BOOL>]
              Accept session tokens without `azp` although `CLERK_AUTHORIZED_PARTIES` is set: native
              apps have no origin [env: CLERK_ALLOW_MISSING_AZP=]
          --clerk-issuer <URL>
              Who must have issued session tokens (`iss`): the URL of Clerk's Frontend API; several,
              separated by commas, for satellite domains [default: whoever has the key] [env:
              CLERK_ISSUER=]
          --ext-authz-jwt-payload <NAME>
              Believe the claims that Envoy's `jwt_authn` filter leaves under this
              `payload_in_metadata`; only for ext-authz [env: EXT_AUTHZ_JWT_PAYLOAD=]
          --ext-authz-jwt-header <NAME>
              Where `jwt_authn` leaves the token's header, its `header_in_metadata`: the header tells
              session tokens from those of JWT templates and machines [default: claims without `sid` are
              refused] [env: EXT_AUTHZ_JWT_HEADER=]
          --catalog <FILE>
              Catalog file: which plan has which features. `serve` puts it in force at start if its
              content is new [env: CATALOG=]
          --grpc-listen <ADDRESS>
              Where gRPC is served [env: GRPC_LISTEN=] [default: 127.0.0.1:50051]
          --http-listen <ADDRESS>
              Where webhooks and probes are served: the only listener that Clerk must reach [env:
              HTTP_LISTEN=] [default: 127.0.0.1:8080]
          --internal-listen <ADDRESS>
              Where /metrics, probes and the protocols that speak HTTP are served, for backends only
              [env: INTERNAL_LISTEN=] [default: 127.0.0.1:9090]
          --protocols <PROTOCOL>
              Protocols to answer beside our own gRPC, separated by commas [default: all in `dev`, none
              in `serve`] [env: PROTOCOLS=] [possible values: flagd, flagd-sync, ofrep, authzen,
              forward-auth, ext-authz]
          --public-url <URL>
              Where callers reach `INTERNAL_LISTEN`, as `https://entitlements.example.com`: the
              discovery document of `AuthZEN` names it [default: the listener's own address] [env:
              PUBLIC_URL=]
          --ofrep-cors-origins <ORIGIN>
              Origins whose web pages may ask over OFREP, such as `https://app.example.com`, separated
              by commas; `*`: all [env: OFREP_CORS_ORIGINS=]
          --migrate[=<BOOL>]
              Apply the missing migrations before serving; `dev` always does [env: MIGRATE=]
          --past-due-grace <DURATION>
              How long access outlives a failed payment, such as `3days` [default: until Clerk ends it]
              [env: PAST_DUE_GRACE=]
          --renewal-grace <DURATION>
              How long access outlives a period whose renewal was not announced [default: until Clerk
              ends it] [env: RENEWAL_GRACE=]
          --trial-grace <DURATION>
              How long access outlives a free trial whose conversion was not announced: nobody has paid
              for it [env: TRIAL_GRACE=] [default: 3days]
          --max-staleness <DURATION>
              How long answers are given from memory while Postgres cannot be reached [env:
              MAX_STALENESS=] [default: 1h]
          --check-timeout <DURATION>
              How long a check waits for Postgres when the account is not in memory [env:
              CHECK_TIMEOUT=] [default: 240ms]
          --body-retention <DURATION>
              How long the bodies of deliveries are kept; their hash and what became of them stay [env:
              BODY_RETENTION=] [default: 30days]
          --admin[=<BOOL>]
              Serve entitlements.v1.Admin to whoever reaches gRPC: it shows the bodies of deliveries.
              `dev` always does; with `CALLERS` or `GRPC_CLIENT_CA` it is always served, to those with
              the scope `admin` [env: ADMIN=]
          --cache-mib <MIB>
              How much memory cached accounts may take, in MiB [env: CACHE_MIB=] [default: 256]
          --connection-age <DURATION>
              How long a gRPC connection lasts, about, before its caller is told to open another: that
              spreads callers over new replicas [env: CONNECTION_AGE=] [default: 10m]
          --stop-within <DURATION>
              How long open calls may take to finish when the service is asked to stop [env:
              STOP_WITHIN=] [default: 10s]
          --stop-delay <DURATION>
              How long the service says that it is not ready before it stops accepting connections [env:
              STOP_DELAY=] [default: 0s]
          --log <FILTER>
              What is logged: a level, or directives such as `debug,sqlx=debug`. A level alone is about
              this service; of libraries, which may log headers and payloads, it brings warnings only
              [env: LOG=] [default: info]
          --log-denials <SHARE>
              Log denials with whom they met and why: a share such as `1%`, or at most so many a second,
              `10/s` [default: none] [env: LOG_DENIALS=]
          --otel-exporter-otlp-endpoint <URL>
              Collector of traces (OTLP over gRPC), as `http://host:4317` [default: no traces] [env:
              OTEL_EXPORTER_OTLP_ENDPOINT=]
          --log-format <FORMAT>
              How it is logged [default: text in `dev`, json in `serve`] [env: LOG_FORMAT=] [possible
              values: text, json]
          --callers <FILE>
              Who may call gRPC and ask by `PROTOCOLS`: the file that `entitlements keys` writes, read
              again when it changes [env: CALLERS=]
          --insecure[=<BOOL>]
              Serve gRPC to whoever reaches it, also on an address that other machines reach: for
              networks that are protected otherwise [env: INSECURE=]
          --grpc-tls-cert <FILE>
              Certificate of gRPC, with those up to its authority, in PEM: serves TLS; read again when
              it changes [env: GRPC_TLS_CERT=]
          --grpc-tls-key <FILE>
              Private key of `GRPC_TLS_CERT`, in PEM [env: GRPC_TLS_KEY=]
          --grpc-client-ca <FILE>
              Authorities whose client certificates may call, in PEM: gRPC, and where
              `INTERNAL_TLS_CERT` is set, that listener [env: GRPC_CLIENT_CA=]
          --http-tls-cert <FILE>
              Certificate of webhooks and probes, as `GRPC_TLS_CERT` [env: HTTP_TLS_CERT=]
          --http-tls-key <FILE>
              Private key of `HTTP_TLS_CERT` [env: HTTP_TLS_KEY=]
          --internal-tls-cert <FILE>
              Certificate of metrics and probes, as `GRPC_TLS_CERT` [env: INTERNAL_TLS_CERT=]
          --internal-tls-key <FILE>
              Private key of `INTERNAL_TLS_CERT` [env: INTERNAL_TLS_KEY=]
      -h, --help
              Print help (see more with '--help')
    "#);
}

#[test]
fn a_reader_that_goes_away_before_the_end_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = Shell::new(&[]).command(&["doctor"]).stdout(writer).output().unwrap();
    assert_eq!((done.status.code(), &*done.stderr), (Some(128 + 13), &b""[..]));
}
