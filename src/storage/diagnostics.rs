//! Inspects the database and the rights of this role, for `doctor` and the database gauges.

use super::{Schema, Store, StoreError, delivery_queries, override_rows, schema};
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use std::time::{Duration, Instant};

/// The result of inspecting the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The server's version, such as `150018` for 15.18.
    pub version: i32,
    /// The role of this connection.
    pub role: String,
    /// Whether the server is a standby.
    pub is_standby: bool,
    /// The TLS version of this connection; `None`: it is not encrypted.
    pub tls: Option<String>,
    /// How far the database's clock is ahead of this machine's, in seconds.
    pub skew: f64,
    /// The functions of Postgres that `serve` needs and the role may not execute.
    pub missing_functions: Vec<String>,
}

/// The migrations of the database and of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// Whether this build can use the database's schema.
    pub schema: Schema,
    /// The newest migration applied to the database; 0: none.
    pub applied: i64,
    /// The newest migration in this build.
    pub known: i64,
}

/// Values that only the database can report, for the gauges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DatabaseStats {
    /// How far the database's clock is ahead of this machine's, in seconds.
    pub skew: f64,
    /// The used fraction of the notification queue, from 0 to 1.
    pub queue: f64,
    /// The number of parked deliveries of the served Clerk instance, at most 10,000.
    pub parked: i64,
}

/// The numbers of overrides in force, of at most 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverrideCounts {
    /// Those that grant.
    pub grants: i64,
    /// Those that deny.
    pub denials: i64,
    /// Those that expire within seven days.
    pub expiring_soon: i64,
}

impl Store {
    /// Inspects the server, its clock and the rights of this role, without writing anything.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.background.run(inspect).await
    }

    /// Reads the values of the database gauges.
    pub async fn database_stats(&self) -> Result<DatabaseStats, StoreError> {
        self.background.run(database_stats).await
    }

    /// Counts the overrides in force.
    pub async fn override_counts(&self) -> Result<OverrideCounts, StoreError> {
        self.background.run(override_rows::count).await
    }

    /// Compares the migrations of the database with those of this build.
    pub async fn migrated(&self) -> Result<Migrated, StoreError> {
        self.background.run(migrated).await
    }
}

async fn database_stats(db: &mut PgConnection) -> Result<DatabaseStats, StoreError> {
    let skew = skew(db).await?;
    let queue =
        sqlx::query_scalar!(r#"select pg_catalog.pg_notification_queue_usage() as "usage!""#);
    let queue = queue.fetch_one(&mut *db).await?;
    Ok(DatabaseStats { skew, queue, parked: delivery_queries::parked(db).await? })
}

async fn inspect(db: &mut PgConnection) -> Result<Inspection, StoreError> {
    let skew = skew(db).await?;
    let server = sqlx::query!(
        r#"
        select
            pg_catalog.current_setting('server_version_num')::int as "version!",
            current_user::text as "role!",
            pg_catalog.pg_is_in_recovery() as "is_standby!",
            (select version from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid() and ssl) as tls
        "#
    )
    .fetch_one(&mut *db)
    .await?;
    Ok(Inspection {
        version: server.version,
        role: server.role,
        is_standby: server.is_standby,
        tls: server.tls,
        skew,
        missing_functions: missing_functions(db).await?,
    })
}

/// How far the database's clock is ahead of this machine's, in seconds. Half of the round-trip time is subtracted. Of
/// three attempts, the one with the shortest round trip counts, because it is the most accurate.
pub(super) async fn skew(db: &mut PgConnection) -> Result<f64, StoreError> {
    let (mut least, mut skew) = (Duration::MAX, 0.0);
    for _ in 0..3 {
        let (began, ours) = (Instant::now(), Utc::now());
        let row = sqlx::raw_sql("select pg_catalog.clock_timestamp()").fetch_one(&mut *db).await?;
        let trip = began.elapsed();
        let theirs: DateTime<Utc> = row.try_get(0)?;
        if trip < least {
            (least, skew) = (trip, (theirs - ours).as_seconds_f64() - trip.as_secs_f64() / 2.0);
        }
    }
    Ok(skew)
}

/// The functions used to identify the database's history that the role may not execute.
async fn missing_functions(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let missing = sqlx::query_scalar!(
        r#"
        select name as "name!"
        from pg_catalog.unnest(array[
            'pg_control_system()', 'pg_current_wal_lsn()', 'pg_walfile_name(pg_lsn)'
        ]) as name
        where not pg_catalog.has_function_privilege(name, 'execute')
        "#
    );
    Ok(missing.fetch_all(db).await?)
}

/// Compares the migrations of the database with those of this build.
pub(super) async fn migrated(db: &mut PgConnection) -> Result<Migrated, StoreError> {
    let schema = schema::compare(db).await?;
    let applied = if schema::is_begun(db).await? { schema::applied(db).await? } else { 0 };
    Ok(Migrated { schema, applied, known: schema::known() })
}
