//! Wrong settings, each with its error: `wrong_settings.txt` beside this file has them all.

use crate::support::{service::SECRET, shell::Shell};
use std::{env, fmt::Write, fs, path::Path};

const DATABASE: &str = "postgres://me:hunter2@127.0.0.1:1/nothing";

/// Variables, which replace those of a good setup, and flags of `serve`.
type Wrong = (&'static [(&'static str, &'static str)], &'static [&'static str]);

#[rustfmt::skip]
const CASES: [Wrong; 43] = [
    (&[("DATABASE_URL", "")], &[]),
    (&[("DATABASE_URL", "localhost:5432")], &[]),
    (&[("DATABASE_URL", "mysql://me@here/db")], &[]),
    (&[("DATABASE_URL", "postgres://me:pa@ss@here/db")], &[]),
    (&[("DATABASE_URL", "postgres://me:pa#ss@here/db")], &[]),
    (&[("DATABASE_URL", "postgres://one,two/db")], &[]),
    (&[("DATABASE_URL", "postgres://here:port/db")], &[]),
    (&[("DATABASE_URL", "postgres://here/db?sslmode=on")], &[]),
    (&[("CLERK_WEBHOOK_SIGNING_SECRET", "")], &[]),
    (&[("CLERK_WEBHOOK_SIGNING_SECRET", "changeme")], &[]),
    (&[("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_!")], &[]),
    (&[("CLERK_SECRET_KEY", "pk_test_x")], &[]),
    (&[("CLERK_SECRET_KEY", "sk_test_x"), ("CLERK_API_URL", "http://api.clerk.com/v1")], &[]),
    (&[("CLERK_INSTANCE", "production")], &[]),
    (&[("CLERK_PUBLISHABLE_KEY", "sk_live_x")], &[]),
    (&[("CLERK_JWT_KEY", "no key")], &[]),
    (&[("CLERK_JWKS_URL", "http://10.0.0.1/jwks")], &[]),
    (&[("CLERK_ALLOW_MISSING_AZP", "perhaps")], &[]),
    (&[("ENTITLEMENTS_ADMIN", "boss")], &[]),
    (&[], &["--admin=boss"]),
    (&[("ENTITLEMENTS_CATALOG", "absent.toml")], &[]),
    (&[("ENTITLEMENTS_CATALOG", ".")], &[]),
    (&[("ENTITLEMENTS_CATALOG", "typing-error.toml")], &[]),
    (&[("ENTITLEMENTS_CATALOG", "default.toml")], &[]),
    (&[("ENTITLEMENTS_API_LISTEN", "50051")], &[]),
    (&[("ENTITLEMENTS_API_LISTEN", "0.0.0.0:50051")], &[]),
    (&[("ENTITLEMENTS_WEBHOOK_LISTEN", "localhost:8080")], &[]),
    (&[("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:8080"), ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:8080")], &[]),
    (&[("ENTITLEMENTS_API_TLS_CERT", "tls.crt")], &[]),
    (&[("ENTITLEMENTS_API_TLS_CERT", "tls.crt"), ("ENTITLEMENTS_API_TLS_KEY", "tls.key")], &[]),
    (&[("ENTITLEMENTS_CALLERS", "absent.toml")], &[]),
    (&[("ENTITLEMENTS_PROTOCOLS", "ofrep,rest")], &[]),
    (&[("ENTITLEMENTS_PROTOCOLS", "forward-auth")], &[]),
    (&[("ENTITLEMENTS_OFREP_CORS_ORIGINS", "https://app.example.com")], &[]),
    (&[("ENTITLEMENTS_PROTOCOLS", "ofrep"), ("ENTITLEMENTS_OFREP_CORS_ORIGINS", "app.example.com")], &[]),
    (&[("ENTITLEMENTS_PUBLIC_URL", "entitlements.example.com")], &[]),
    (&[("ENTITLEMENTS_MAX_STALENESS", "3600")], &[]),
    (&[("ENTITLEMENTS_CHECK_TIMEOUT", "0s")], &[]),
    (&[("ENTITLEMENTS_CACHE_MIB", "1GiB")], &[]),
    (&[("ENTITLEMENTS_LOG", "warning")], &[]),
    (&[("ENTITLEMENTS_LOG", "info,sqlx=loud")], &[]),
    (&[("ENTITLEMENTS_LOG_DENIALS", "some")], &[]),
    (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")], &[]),
];

#[tokio::test]
async fn each_wrong_setting_has_an_error_that_names_it_and_the_fix() {
    let mut page = String::new();
    for (variables, flags) in CASES {
        let (code, error) = refused(variables, flags).await;
        assert!(code == 2 && !error.contains("hunter2"), "{variables:?}: {code}: {error}");
        let shown: Vec<_> =
            variables.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        let command = [
            &shown.iter().map(String::as_str).collect::<Vec<_>>()[..],
            &["entitlements", "serve"],
            flags,
        ];
        write!(page, "$ {}\n{error}\n", command.concat().join(" ")).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/operations/wrong_settings.txt");
    if env::var("UPDATE_DOCS").as_deref() == Ok("1") {
        fs::write(&path, &page).unwrap();
    }
    let fix = "look at them with `UPDATE_DOCS=1 cargo test --test it each_wrong_setting`";
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "the errors have changed: {fix}"
    );
}

/// The exit code and the error of `serve`, without its log.
async fn refused(variables: &[(&'static str, &str)], flags: &[&str]) -> (i32, String) {
    let usual = [
        ("DATABASE_URL", DATABASE),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
    ];
    let shell = Shell::new(&[&usual[..], variables].concat());
    shell.write("typing-error.toml", "[user.plans.pro]\nfeature = [\"export\"]\n");
    shell.write("default.toml", "[user]\ndefault_plan = \"free\"\n[user.plans.pro]\n");
    let (code, _, stderr) = shell.run(&[&["serve"], flags].concat()).await;
    let error = stderr.lines().filter(|line| !line.starts_with('{'));
    (code, error.flat_map(|line| [line, "\n"]).collect())
}

#[tokio::test]
async fn a_mistyped_variable_is_named_with_the_nearest_setting_and_a_companys_own_variables_are_ignored()
 {
    let companys = [
        ("ADMIN", "boss"),
        ("LOG", "loud"),
        ("CATALOG", "absent.toml"),
        ("PROTOCOLS", "carrier-pigeon"),
    ];
    let links = [
        ("ENTITLEMENTS_SERVICE_HOST", "10.0.0.1"),
        ("ENTITLEMENTS_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
    ];
    let mistyped = [("ENTITLEMENTS_CATALGO", "catalog.toml"), ("ENTITLEMENTS_MAX_STALENES", "1h")];
    let shell = Shell::new(&[&companys[..], &links, &mistyped].concat());
    let expected = [
        "ENTITLEMENTS_CATALGO is not a setting, and is ignored: did you mean ENTITLEMENTS_CATALOG?",
        "ENTITLEMENTS_MAX_STALENES is not a setting, and is ignored: did you mean ENTITLEMENTS_MAX_STALENESS?",
    ];
    let (code, _, stderr) = shell.run(&["migrate"]).await;
    let warned: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert_eq!((code, &*warned), (2, &expected[..]), "{stderr}");
    let (_, _, log) = shell.run(&["serve"]).await;
    assert_eq!(log.matches("unknown environment variable").count(), 2, "{log}");
    let (_, report, _) = shell.run(&["doctor"]).await;
    for warning in expected {
        let (detail, fix) = warning.split_once(": ").unwrap();
        assert!(report.contains(&format!("{detail} -> {fix}")), "{report}");
    }
}
