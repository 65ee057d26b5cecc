//! The schema: migrating it, and finding out whether this build fits it.

use super::StoreError;
use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use std::time::Duration;

fn migrations() -> Migrator {
    sqlx::migrate!()
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
    sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(db).await
}

/// The newest migration that this build knows.
pub(super) fn known() -> i64 {
    migrations().iter().map(|m| m.version).max().unwrap_or(0)
}

/// The newest migration that was applied.
pub(super) async fn applied(db: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(db)
            .await?;
    Ok(newest.unwrap_or(0))
}

/// Applies the missing migrations; returns the number of the newest. Replicas that start together wait for
/// each other. A migration gives up rather than make readers queue behind it, and is tried again.
pub async fn migrate(options: &PgConnectOptions) -> Result<i64, MigrateError> {
    let mut db = PgConnection::connect_with(options).await?;
    sqlx::raw_sql("set lock_timeout = '2s'").execute(&mut db).await?;
    let mut pause = Duration::from_millis(200);
    for attempt in 1.. {
        match migrations().run_direct(None, &mut db, false).await {
            Ok(()) => break,
            Err(error) if attempt < 5 && is_in_the_way(&error) => tokio::time::sleep(pause).await,
            Err(error) => return Err(error),
        }
        pause *= 2;
    }
    let newest = applied(&mut db).await?;
    db.close().await?;
    Ok(newest)
}

/// Whether others held locks for too long, or wanted them in another order.
fn is_in_the_way(error: &MigrateError) -> bool {
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = error else {
        return false;
    };
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}
