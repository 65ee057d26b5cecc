//! The parsing of variables and flags, independent of the setting.

use crate::{
    support::database::Db, support::process::Process, support::service::SECRET,
    support::shell::Shell,
};
use std::{env, fs, path::Path};

/// The variables of a command, from its help.
async fn variables(command: &[&str]) -> Vec<&'static str> {
    let arguments: Vec<_> = command.iter().copied().chain(["--help"]).collect();
    let (_, help, _) = Shell::new(&[]).run(&arguments).await;
    let help: &'static str = help.leak();
    let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    named.map(str::trim).collect()
}

#[tokio::test]
async fn an_empty_variable_is_an_unset_one_for_every_command() {
    let mut count = 0;
    for (command, arguments) in [
        (&["serve"][..], &[][..]),
        (&["dev"], &["--log", "a=b=c"]),
        (&["migrate"], &[]),
        (&["send"], &["absent.json"]),
        (&["check"], &["export", "--user", "user_1", "--addr", "http://127.0.0.1:1"]),
        (&["ready"], &["--operator-listen", "127.0.0.1:1"]),
        (&["deliveries"], &["list", "--addr", "http://127.0.0.1:1"]),
        (&["keys", "list"], &[]),
        (&["catalog"], &["history"]),
        (&["reconcile"], &[]),
    ] {
        let arguments: Vec<_> = command.iter().chain(arguments).copied().collect();
        let without = Shell::new(&[]).run(&arguments).await;
        let variables = variables(command).await;
        count += variables.len();
        for empty in ["", "  ", "\n", "\t \r\n"] {
            let variables: Vec<_> = variables.iter().map(|name| (*name, empty)).collect();
            let with = Shell::new(&variables).run(&arguments).await;
            assert_eq!(with, without, "{arguments:?} with {empty:?}");
        }
    }
    assert!(count > 60, "only {count} variables were found");
}

#[tokio::test]
async fn serve_starts_with_all_its_optional_variables_empty() {
    let db = Db::new().await;
    let needed = ["DATABASE_URL", "CLERK_WEBHOOK_SIGNING_SECRET", "ENTITLEMENTS_LOG"];
    let listeners =
        ["ENTITLEMENTS_API_LISTEN", "ENTITLEMENTS_WEBHOOK_LISTEN", "ENTITLEMENTS_OPERATOR_LISTEN"];
    let is_optional = |name: &&str| !needed.contains(name) && !listeners.contains(name);
    let all = variables(&["serve"]).await;
    for empty in ["", " "] {
        let variables: Vec<_> =
            all.iter().copied().filter(is_optional).map(|name| (name, empty)).collect();
        assert!(Process::start(&db.url, &variables).await.terminate().await, "{empty:?}");
    }
}

#[tokio::test]
async fn help_names_the_variables_that_are_empty_too() {
    let (code, help, _) =
        Shell::new(&[("ENTITLEMENTS_CATALOG", "")]).run(&["serve", "--help"]).await;
    assert!(code == 0 && help.contains("[env: ENTITLEMENTS_CATALOG="), "{help}");
}

