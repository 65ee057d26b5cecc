//! Malformed values of `DATABASE_URL`: no command prints any part of the password.

use crate::{support::service::SECRET, support::shell::Shell};
use futures_util::{StreamExt, stream};

/// Parts of the passwords, none of which is in our own messages.
const PARTS: [&str; 4] = ["zebra", "quagga", "okapi", "tapir"];

const ENCODE: &str = "percent-encode the special characters";
const HOSTS: &str = "names several hosts";
const NONE: &str = "DATABASE_URL is not a Postgres URL";
/// A well-formed URL of an address where no server listens.
const GOOD: &str = "";

/// URLs, and words of the expected error.
const URLS: [(&str, &str); 66] = [
    ("postgres://me:zebra@quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@quagga@okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:@zebra@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra/quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:/zebra@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra/@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@quagga/okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra/quagga@okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra#quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:#zebra@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@quagga#okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra?quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra?quagga=okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@quagga?okapi=tapir@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra?sslmode=quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra:quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me::zebra@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra:tapir@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra:quagga/okapi@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra%quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra%@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra%4@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra%+1quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra\nquagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra\tquagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra@127.0.0.1:1/db#quagga", ENCODE),
    ("postgres://me@zebra:quagga@127.0.0.1:1/db", ENCODE),
    ("postgresql://me:zebra/quagga@127.0.0.1:1/db", ENCODE),
    ("postgres://me:zebra/quagga?okapi#tapir@127.0.0.1:1/db?sslmode=disable", ENCODE),
    ("postgres://me:zebra@127.0.0.1:1,127.0.0.2:1/db", HOSTS),
    ("postgres://me:zebra@one,two/db", HOSTS),
    ("postgres://me:zebra@one:5432,two:5433,three:5434/db?target_session_attrs=any", HOSTS),
    ("postgres://one,two/db?password=zebra", HOSTS),
    ("postgres://me:zebra@one%2Ctwo/db", HOSTS),
    ("postgres://me:zebra@/db?host=one,two", HOSTS),
    ("postgres://me:zebra@127.0.0.1/db?hostaddr=127.0.0.1,127.0.0.2", HOSTS),
    ("postgres://me:zebra@127.0.0.1/db?port=1,2", HOSTS),
    ("postgres://me:zebra", "not a port number"),
    ("postgres://me:zebra/db", "not a port number"),
    ("postgres://me:zebra/quagga", "not a port number"),
    ("postgres://me:zebra?quagga", "not a port number"),
    ("postgres://me:zebra@127.0.0.1:quagga/db", "not a port number"),
    ("postgres://me:zebra@127.0.0.1:99999/db", "not a port number"),
    ("postgres://me:zebra@quagga!/db", "no host name has"),
    ("postgres://me:zebra@/db?sslmode=quagga", "sslmode must be"),
    ("postgres://me:zebra@127.0.0.1:1/db?hostaddr=quagga", "hostaddr must be"),
    ("postgres://me:zebra@127.0.0.1:1/db?port=quagga", "port must be"),
    ("postgres://me:zebra@127.0.0.1:1/db?statement-cache-capacity=quagga", "must be a number"),
    ("zebra", NONE),
    ("me:zebra@127.0.0.1:1/db", NONE),
    ("mysql://me:zebra@127.0.0.1:1/db", NONE),
    ("postgres:me:zebra@127.0.0.1:1/db", NONE),
    ("postgres:/me:zebra@127.0.0.1:1/db", NONE),
    ("host=127.0.0.1 port=1 user=me password=zebra dbname=db", NONE),
    ("jdbc:postgresql://127.0.0.1:1/db?user=me&password=zebra", NONE),
    ("\"postgres://me:zebra@127.0.0.1:1/db\"", NONE),
    ("DATABASE_URL=postgres://me:zebra@127.0.0.1:1/db", NONE),
    ("postgres://me:zebra@127.0.0.1:1/db", GOOD),
    ("postgresql://me:zebra%40quagga%2Fokapi%3A%3F%23%25@127.0.0.1:1/db\n", GOOD),
    ("postgres://me:zebra,quagga;okapi!$&'()*+=~@127.0.0.1:1/db", GOOD),
    ("postgres://me@127.0.0.1:1/db?password=zebra&sslmode=disable", GOOD),
    ("postgres://me:zebra@127.0.0.1:1/db?sslpassword=quagga&pgbouncer=true&okapi", GOOD),
    ("postgres://me:zebra@[::1]:1/db?channel_binding=require&options=-c%20geqo%3Doff", GOOD),
    ("postgres://:zebra@127.0.0.1:1", GOOD),
];

