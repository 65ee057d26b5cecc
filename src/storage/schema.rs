//! The schema: migrating it, and finding out whether this build fits it.

use super::StoreError;
use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use std::time::Duration;

fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!();
    migrations.set_locking(false); // it would take an advisory lock, which any role can hold for ever
    migrations
}

/// Where it is noted which migrations were applied.
const TABLE: &str = "_sqlx_migrations";

/// Why a database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum NotMigrated {
    /// Others have locks, and do not let go of them.
    #[error(
        "others hold locks that the migration needs; `select pid, usename, state, query from pg_stat_activity where pid \
         in (select pid from pg_locks where granted)` shows them, and pg_terminate_backend(pid) ends one"
    )]
    InTheWay(#[source] MigrateError),
    /// What is in the place of our table belongs to another role, whose triggers and views would run with our rights.
    #[error(
        "{TABLE} belongs to the role `{0}`, which owns neither the schema nor the database: migrate as `{0}` if that role \
         ran `entitlements migrate` before; otherwise somebody else made it, so drop it"
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

/// How many migrations the database may be ahead of this build: a rolling deploy migrates first, and the
/// replicas of the release before keep running until they are replaced.
const AHEAD: i64 = 1;

/// How the database's schema relates to the one this build was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// They fit.
    Fits,
    /// Migrations are missing.
    Behind,
    /// A later release has migrated it further than this build can follow.
    Ahead,
}

/// Compares what was applied with what this build knows.
pub(super) async fn compare(db: &mut PgConnection) -> Result<Schema, StoreError> {
    if !is_begun(db).await? {
        return Ok(Schema::Behind);
    }
    Ok(match applied(db).await? - known() {
        ..0 => Schema::Behind,
        0..=AHEAD => Schema::Fits,
        _ => Schema::Ahead,
    })
}

/// Whether any migration was ever applied, as far as this role can see.
pub(super) async fn is_begun(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_catalog.to_regclass('_sqlx_migrations') is not null")
        .fetch_one(db)
        .await
}

/// The newest migration that this build knows.
pub(super) fn known() -> i64 {
    migrations().iter().map(|m| m.version).max().unwrap_or(0)
}

/// The newest migration that was applied.
pub(super) async fn applied(db: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> =
        sqlx::query_scalar("select pg_catalog.max(version) from _sqlx_migrations where success")
            .fetch_one(db)
            .await?;
    Ok(newest.unwrap_or(0))
}

/// Applies the missing migrations; returns the number of the newest. Replicas that start together wait for
/// each other. A migration gives up rather than make readers queue behind it, and is tried again.
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

/// Applies what is missing, all of it or nothing, while nobody else does. The lock is of a kind that no role without
/// rights on the table can take or prevent.
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

/// The owner of the table, if it is neither this role nor one that it has the rights of, nor the owner of the schema or of
/// the database, nor a superuser. A superuser counts as having the rights of all.
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

/// Whether others hold locks for too long, want them in another order, or are making the same table.
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
