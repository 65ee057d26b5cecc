//! Migrates the database's schema, and checks whether this build can use it.

use super::{Store, StoreError, catalog_rows, rights, sql_rights};
use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use std::time::Duration;
use tokio::time::timeout;

/// How long a connection for migrating may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!();
    migrations.dangerous_set_table_name(TABLE);
    migrations.set_locking(false); // sqlx takes an advisory lock, which any role can hold for ever
    migrations
}

/// The table of applied migrations.
const TABLE: &str = "entitlements._sqlx_migrations";

/// Why a database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum NotMigrated {
    /// Other sessions keep locks that the migration needs.
    #[error(
        "other sessions hold locks that the migration needs: list them with `select pid, usename, state, query from \
         pg_stat_activity where pid in (select pid from pg_locks where granted)`, and end one with \
         pg_terminate_backend(pid)"
    )]
    InTheWay(#[source] MigrateError),
    /// The database does not answer.
    #[error("the database does not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    NoAnswer,
    /// A newer release has migrated the database too far for this build.
    #[error(
        "a newer release has migrated the database too far for this build: deploy that release"
    )]
    Ahead,
    /// The schema or the table of migrations belongs to another role, whose triggers and views would run with the rights
    /// of this one.
    #[error(
        "{object} belongs to the role `{owner}`, which does not own the database: migrate as `{owner}` if that role ran \
         `entitlements migrate` before or is to own the tables; otherwise an unknown role created it, so drop it"
    )]
    Foreign {
        /// The schema or the table.
        object: String,
        /// The role that it belongs to.
        owner: String,
    },
    /// The database has tables of a development version, which did not have a schema of their own.
    #[error(
        "the schema {schema} has tables of an earlier development version: {}. Use another database. Or save the rows of \
         {schema}.override, which Clerk does not know, check that no table is your application's, and drop the old tables: \
         `drop table {}; drop function if exists {schema}.history()`. Then run `entitlements migrate`; `entitlements reconcile`, or `serve` with CLERK_SECRET_KEY, \
         fills the new tables from Clerk",
        tables.join(", "),
        tables.iter().map(|table| format!("{schema}.{table}")).collect::<Vec<_>>().join(", ")
    )]
    OldLayout {
        /// The schema, quoted where needed.
        schema: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// This role may not create the schema.
    #[error(
        "the role {0} may not create the schema entitlements: as the owner of the database, run \
         `create schema entitlements authorization {0}`, then run `entitlements migrate` again"
    )]
    MayNotCreate(String),
    /// A role that is to get rights does not exist.
    #[error(
        "the role `{0}` of --grant-to or --grant-sql-to does not exist: correct the name, which is case-sensitive, or create \
         the role: create role {quoted} login password '…'",
        quoted = rights::quoted(.0)
    )]
    UnknownRole(String),
    /// A role that is to get rights acts for everybody.
    #[error(
        "--grant-to: Supabase's API acts as the role `{0}` for every web page, so the role must not read or write these \
         tables: create another role for the service, or let web pages ask about their session: --grant-sql-to {0}"
    )]
    WebRole(String),
    /// The rows of the catalog in force cannot be written.
    #[error("cannot write the catalog in force as rows")]
    Catalog(#[from] StoreError),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] MigrateError),
}

impl From<sqlx::Error> for NotMigrated {
    fn from(error: sqlx::Error) -> Self {
        MigrateError::from(error).into()
    }
}

/// The roles to which a migration gives rights.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grantees<'a> {
    /// Roles that get the rights that `serve` needs.
    pub service: &'a [String],
    /// Roles that get the right to ask in SQL: Supabase's web roles about their session, others about anybody.
    pub sql: &'a [String],
}

/// How many migrations the database may be ahead of this build: a rolling deploy migrates first, while replicas of the
/// previous release keep running until they are replaced.
const MAX_MIGRATIONS_AHEAD: i64 = 1;

/// How the database's schema relates to the migrations of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// This build can use the schema.
    Fits,
    /// The database lacks migrations of this build.
    Behind,
    /// A later release has migrated the database further than this build supports.
    Ahead,
}

impl Store {
    /// Compares the database's schema with the migrations of this build.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        self.background.run(compare).await
    }
}