/// Whether a switch is on, seen by which of two errors a public listener causes.
async fn is_on(variables: &[(&'static str, &str)], flags: &[&str]) -> Option<bool> {
    let usual = [
        ("ENTITLEMENTS_API_LISTEN", "0.0.0.0:0"),
        ("DATABASE_URL", "postgres://me@127.0.0.1:1/none"),
    ];
    let shell = Shell::new(&[&usual[..], variables].concat());
    let arguments: Vec<_> = ["serve"].into_iter().chain(flags.iter().copied()).collect();
    let (code, _, stderr) = shell.run(&arguments).await;
    assert_eq!(code, 2, "{variables:?} {flags:?}: {stderr}");
    if stderr.contains("CLERK_WEBHOOK_SIGNING_SECRET is not set") {
        Some(true)
    } else if stderr.contains("can be reached from other machines, and would answer checks") {
        Some(false)
    } else {
        assert!(stderr.contains("must be true or false, yes or no"), "{stderr}");
        None
    }
}

#[tokio::test]
async fn a_switch_is_written_as_people_and_tools_write_it() {
    for (text, expected) in [
        ("1", Some(true)),
        ("true", Some(true)),
        ("TRUE", Some(true)),
        ("True", Some(true)),
        ("yes", Some(true)),
        ("YES", Some(true)),
        ("on", Some(true)),
        ("On", Some(true)),
        (" true\n", Some(true)),
        ("0", Some(false)),
        ("false", Some(false)),
        ("False", Some(false)),
        ("no", Some(false)),
        ("NO", Some(false)),
        ("off", Some(false)),
        ("OFF", Some(false)),
        ("", Some(false)),
        ("maybe", None),
        ("2", None),
        ("-1", None),
        ("truee", None),
    ] {
        assert_eq!(
            is_on(&[("ENTITLEMENTS_INSECURE", text)], &[]).await,
            expected,
            "ENTITLEMENTS_INSECURE={text:?}"
        );
        if !text.is_empty() {
            let flag = format!("--insecure={text}");
            assert_eq!(is_on(&[], &[&flag]).await, expected, "{flag}");
            let both = is_on(&[("ENTITLEMENTS_INSECURE", "true")], &[&flag]).await;
            assert_eq!(both, expected, "the flag {flag} counts");
        }
    }
    assert_eq!(is_on(&[], &["--insecure"]).await, Some(true));
    assert_eq!(is_on(&[("ENTITLEMENTS_INSECURE", "off")], &["--insecure"]).await, Some(true));
    for name in ["ENTITLEMENTS_MIGRATE", "ENTITLEMENTS_ADMIN"] {
        let variables = [(name, "Yes"), ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
        let (_, _, stderr) = Shell::new(&variables).run(&["serve"]).await;
        assert!(stderr.contains("DATABASE_URL is not set"), "{name}: {stderr}");
    }
}

#[tokio::test]
async fn an_invalid_public_url_is_rejected() {
    for (url, is_good) in [
        ("https://entitlements.example.com", true),
        ("http://127.0.0.1:9090/", true),
        ("https://example.com/behind/a/path/", true),
        ("entitlements.example.com", false),
        ("/access", false),
        ("ftp://example.com", false),
        ("https://", false),
        ("https://example.com/?a=b", false),
        ("https://example.com/#there", false),
        ("https://me:hunter2@example.com", false),
    ] {
        let (code, _, stderr) =
            Shell::new(&[("ENTITLEMENTS_PUBLIC_URL", url)]).run(&["serve"]).await;
        let words =
            if is_good { "DATABASE_URL is not set" } else { "must be a URL such as https://" };
        assert!(code == 2 && stderr.contains(words), "{url}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test]
async fn a_catalog_file_without_plans_or_that_is_a_pipe_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let [empty, pipe] = ["empty.toml", "pipe.toml"].map(|name| folder.path().join(name));
    std::fs::write(&empty, "# nothing\n").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (case, file, words) in
        [("no plan", &empty, "lists no plan"), ("a pipe", &pipe, "not a regular file")]
    {
        for command in ["serve", "doctor"] {
            let shell = Shell::new(&[
                ("ENTITLEMENTS_CATALOG", file.to_str().unwrap()),
                ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
                ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
            ]);
            let (code, stdout, stderr) = shell.run(&[command]).await;
            let output = stdout + &stderr;
            assert!(code != 0 && output.contains(words), "{case}, {command}: {output}");
        }
    }
}

/// The page `docs/settings.md`, made of the help of `serve`.
fn settings_page(help: &str) -> String {
    let (_, options) = help.split_once("Print help (see more with '--help')\n\n").unwrap();
    format!(
        "# Settings\n\n\
         The settings of `entitlements serve`, as `entitlements serve -h` prints them. `dev` and `doctor` have the \
         same settings.\nEach setting is a flag and an environment variable. An empty variable counts as unset. \
         A switch (`BOOL`) takes `true` or\n`false`, `yes` or `no`, `on` or `off`, `1` or `0`. Durations are \
         written as `250ms`, `10s`, `1h` or `3days`.\n\n\
         Pass secrets as variables: other users of the machine can see command lines.\n\n\
         ```text\n{options}```\n"
    )
}

#[tokio::test]
async fn the_page_of_settings_is_the_help_of_serve() {
    let (code, help, _) = Shell::new(&[]).run(&["serve", "-h"]).await;
    assert_eq!(code, 0);
    let (page, path) =
        (settings_page(&help), Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md"));
    if env::var("UPDATE_DOCS").as_deref() == Ok("1") {
        fs::write(&path, &page).unwrap();
    }
    let fix = "run `UPDATE_DOCS=1 cargo test --test it the_page_of_settings`";
    assert!(fs::read_to_string(path).unwrap() == page, "docs/settings.md is out of date: {fix}");
}