const COMMANDS: [&[&str]; 7] = [
    &["serve"],
    &["dev"],
    &["migrate"],
    &["doctor"],
    &["catalog", "history"],
    &["reconcile", "--dry-run"],
    &["deliveries", "list"],
];

/// Runs a command with a URL as variable or as flag, and checks that it prints the error and no part of a password.
async fn check(url: &str, words: &str, command: &[&str], as_flag: bool) {
    let mut variables = vec![
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("CLERK_SECRET_KEY", "sk_test_x"),
        ("ENTITLEMENTS_ADDR", "http://127.0.0.1:1"),
        ("ENTITLEMENTS_API_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_WEBHOOK_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_OPERATOR_LISTEN", "127.0.0.1:0"),
        ("ENTITLEMENTS_LOG", "trace"),
        ("ENTITLEMENTS_LOG_FORMAT", "json"),
    ];
    let mut arguments = command.to_vec();
    let flag = format!("--database-url={url}");
    if as_flag {
        arguments.insert(1, &flag);
    } else {
        variables.push(("DATABASE_URL", url));
    }
    let (code, stdout, stderr) = Shell::new(&variables).run(&arguments).await;
    let output = format!("{stdout}{stderr}");
    let shown = format!("{command:?} {url:?} ended with {code}:\n{output}");
    assert!(code == 2 || (command == ["doctor"] && code == 1), "{shown}");
    let asks_the_database = command != ["deliveries", "list"];
    assert!(!asks_the_database || output.contains(words), "{words} in {shown}");
    let output = output.to_lowercase();
    assert!(!PARTS.iter().any(|part| output.contains(part)), "a secret in {shown}");
}

#[tokio::test]
async fn no_command_prints_any_part_of_a_password_and_each_reports_the_error() {
    let of_command = |command: &'static [&'static str]| {
        let waits = ["serve", "dev"].contains(&command[0]);
        let urls = URLS.iter().filter(move |(_, words)| !waits || *words != GOOD);
        urls.map(move |(url, words)| (*url, *words, command))
    };
    let all: Vec<_> = COMMANDS.into_iter().flat_map(of_command).collect();
    assert!(all.len() > 400);
    let checks = all.into_iter().enumerate().map(|(number, (url, words, command))| {
        let takes_it = command[0] != "deliveries";
        check(url, words, command, takes_it && number % 5 == 0)
    });
    stream::iter(checks).buffer_unordered(16).collect::<Vec<_>>().await;
}

#[tokio::test]
async fn a_url_in_a_wrong_place_of_the_command_line_is_not_printed() {
    let url = "postgres://me:zebra@127.0.0.1:1/db";
    let mistyped = format!("--database-ulr={url}");
    for arguments in [
        &["serve", url][..],
        &["migrate", url],
        &["doctor", "--json", url],
        &["catalog", "history", "--limit", url],
        &["reconcile", url],
        &["serve", "--api-listen", url],
        &["migrate", &mistyped],
        &[url],
    ] {
        let (code, stdout, stderr) = Shell::new(&[]).run(arguments).await;
        assert!(code == 2 && stderr.contains("error: "), "{arguments:?}: {stderr}");
        assert!(!format!("{stdout}{stderr}").contains("zebra"), "{arguments:?}: {stderr}");
    }
}