/// Compares the applied migrations with those of this build.
pub(super) async fn compare(db: &mut PgConnection) -> Result<Schema, StoreError> {
    if !is_begun(db).await? {
        return Ok(Schema::Behind);
    }
    Ok(match applied(db).await? - known() {
        ..0 => Schema::Behind,
        0..=MAX_MIGRATIONS_AHEAD => Schema::Fits,
        _ => Schema::Ahead,
    })
}

/// Whether there is a table of migrations.
pub(super) async fn is_begun(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let exists = "select exists (
        select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'entitlements' and c.relname = '_sqlx_migrations'
    )";
    sqlx::query_scalar(exists).fetch_one(db).await
}

/// The version of the newest migration in this build.
pub(super) fn known() -> i64 {
    migrations().iter().map(|m| m.version).max().unwrap_or(0)
}

/// The version of the newest applied migration; 0: none.
pub(super) async fn applied(db: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> = sqlx::query_scalar(
        "select pg_catalog.max(version) from entitlements._sqlx_migrations where success",
    )
    .fetch_one(db)
    .await?;
    Ok(newest.unwrap_or(0))
}

/// Applies the missing migrations; returns the version of the newest. Replicas that start together wait for each other.
/// A migration that waits longer than 2 s for a lock is rolled back, so that readers do not queue behind it, and is
/// retried.
pub async fn migrate(options: &PgConnectOptions) -> Result<i64, NotMigrated> {
    migrate_and_grant(options, Grantees::default()).await
}

/// Applies the missing migrations like [`migrate`], and gives roles their rights. If one of the roles does not exist,
/// nothing is migrated.
pub async fn migrate_and_grant(
    options: &PgConnectOptions,
    grantees: Grantees<'_>,
) -> Result<i64, NotMigrated> {
    let connected = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await;
    let mut db = connected.map_err(|_| NotMigrated::NoAnswer)??;
    let mut pause = Duration::from_millis(200);
    for attempt in 1.. {
        match run(&mut db, grantees).await {
            Err(NotMigrated::InTheWay(_)) if attempt < 5 => tokio::time::sleep(pause).await,
            done => {
                done?;
                break;
            }
        }
        pause *= 2;
    }
    let newest = applied(&mut db).await?;
    db.close().await?;
    Ok(newest)
}

/// The settings of the transaction. A statement that forgets the schema of an object fails.
const BEGIN: &str = "
    set local lock_timeout = '2s';
    set local search_path = pg_catalog, pg_temp";

