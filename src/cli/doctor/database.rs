//! What can be told of the database, from reaching it to what it holds.

use super::{
    finding::{DEADLINE, Finding, within},
    settings::count,
};
use crate::{
    config::Settings,
    domain::loopback::is_this_machine,
    storage::{Inspection, Migrated, Schema, Store, StoreError, Version},
    telemetry::told,
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

const DATABASE: &str = "database";
const VERSION: &str = "Postgres version";
const TLS: &str = "TLS to Postgres";
const CLOCK: &str = "clock";
const RIGHTS: &str = "rights";
const SCHEMA: &str = "schema";
const MIGRATIONS: &str = "migrations";
const LISTEN: &str = "notifications";
const PARKED: &str = "parked";
const CATALOG: &str = "catalog";
const PLANS: &str = "plans held";

/// How long reaching the database may take.
const REACH: Duration = Duration::from_secs(5);
/// How long a notification may take to come back.
const RETURN: Duration = Duration::from_secs(2);
/// The oldest version that has what the change log needs.
const OLDEST: i32 = 14_00_00;
/// How far two clocks may be apart, in seconds, before somebody should know; and before it does harm.
const SKEW: (f64, f64) = (2.0, 60.0);

const SLOW: &str = "see what keeps the database busy: pg_stat_activity, its log, its disk";

/// `DATABASE_URL` is none.
pub(super) fn unusable(error: &anyhow::Error) -> Finding {
    let way_out = "give it to `serve` with one host, and with the special characters of the password percent-encoded: \
                   postgres://user:p%40ss@host/database";
    Finding::fail(DATABASE, told(error.as_ref()), way_out)
}

/// Whether the database can be reached at all; tells so.
pub(super) async fn reach(store: &Store, tell: &mut impl FnMut(Finding)) -> bool {
    let place = store.place();
    let rest = "nothing more can be told of the database until then";
    match timeout(REACH, store.is_pooled()).await {
        Ok(Ok(_)) => {
            tell(Finding::ok(DATABASE, format!("{place}, answers")));
            return true;
        }
        Ok(Err(
            StoreError::Unavailable(error)
            | StoreError::NotLetIn(error)
            | StoreError::Misconfigured(error),
        )) => {
            let way_out = format!("{}; {rest}", way_in(&error));
            tell(Finding::fail(DATABASE, format!("{place}: {error}"), way_out));
        }
        Ok(Err(error)) => tell(Finding::fail(DATABASE, format!("{place}: {error}"), rest)),
        Err(_) => {
            let seen = format!("{place}, does not answer within {} s", REACH.as_secs());
            let way_out = "is the host right, and does a firewall swallow the connection?";
            tell(Finding::fail(DATABASE, seen, format!("{way_out} {rest}")));
        }
    }
    false
}

/// What to do about a database that lets nobody in.
fn way_in(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match (code.as_deref(), error) {
        (Some("28P01" | "28000"), _) => "check user and password in DATABASE_URL, and pg_hba.conf",
        (Some("3D000"), _) => "create the database, or name another in DATABASE_URL",
        (Some("42501"), _) => "let the role connect: grant connect on database … to …",
        (Some("53300"), _) => "raise max_connections, or connect through a pooler",
        (Some("57P03"), _) => "the server is starting or stopping: wait, and see its log",
        (_, sqlx::Error::Tls(_)) => "check sslmode and sslrootcert in DATABASE_URL",
        (_, sqlx::Error::Io(_)) => "is Postgres running there, and may this machine reach it?",
        _ => "see the server's log",
    }
}

/// Everything that can be told of a database that answers.
pub(super) async fn look(
    store: &Store,
    options: &PgConnectOptions,
    settings: &Settings,
    tell: &mut impl FnMut(Finding),
) {
    match store.inspect().await {
        Ok(seen) => {
            tell(version(&seen));
            tell(tls(&seen, options));
            tell(clock(seen.skew));
            tell(rights(&seen));
            tell(schema(&seen));
        }
        Err(error) => tell(Finding::fail(DATABASE, told(&error), SLOW)),
    }
    let migrated = store.migrated().await;
    let can_be_read = matches!(migrated, Ok(Migrated { schema: Schema::Fits, .. }));
    tell(migrations(migrated, settings.migrate));
    tell(within(LISTEN, SLOW, notifications(store)).await);
    if can_be_read {
        tell(within(PARKED, SLOW, parked(store)).await);
        catalog(store, settings, tell).await;
    }
}

fn version(seen: &Inspection) -> Finding {
    let (major, minor) = (seen.version / 10_000, seen.version % 10_000);
    let name = format!("PostgreSQL {major}.{minor}");
    if seen.version < OLDEST {
        Finding::fail(VERSION, format!("{name} is too old"), "use PostgreSQL 14 or newer")
    } else if seen.is_standby {
        let seen = format!("{name}, a standby, which lags behind and cannot be written");
        Finding::fail(VERSION, seen, "name the primary in DATABASE_URL")
    } else {
        Finding::ok(VERSION, format!("{name}, a primary"))
    }
}

fn tls(seen: &Inspection, options: &PgConnectOptions) -> Finding {
    const WAY_OUT: &str = "add sslmode=verify-full (and sslrootcert=…) to DATABASE_URL";
    let mode = options.get_ssl_mode();
    let may_be_plain = matches!(mode, PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
    match &seen.tls {
        None if is_local(options) => Finding::ok(TLS, "none, on this machine"),
        None => Finding::warn(TLS, "what goes to another machine is not encrypted", WAY_OUT),
        Some(tls) if may_be_plain && !is_local(options) => {
            let seen = format!("{tls}, but sslmode would accept a connection without");
            Finding::warn(TLS, seen, WAY_OUT)
        }
        Some(tls) if matches!(mode, PgSslMode::VerifyFull) => {
            Finding::ok(TLS, format!("{tls}, the server's certificate is verified"))
        }
        Some(tls) => {
            Finding::ok(TLS, format!("{tls}; sslmode=verify-full would also tell who it is"))
        }
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
}

fn clock(skew: f64) -> Finding {
    let way_out =
        "set both machines' clocks by NTP: paid periods end, and signatures expire, by them";
    let direction = if skew > 0.0 { "ahead of" } else { "behind" };
    let seen = format!("Postgres's is {:.3} s {direction} this machine's", skew.abs());
    match skew.abs() {
        harmless if harmless < SKEW.0 => Finding::ok(CLOCK, seen),
        harmful if harmful > SKEW.1 => Finding::fail(CLOCK, seen, way_out),
        _ => Finding::warn(CLOCK, seen, way_out),
    }
}

fn rights(seen: &Inspection) -> Finding {
    let role = &seen.role;
    if !seen.missing_functions.is_empty() {
        let functions = seen.missing_functions.join(", ");
        let what = format!("`{role}` may not call {functions}");
        let way_out =
            format!("as a superuser: grant execute on function {functions} to \"{role}\"");
        return Finding::fail(RIGHTS, what, way_out);
    }
    if seen.missing_rights.is_empty() {
        return Finding::ok(RIGHTS, format!("`{role}` may do all that `serve` does"));
    }
    let mut by_right: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (table, right) in &seen.missing_rights {
        by_right.entry(right).or_default().push(table.as_str());
    }
    let missing =
        by_right.iter().map(|(right, tables)| format!("{right} on {}", tables.join(", ")));
    let missing: Vec<_> = missing.collect();
    let grants: Vec<_> = missing.iter().map(|m| format!("grant {m} to \"{role}\"")).collect();
    let what = format!("`{role}` lacks {}", missing.join("; "));
    Finding::fail(RIGHTS, what, format!("as the owner: {}", grants.join("; ")))
}

/// Names are looked for in schemas: what others put there can stand in for what this service uses.
fn schema(seen: &Inspection) -> Finding {
    let mut by_schema: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (schema, role) in &seen.open_schemas {
        by_schema.entry(schema).or_default().push(role.as_str());
    }
    if by_schema.is_empty() {
        return Finding::ok(SCHEMA, "nobody else may create in it");
    }
    let who = by_schema.iter().map(|(schema, roles)| format!("in {schema}: {}", roles.join(", ")));
    let revoke = |(schema, roles): (&&String, &Vec<_>)| {
        format!("revoke create on schema {schema} from {}", roles.join(", "))
    };
    let revokes: Vec<_> = by_schema.iter().map(revoke).collect();
    let seen = format!("others may create {}", who.collect::<Vec<_>>().join("; "));
    let way_out = format!(
        "a table, function or operator of theirs can stand in for what this service uses and run with its rights: as \
         the schema's owner, {}",
        revokes.join("; ")
    );
    Finding::fail(SCHEMA, seen, way_out)
}

fn migrations(migrated: Result<Migrated, StoreError>, at_start: bool) -> Finding {
    let way_out = "run `entitlements migrate`, or start with --migrate (if it was: does the role's \
                   search_path have the schema, and has it usage on it?)";
    match migrated {
        Err(error) => Finding::fail(MIGRATIONS, told(&error), "let the role read _sqlx_migrations"),
        Ok(Migrated { schema: Schema::Fits, applied, known }) => {
            Finding::ok(MIGRATIONS, format!("the database is at {applied}, this build at {known}"))
        }
        Ok(Migrated { schema: Schema::Behind, applied, known }) if at_start => Finding::warn(
            MIGRATIONS,
            format!("the database is at {applied}, behind this build's {known}"),
            "`serve --migrate` applies what is missing",
        ),
        Ok(Migrated { schema: Schema::Behind, applied, known }) => {
            let seen = format!("the database is at {applied}, behind this build's {known}");
            Finding::fail(MIGRATIONS, seen, way_out)
        }
        Ok(Migrated { schema: Schema::Ahead, applied, known }) => {
            let seen =
                format!("the database is at {applied}, too far ahead of this build's {known}");
            Finding::fail(MIGRATIONS, seen, "deploy the release that migrated it")
        }
    }
}

/// Rings the doorbell and waits for it: replicas that hear it as well look once more whether there is news.
async fn notifications(store: &Store) -> Finding {
    const POLLS: &str = "the change log is read every 250 ms instead; a direct address, or a pooler \
                         in session mode, brings changes within milliseconds";
    match store.is_pooled().await {
        Ok(true) => {
            let seen = "a transaction-mode pooler is in between: none come through";
            return Finding::warn(LISTEN, seen, POLLS);
        }
        Ok(false) => {}
        Err(error) => return Finding::fail(LISTEN, told(&error), SLOW),
    }
    let mut session = match store.listen().await {
        Ok(session) => session,
        Err(error) => return Finding::fail(LISTEN, format!("LISTEN: {}", told(&error)), SLOW),
    };
    if let Err(error) = store.notify().await {
        return Finding::fail(LISTEN, format!("NOTIFY: {}", told(&error)), SLOW);
    }
    match timeout(RETURN, session.try_recv()).await {
        Ok(Ok(Some(_))) => Finding::ok(LISTEN, "one was sent and came back"),
        _ => Finding::warn(LISTEN, "one was sent and did not come back within 2 s", POLLS),
    }
}

async fn parked(store: &Store) -> Finding {
    match store.parked().await {
        Err(error) => Finding::fail(PARKED, told(&error), SLOW),
        Ok(0) => Finding::ok(PARKED, "every delivery was understood"),
        Ok(number) => {
            let noun = if number == 1 { "delivery was" } else { "deliveries were" };
            let way_out = "`entitlements deliveries list --result parked` tells why; after an upgrade, \
                           `deliveries replay --result parked` reads them anew";
            Finding::warn(PARKED, format!("{number} {noun} not understood"), way_out)
        }
    }
}

async fn catalog(store: &Store, settings: &Settings, tell: &mut impl FnMut(Finding)) {
    match timeout(DEADLINE, store.catalog()).await {
        Ok(Ok(Some(version))) => {
            let Version { number, source, catalog, .. } = &version;
            let plans = count(catalog.plans(), "plan");
            tell(Finding::ok(CATALOG, format!("{number} is in force, of {source}, with {plans}")));
            tell(within(PLANS, SLOW, plans_held(store, &version)).await);
        }
        Ok(Ok(None)) => {
            let seen = "there is none in force: every feature is unknown";
            let comes = settings.catalog.is_some() || settings.backend.clerk_secret_key.is_some();
            let way_out = if comes {
                "`serve` puts one in force at start"
            } else {
                "set CATALOG to a catalog file"
            };
            tell(Finding::warn(CATALOG, seen, way_out));
        }
        Ok(Err(error)) => tell(Finding::fail(CATALOG, told(&error), SLOW)),
        Err(_) => tell(Finding::fail(CATALOG, "it cannot be read in time", SLOW)),
    }
}

async fn plans_held(store: &Store, version: &Version) -> Finding {
    match store.unknown_plans(&version.catalog).await {
        Err(error) => Finding::fail(PLANS, told(&error), SLOW),
        Ok(unknown) if unknown.is_empty() => Finding::ok(PLANS, "the catalog knows all of them"),
        Ok(unknown) => {
            let plans: Vec<_> =
                unknown.iter().map(|plan| format!("{}.plans.{}", plan.kind, plan.name)).collect();
            let plans = plans.join(", ");
            let seen = format!("live subscriptions hold plans that the catalog lacks: {plans}");
            Finding::warn(PLANS, seen, "they grant nothing until the catalog has them: add them")
        }
    }
}

#[cfg(test)]
mod tests;
