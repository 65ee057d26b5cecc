//! `DATABASE_URL`: validates it, with errors that repeat no part of it.
//!
//! A password that is not percent-encoded shifts the boundaries of the other parts: its tail becomes the host or the
//! name of the database, which errors and logs contain. Therefore the text is validated before it is parsed as a URL,
//! and a text that can be read in two ways is rejected. Invariant: no error of this file repeats any part of the text.

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::net::IpAddr;

/// Connection to Postgres.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct Database {
    /// URL of a Postgres 14 or newer, as `postgres://user:password@host:5432/database`
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
}

const WRONG: &str =
    "DATABASE_URL is not a Postgres URL (postgres://user:password@host:5432/database)";

/// The parameters that sqlx uses. It would log the names and values of all others, so they are removed.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

impl Database {
    /// The connection options. Never print them: they can contain a password.
    ///
    /// # Errors
    /// If the URL is missing or invalid; no error repeats a part of it.
    pub fn options(&self) -> anyhow::Result<PgConnectOptions> {
        let url = self.database_url.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        let url = url.trim();
        if url.is_empty() {
            return Err(anyhow!(
                "DATABASE_URL is not set: set it to postgres://user:password@host:5432/database (or try `entitlements \
                 dev`, which runs its own Postgres)"
            ));
        }
        let schemes = ["postgres://", "postgresql://"];
        let Some(rest) = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
            bail!(WRONG); // sqlx accepts any scheme
        };
        check_encoding(rest)?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        check_host(place)?;
        let parameters = supported(parameters)?;
        // sqlx's error is dropped because it can repeat a value.
        format!("postgres://{place}?{parameters}").parse().map_err(|_| anyhow!(WRONG))
    }
}

/// Rejects a text in which the end of the password is ambiguous.
fn check_encoding(rest: &str) -> anyhow::Result<()> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let after = &rest[authority.len()..];
    let (user, _) = authority.rsplit_once('@').unwrap_or_default();
    let is_encoded = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let found = if rest.contains(|c: char| c.is_control()) {
        "a line break or another control character"
    } else if after.contains('@') {
        "an `@` after a `/`, `?` or `#`"
    } else if after.contains('#') {
        "a `#`"
    } else if user.contains('@') {
        "more than one `@`"
    } else if user.matches(':').count() > 1 {
        "more than one `:` before the `@`"
    } else if user.contains(char::is_whitespace) {
        "a space before the `@`"
    } else if !rest.split('%').skip(1).all(is_encoded) {
        "a `%` without two hexadecimal digits after it"
    } else {
        return Ok(());
    };
    bail!(
        "DATABASE_URL has {found}, so the end of the password is ambiguous: percent-encode the special characters \
         of user and password (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25, a space is %20)"
    )
}

/// Rejects several hosts, an invalid port, and an invalid host name.
fn check_host(place: &str) -> anyhow::Result<()> {
    let authority = place.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    one_host(host)?;
    let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, port)) => (if address.contains(':') { "" } else { "?" }, port),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = port.strip_prefix(':').unwrap_or(if port.is_empty() { "" } else { "?" });
    ensure!(
        port.is_empty() || is_port(port),
        "{WRONG}: the text after `host:` is not a port number; if it is the password, write user:password@host"
    );
    let is_valid = |c: char| c.is_alphanumeric() || "-._%".contains(c);
    ensure!(name.chars().all(is_valid), "{WRONG}: the host has a character that no host name has");
    Ok(())
}

fn one_host(text: &str) -> anyhow::Result<()> {
    ensure!(
        !text.contains(',') && !text.to_ascii_lowercase().contains("%2c"),
        "DATABASE_URL names several hosts, but must name one: the service does not search for the primary; give an \
         address that always leads to the primary, or the address of a pooler or proxy in front of it"
    );
    Ok(())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Returns the parameters that sqlx uses, after validating their values; warns of the others.
fn supported(parameters: &str) -> anyhow::Result<String> {
    let (mut used, mut unused) = (Vec::new(), 0);
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if PARAMETERS.contains(&name) || name.starts_with("options[") {
            check_value(name, value)?;
            used.push(pair);
        } else {
            unused += 1;
        }
    }
    if unused > 0 {
        tracing::warn!(
            unused,
            "DATABASE_URL has parameters that are not supported and are ignored; supported are {}",
            PARAMETERS.join(", ")
        );
    }
    Ok(used.join("&"))
}

fn check_value(name: &str, value: &str) -> anyhow::Result<()> {
    match name {
        "sslmode" | "ssl-mode" => value.parse::<PgSslMode>().map(drop).map_err(|_| {
            anyhow!("DATABASE_URL: sslmode must be disable, allow, prefer, require, verify-ca or verify-full")
        }),
        "host" => one_host(value),
        "hostaddr" => {
            one_host(value)?;
            let address = value.parse::<IpAddr>().map(drop);
            address.map_err(drop).ok().context("DATABASE_URL: hostaddr must be an IP address")
        }
        "port" => {
            one_host(value)?;
            ensure!(is_port(value), "DATABASE_URL: port must be a number up to 65535");
            Ok(())
        }
        "statement-cache-capacity" => {
            let is_number = value.parse::<usize>().is_ok();
            ensure!(is_number, "DATABASE_URL: statement-cache-capacity must be a number");
            Ok(())
        }
        _ => Ok(()),
    }
}
