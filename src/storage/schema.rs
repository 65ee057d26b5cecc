//! Migrates the database's schema, and checks whether this build can use it.

use super::{Store, StoreError};
use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use std::time::Duration;

fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!();
    migrations.set_locking(false); // sqlx takes an advisory lock, which any role can hold for ever
    migrations
}

/// The table of applied migrations.
const TABLE: &str = "_sqlx_migrations";

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
    /// The table of migrations belongs to another role, whose triggers and views would run with the rights of this one.
    #[error(
        "{TABLE} belongs to the role `{0}`, which owns neither the schema nor the database: migrate as `{0}` if that role \
         ran `entitlements migrate` before; otherwise an unknown role created the table, so drop it"
    )]
    Foreign(String),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] MigrateError),
}

impl From<sqlx::Error> for NotMigrated {
    fn from(error: sqlx::Error) -> Self {
        MigrateError::from(error).into()
    }
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

/// Whether this role can see a table of migrations.
pub(super) async fn is_begun(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_catalog.to_regclass('_sqlx_migrations') is not null")
        .fetch_one(db)
        .await
}

/// The version of the newest migration in this build.
pub(super) fn known() -> i64 {
    migrations().iter().map(|m| m.version).max().unwrap_or(0)
}

/// The version of the newest applied migration; 0: none.
pub(super) async fn applied(db: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> =
        sqlx::query_scalar("select pg_catalog.max(version) from _sqlx_migrations where success")
            .fetch_one(db)
            .await?;
    Ok(newest.unwrap_or(0))
}

/// Applies the missing migrations; returns the version of the newest. Replicas that start together wait for each other.
/// A migration that waits longer than 2 s for a lock is rolled back, so that readers do not queue behind it, and is
/// retried.
pub async fn migrate(options: &PgConnectOptions) -> Result<i64, NotMigrated> {
    let mut db = PgConnection::connect_with(options).await?;
    let mut pause = Duration::from_millis(200);
    for attempt in 1.. {
        match run(&mut db).await {
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

/// Applies all missing migrations in one transaction, under a lock that excludes other runs. A role without rights on
/// the table can neither take this kind of lock nor block it.
async fn run(db: &mut PgConnection) -> Result<(), NotMigrated> {
    let mut tx = db.begin().await?;
    sqlx::raw_sql("set local lock_timeout = '2s'").execute(&mut *tx).await?;
    tx.ensure_migrations_table(TABLE).await.map_err(not_migrated)?;
    if let Some(owner) = foreign_owner(&mut tx).await? {
        return Err(NotMigrated::Foreign(owner));
    }
    let lock = "lock table _sqlx_migrations in share update exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *tx).await.map_err(|error| not_migrated(error.into()))?;
    migrations().run_direct(None, &mut *tx, false).await.map_err(not_migrated)?;
    Ok(tx.commit().await?)
}

/// The owner of the table of migrations, if that role is not trusted. Trusted are superusers, this role, roles whose
/// rights it has, and the owners of the schema and of the database. For a superuser, which has the rights of every
/// role, the rule about rights does not apply.
async fn foreign_owner(db: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let foreign = "
        select owner.rolname::text
        from pg_catalog.pg_class c
        join pg_catalog.pg_roles owner on owner.oid = c.relowner
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
        join pg_catalog.pg_roles me on me.rolname = current_user
        where c.oid = pg_catalog.to_regclass('_sqlx_migrations')::oid
            and not (owner.rolsuper or owner.oid in (me.oid, n.nspowner, d.datdba)
                or not me.rolsuper and pg_catalog.pg_has_role(owner.oid, 'usage'))";
    sqlx::query_scalar(foreign).fetch_optional(db).await
}

/// Classifies an error: a lock timeout, a deadlock, and a concurrent creation of the table are
/// [`NotMigrated::InTheWay`].
fn not_migrated(error: MigrateError) -> NotMigrated {
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = &error else {
        return error.into();
    };
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("55P03" | "40P01" | "23505") => NotMigrated::InTheWay(error),
        _ => error.into(),
    }
}