/// Applies all missing migrations in one transaction, under a lock that excludes other runs. A role without rights on
/// the table can neither take this kind of lock nor block it. Other roles lose the rights that default privileges give
/// them on the objects that this run creates.
async fn run(db: &mut PgConnection, grantees: Grantees<'_>) -> Result<(), NotMigrated> {
    let mut tx = db.begin().await?;
    sqlx::raw_sql(BEGIN).execute(&mut *tx).await?;
    reject_web_role(grantees.service)?;
    for role in grantees.service.iter().chain(grantees.sql) {
        reject_unknown_role(&mut tx, role).await?;
    }
    if !is_begun(&mut tx).await? {
        reject_old_layout(&mut tx).await?;
        create_schema(&mut tx).await?;
    }
    reject_foreign_owner(&mut tx).await?;
    tx.ensure_migrations_table(TABLE).await.map_err(not_migrated)?;
    reject_foreign_owner(&mut tx).await?;
    let lock = "lock table entitlements._sqlx_migrations in share update exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *tx).await.map_err(|error| not_migrated(error.into()))?;
    let is_first = applied(&mut tx).await? == 0;
    let before = if is_first { Vec::new() } else { rights::objects(&mut tx).await? };
    match applied(&mut tx).await? - known() {
        ..=0 => migrations().run_direct(None, &mut *tx, false).await.map_err(not_migrated)?,
        1..=MAX_MIGRATIONS_AHEAD => {} // a newer release has migrated it, as before a rollback
        _ => return Err(NotMigrated::Ahead),
    }
    rights::revoke(&mut tx, &before).await?;
    for role in grantees.service {
        rights::grant(&mut tx, role).await?;
    }
    for role in grantees.sql {
        sql_rights::grant(&mut tx, role).await?;
    }
    catalog_rows::complete(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// Fails if one of the roles acts for web pages.
fn reject_web_role(roles: &[String]) -> Result<(), NotMigrated> {
    match roles.iter().find(|role| rights::WEB_ROLES.contains(&role.as_str())) {
        Some(role) => Err(NotMigrated::WebRole(role.clone())),
        None => Ok(()),
    }
}

async fn reject_unknown_role(db: &mut PgConnection, role: &str) -> Result<(), NotMigrated> {
    let exists = "select exists (select from pg_catalog.pg_roles where rolname::text = $1)";
    if !sqlx::query_scalar(exists).bind(role).fetch_one(db).await? {
        return Err(NotMigrated::UnknownRole(role.into()));
    }
    Ok(())
}

/// Creates the schema, unless an operator did so.
async fn create_schema(db: &mut PgConnection) -> Result<(), NotMigrated> {
    let found = "
        select exists (select from pg_catalog.pg_namespace where nspname = 'entitlements'),
            pg_catalog.has_database_privilege(pg_catalog.current_database()::text, 'create'),
            pg_catalog.quote_ident(current_user::text)";
    match sqlx::query_as(found).fetch_one(&mut *db).await? {
        (true, _, _) => return Ok(()),
        (false, true, _) => {}
        (false, false, role) => return Err(NotMigrated::MayNotCreate(role)),
    }
    let created = sqlx::raw_sql("create schema entitlements").execute(db).await;
    created.map(drop).map_err(|error| not_migrated(error.into()))
}

/// Fails if a schema has the tables of a development version. An application's own tables with some of their names are
/// no such tables: one of them must have the columns of the ledger, beside a table of migrations.
async fn reject_old_layout(db: &mut PgConnection) -> Result<(), NotMigrated> {
    let old = "
        select pg_catalog.quote_ident(n.nspname::text), pg_catalog.array_agg(c.relname::text order by c.relname)
        from pg_catalog.pg_namespace n join pg_catalog.pg_class c on c.relnamespace = n.oid
        where c.relkind = 'r' and n.nspname <> 'entitlements'
            and c.relname in ('_sqlx_migrations', 'backfill', 'catalog', 'change', 'deletion_lock', 'delivery',
                'failed_payment', 'item', 'override', 'plan_name', 'snapshot', 'subject')
            and exists (
                select from pg_catalog.pg_class where relnamespace = n.oid and relname = '_sqlx_migrations'
            )
            and 2::bigint = (
                select pg_catalog.count(*)
                from pg_catalog.pg_class d join pg_catalog.pg_attribute a on a.attrelid = d.oid
                where d.relnamespace = n.oid and d.relname = 'delivery' and a.attname in ('svix_id', 'body_sha256')
            )
        group by n.nspname limit 1";
    match sqlx::query_as(old).fetch_optional(db).await? {
        Some((schema, tables)) => Err(NotMigrated::OldLayout { schema, tables }),
        None => Ok(()),
    }
}

/// Fails if the schema or the table of migrations belongs to a role that is not trusted. Trusted are superusers, this
/// role, roles whose rights it has, the owner of the database, and for the table the owner of the schema. For a
/// superuser, which has the rights of every role, the rule about rights does not apply.
async fn reject_foreign_owner(db: &mut PgConnection) -> Result<(), NotMigrated> {
    let foreign = "
        select object.name, owner.rolname::text
        from (
            select 1 as priority, 'the schema entitlements' as name, nspowner as owner, nspowner as trusted
            from pg_catalog.pg_namespace where nspname = 'entitlements'
            union all
            select 2, 'entitlements._sqlx_migrations', c.relowner, n.nspowner
            from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'entitlements' and c.relname = '_sqlx_migrations'
        ) object
        join pg_catalog.pg_roles owner on owner.oid = object.owner
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        join pg_catalog.pg_roles me on me.rolname = current_user
        where not (owner.rolsuper or owner.oid in (me.oid, d.datdba)
            or object.priority = 2 and owner.oid = object.trusted
            or not me.rolsuper and pg_catalog.pg_has_role(owner.oid, 'usage'))
        order by priority limit 1";
    match sqlx::query_as(foreign).fetch_optional(db).await? {
        Some((object, owner)) => Err(NotMigrated::Foreign { object, owner }),
        None => Ok(()),
    }
}

/// Classifies an error: a lock timeout, a deadlock, and a concurrent creation of the schema or the table are
/// [`NotMigrated::InTheWay`].
fn not_migrated(error: MigrateError) -> NotMigrated {
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = &error else {
        return error.into();
    };
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("55P03" | "40P01" | "23505" | "42P06") => NotMigrated::InTheWay(error),
        _ => error.into(),
    }
}
