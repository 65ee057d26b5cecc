//! Checks of the database: connection, server, rights, schema, notifications and content.

use super::finding::{CHECK_TIMEOUT, Finding, within};
use crate::{
    app::MAX_CLOCK_SKEW_S,
    cli::render::counted,
    config::Settings,
    domain::{Catalog, loopback::is_this_machine},
    storage::{
        Author, CatalogVersion, Inspection, Migrated, OtherRoles, PlannedCatalog, Schema, Store,
        StoreError,
    },
    telemetry::error_chain,
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

const DATABASE: &str = "database";
const VERSION: &str = "Postgres version";
const TLS: &str = "TLS to Postgres";
const CLOCK: &str = "clock";
const RIGHTS: &str = "rights";
const OTHER_ROLES: &str = "other roles";
const MIGRATIONS: &str = "migrations";
const LISTEN: &str = "notifications";
const PARKED: &str = "parked";
const CATALOG: &str = "catalog";
const FILE: &str = "catalog in force";
const PLANS: &str = "plans held";
const NUMBERS: &str = "numbers in slugs";

/// Timeout of the connection to the database.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the round trip of a notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// The oldest version of Postgres that has what the change log needs.
const MIN_POSTGRES_VERSION: i32 = 14_00_00;
/// Clock skew, in seconds, above which the finding is a failure.
const FAILING_CLOCK_SKEW_S: f64 = 60.0;

const SLOW: &str =
    "look for the cause of the load: pg_stat_activity, the log of Postgres, its disk";

/// The finding for a `DATABASE_URL` that is missing or invalid.
pub(super) fn unusable(error: &anyhow::Error) -> Finding {
    let fix = "set it to a URL with one host, and with the special characters of the password percent-encoded: \
               postgres://user:p%40ss@host/database";
    Finding::fail(DATABASE, error_chain(error.as_ref()), fix)
}

/// Checks the connection to the database; returns whether it works.
pub(super) async fn connect(store: &Store, report: &mut impl FnMut(Finding)) -> bool {
    let place = store.describe_database();
    let rest = "no other check of the database can run until then";
    match timeout(CONNECT_TIMEOUT, store.is_pooled()).await {
        Ok(Ok(_)) => {
            report(Finding::ok(DATABASE, format!("{place}, answers")));
            return true;
        }
        Ok(Err(
            StoreError::Unavailable(error)
            | StoreError::AccessDenied(error)
            | StoreError::Misconfigured(error),
        )) => {
            let fix = format!("{}; {rest}", connection_fix(&error));
            report(Finding::fail(DATABASE, format!("{place}: {error}"), fix));
        }
        Ok(Err(error)) => report(Finding::fail(DATABASE, format!("{place}: {error}"), rest)),
        Err(_) => {
            let detail = format!("{place}, does not answer within {} s", CONNECT_TIMEOUT.as_secs());
            let fix = "check the host, and whether a firewall drops the packets";
            report(Finding::fail(DATABASE, detail, format!("{fix}; {rest}")));
        }
    }
    false
}

/// The fix for a failed connection.
fn connection_fix(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match (code.as_deref(), error) {
        (Some("28P01" | "28000"), _) => "check user and password in DATABASE_URL, and pg_hba.conf",
        (Some("3D000"), _) => "create the database, or name another in DATABASE_URL",
        (Some("42501"), _) => "allow the role to connect: grant connect on database … to …",
        (Some("53300"), _) => "raise max_connections, or connect through a pooler",
        (Some("57P03"), _) => "the server is starting or stopping: wait, or see its log",
        (_, sqlx::Error::Tls(_)) => "check sslmode and sslrootcert in DATABASE_URL",
        (_, sqlx::Error::Io(_)) => {
            "check that Postgres is running there, and that this machine may reach it"
        }
        _ => "see the server's log",
    }
}

/// Runs all checks of a database that answers.
pub(super) async fn check(
    store: &Store,
    options: &PgConnectOptions,
    settings: &Settings,
    report: &mut impl FnMut(Finding),
) {
    match store.inspect().await {
        Ok(detail) => {
            report(version(&detail));
            report(tls(&detail, options));
            report(clock(detail.skew));
            match store.missing_rights().await {
                Ok(missing) => report(rights(&detail, &missing)),
                Err(error) => report(Finding::fail(RIGHTS, error_chain(&error), SLOW)),
            }
            report(match store.other_roles().await {
                Ok(found) => other_roles(&found),
                Err(error) => Finding::fail(OTHER_ROLES, error_chain(&error), SLOW),
            });
        }
        Err(error) => report(Finding::fail(DATABASE, error_chain(&error), SLOW)),
    }
    let migrated = store.migrated().await;
    let can_be_read = matches!(migrated, Ok(Migrated { schema: Schema::Fits, .. }));
    report(migrations(migrated, settings.migrate));
    report(within(LISTEN, SLOW, notifications(store)).await);
    if can_be_read {
        report(within(PARKED, SLOW, parked(store)).await);
        catalog(store, settings, report).await;
    }
}

fn version(detail: &Inspection) -> Finding {
    let (major, minor) = (detail.version / 10_000, detail.version % 10_000);
    let name = format!("PostgreSQL {major}.{minor}");
    if detail.version < MIN_POSTGRES_VERSION {
        Finding::fail(VERSION, format!("{name} is too old"), "use PostgreSQL 14 or newer")
    } else if detail.is_standby {
        let detail = format!("{name}, a standby, which lags behind and is read-only");
        Finding::fail(VERSION, detail, "set DATABASE_URL to the address of the primary")
    } else {
        Finding::ok(VERSION, format!("{name}, a primary"))
    }
}

fn tls(detail: &Inspection, options: &PgConnectOptions) -> Finding {
    const FIX: &str = "add sslmode=verify-full (and sslrootcert=…) to DATABASE_URL";
    let mode = options.get_ssl_mode();
    let may_be_plain = matches!(mode, PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
    match &detail.tls {
        None if is_local(options) => Finding::ok(TLS, "none, on this machine"),
        None => Finding::warn(TLS, "the connection to another machine is not encrypted", FIX),
        Some(tls) if may_be_plain && !is_local(options) => {
            let detail = format!("{tls}, but sslmode would accept a connection without TLS");
            Finding::warn(TLS, detail, FIX)
        }
        Some(tls) if matches!(mode, PgSslMode::VerifyFull) => {
            Finding::ok(TLS, format!("{tls}, the server's certificate is verified"))
        }
        Some(tls) => Finding::ok(
            TLS,
            format!("{tls}; sslmode=verify-full would also verify the server's certificate"),
        ),
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
}

fn clock(skew: f64) -> Finding {
    let fix = "synchronize both clocks by NTP: they determine when paid periods end and signatures expire";
    let direction = if skew > 0.0 { "ahead of" } else { "behind" };
    let detail = format!("the clock of Postgres is {:.3} s {direction} this machine's", skew.abs());
    match skew.abs() {
        harmless if harmless < MAX_CLOCK_SKEW_S => Finding::ok(CLOCK, detail),
        harmful if harmful > FAILING_CLOCK_SKEW_S => Finding::fail(CLOCK, detail, fix),
        _ => Finding::warn(CLOCK, detail, fix),
    }
}

fn rights(detail: &Inspection, missing: &[String]) -> Finding {
    let role = &detail.role;
    if !detail.missing_functions.is_empty() {
        let functions = detail.missing_functions.join(", ");
        let what = format!("`{role}` may not call {functions}");
        let fix = format!("as a superuser: grant execute on function {functions} to \"{role}\"");
        return Finding::fail(RIGHTS, what, fix);
    }
    if missing.is_empty() {
        return Finding::ok(RIGHTS, format!("`{role}` has all rights that `serve` needs"));
    }
    let what = format!("`{role}` lacks rights that `serve` needs");
    Finding::fail(RIGHTS, what, format!("as the owner of the tables: {};", missing.join("; ")))
}

/// Reports other roles that have rights on our objects.
fn other_roles(found: &OtherRoles) -> Finding {
    if found.strangers.is_empty() {
        let exception = |words, roles: &[String]| match roles {
            [] => String::new(),
            roles => format!("{words}: {}", roles.join(", ")),
        };
        let services = exception(", except as a service", &found.services);
        let askers = exception("; may ask in SQL", &found.askers);
        return Finding::ok(
            OTHER_ROLES,
            format!("no other role can use the tables{services}{askers}"),
        );
    }
    let names: BTreeSet<_> = found.strangers.iter().map(|stranger| &*stranger.role).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let detail = format!("other roles can use the tables or the schema entitlements: {names}");
    let revokes = found.strangers.iter().flat_map(|stranger| &stranger.revokes);
    let revokes = revokes.map(|revoke| format!("{revoke};")).collect::<Vec<_>>().join(" ");
    let fix = format!(
        "as the owner of the tables: {revokes} If `serve` uses one of the roles, run \
         `entitlements migrate --grant-to ROLE` for it"
    );
    if found.strangers.iter().any(|stranger| stranger.is_exposed) {
        Finding::fail(OTHER_ROLES, detail, fix)
    } else {
        Finding::warn(OTHER_ROLES, detail, fix)
    }
}

fn migrations(migrated: Result<Migrated, StoreError>, at_start: bool) -> Finding {
    let fix = "run `entitlements migrate`, or start with --migrate";
    match migrated {
        Err(error) => Finding::fail(
            MIGRATIONS,
            error_chain(&error),
            "give the role the rights that `serve` needs: `entitlements migrate --grant-to ROLE`",
        ),
        Ok(Migrated { schema: Schema::Fits, applied, known }) => {
            Finding::ok(MIGRATIONS, format!("the database is at {applied}, this build at {known}"))
        }
        Ok(Migrated { schema: Schema::Behind, applied, known }) if at_start => Finding::warn(
            MIGRATIONS,
            format!("the database is at {applied}, behind this build's {known}"),
            "`serve --migrate` applies the missing migrations",
        ),
        Ok(Migrated { schema: Schema::Behind, applied, known }) => {
            let detail = format!("the database is at {applied}, behind this build's {known}");
            Finding::fail(MIGRATIONS, detail, fix)
        }
        Ok(Migrated { schema: Schema::Ahead, applied, known }) => {
            let detail =
                format!("the database is at {applied}, too far ahead of this build's {known}");
            Finding::fail(MIGRATIONS, detail, "deploy the release that migrated it")
        }
    }
}

/// Sends a notification and waits for it. Replicas that receive it read the change log once more, which is harmless.
async fn notifications(store: &Store) -> Finding {
    const POLLS: &str = "replicas poll the change log every 250 ms instead; with a direct address, or a pooler \
                         in session mode, they see changes within milliseconds";
    match store.is_pooled().await {
        Ok(true) => {
            let detail = "DATABASE_URL leads through a transaction-mode pooler, which passes no notifications";
            return Finding::warn(LISTEN, detail, POLLS);
        }
        Ok(false) => {}
        Err(error) => return Finding::fail(LISTEN, error_chain(&error), SLOW),
    }
    let mut session = match store.listen().await {
        Ok(session) => session,
        Err(error) => {
            return Finding::fail(LISTEN, format!("LISTEN: {}", error_chain(&error)), SLOW);
        }
    };
    if let Err(error) = store.notify().await {
        return Finding::fail(LISTEN, format!("NOTIFY: {}", error_chain(&error)), SLOW);
    }
    match timeout(NOTIFY_TIMEOUT, session.try_recv()).await {
        Ok(Ok(Some(_))) => Finding::ok(LISTEN, "a notification was sent and received"),
        _ => Finding::warn(LISTEN, "a notification was sent and not received within 2 s", POLLS),
    }
}

async fn parked(store: &Store) -> Finding {
    match store.parked().await {
        Err(error) => Finding::fail(PARKED, error_chain(&error), SLOW),
        Ok(0) => Finding::ok(PARKED, "every delivery could be parsed"),
        Ok(number) => {
            let noun = if number == 1 { "delivery was" } else { "deliveries were" };
            let fix = "`entitlements deliveries list --result parked` shows the reasons; after an upgrade, \
                       `deliveries replay --result parked` reads them again";
            Finding::warn(PARKED, format!("{number} {noun} not parsed"), fix)
        }
    }
}

async fn catalog(store: &Store, settings: &Settings, report: &mut impl FnMut(Finding)) {
    match timeout(CHECK_TIMEOUT, store.catalog()).await {
        Ok(Ok(Some(version))) => {
            let CatalogVersion { number, source, catalog, .. } = &version;
            let plans = counted(catalog.plans(), "plan");
            report(Finding::ok(
                CATALOG,
                format!("{number} is in force, from {source}, with {plans}"),
            ));
            report(within(PLANS, SLOW, plans_held(store, &version)).await);
            if !catalog.numbers().is_empty() {
                report(numbers(catalog));
            }
            if let Ok(Some((file, name))) = settings.catalog_file() {
                report(within(FILE, SLOW, compared(store, &version, &file, &name)).await);
            }
        }
        Ok(Ok(None)) => {
            let detail = "no catalog is in force: every feature is unknown";
            let is_configured =
                settings.catalog.is_some() || settings.backend.clerk_secret_key.is_some();
            let fix = if is_configured {
                "`serve` puts a catalog in force at start"
            } else {
                "set ENTITLEMENTS_CATALOG to a catalog file"
            };
            report(Finding::warn(CATALOG, detail, fix));
        }
        Ok(Err(error)) => report(Finding::fail(CATALOG, error_chain(&error), SLOW)),
        Err(_) => report(Finding::fail(CATALOG, "the catalog could not be read in time", SLOW)),
    }
}

/// Compares the catalog file with the catalog in force.
async fn compared(store: &Store, version: &CatalogVersion, file: &Catalog, name: &str) -> Finding {
    let number = version.number;
    if !version.differs_from_file(file) {
        return Finding::ok(FILE, format!("catalog {number} has the content of {name}"));
    }
    match store.planned_catalog(Author::Operator(None), file).await {
        Err(error) => Finding::fail(FILE, error_chain(&error), SLOW),
        Ok(PlannedCatalog { now, after }) => {
            let changes = counted(now.catalog.changes(&after).len(), "difference");
            Finding::warn(
                FILE,
                format!("{name} differs from catalog {number}, which stays in force: {changes}"),
                format!(
                    "`entitlements catalog plan {name}` shows them; `entitlements catalog apply {name}` applies the file"
                ),
            )
        }
    }
}

/// Checks that the patterns of numbers in slugs do what they say.
fn numbers(catalog: &Catalog) -> Finding {
    let notes = catalog.number_notes();
    if notes.is_empty() {
        return Finding::ok(NUMBERS, "each limit is stated by one feature of its plan");
    }
    let fix = "correct the features in Clerk's dashboard, or `[numbers]` and `limits` in the catalog file";
    Finding::warn(NUMBERS, notes.join("; "), fix)
}

async fn plans_held(store: &Store, version: &CatalogVersion) -> Finding {
    match store.unknown_plans(&version.catalog).await {
        Err(error) => Finding::fail(PLANS, error_chain(&error), SLOW),
        Ok(unknown) if unknown.is_empty() => {
            Finding::ok(PLANS, "the catalog has all plans of live subscriptions")
        }
        Ok(unknown) => {
            let plans: Vec<_> =
                unknown.iter().map(|plan| format!("{}.plans.{}", plan.kind, plan.name)).collect();
            let plans = plans.join(", ");
            let detail = format!("live subscriptions have plans that the catalog lacks: {plans}");
            Finding::warn(
                PLANS,
                detail,
                "they grant no more than the default plan until the catalog has them: add them to the catalog",
            )
        }
    }
}

#[cfg(test)]
mod tests;
