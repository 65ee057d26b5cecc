//! What the database is, and what this role may do in it: for those who look for what is wrong.

use super::{Schema, StoreError, deliveries, schema};
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use std::time::{Duration, Instant};

/// What a look at the database shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The server's version, as `150018` for 15.18.
    pub version: i32,
    /// Who we are there.
    pub role: String,
    /// Whether it only follows another server.
    pub is_standby: bool,
    /// The version of TLS that this connection speaks; `None`: it is not encrypted.
    pub tls: Option<String>,
    /// How far its clock is ahead of ours, in seconds.
    pub skew: f64,
    /// Rights that are missing, with the table.
    pub missing_rights: Vec<(String, String)>,
    /// Functions that may not be called.
    pub missing_functions: Vec<String>,
}

/// How far the database was migrated, and how far this build goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// How they relate.
    pub schema: Schema,
    /// The newest migration there; 0: none.
    pub applied: i64,
    /// The newest that this build knows.
    pub known: i64,
}

/// What is worth looking at now and then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pulse {
    /// How far the database's clock is ahead of ours, in seconds.
    pub skew: f64,
    /// How full its queue of notifications is, from 0 to 1.
    pub queue: f64,
    /// How many deliveries are parked, at most 10,000.
    pub parked: i64,
}

/// Looks at what changes.
pub(super) async fn pulse(db: &mut PgConnection) -> Result<Pulse, StoreError> {
    let skew = skew(db).await?;
    let queue = sqlx::query_scalar!(r#"select pg_notification_queue_usage() as "usage!""#);
    let queue = queue.fetch_one(&mut *db).await?;
    Ok(Pulse { skew, queue, parked: deliveries::parked(db).await? })
}

/// Looks without touching anything.
pub(super) async fn inspect(db: &mut PgConnection) -> Result<Inspection, StoreError> {
    let skew = skew(db).await?;
    let server = sqlx::query!(
        r#"
        select
            current_setting('server_version_num')::int as "version!",
            current_user::text as "role!",
            pg_is_in_recovery() as "is_standby!",
            (select version from pg_stat_ssl where pid = pg_backend_pid() and ssl) as tls
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
        missing_rights: missing_rights(db).await?,
        missing_functions: missing_functions(db).await?,
    })
}

/// How far the database's clock is ahead of this machine's, in seconds. Half the round trip is allowed for: of three,
/// the quickest tells it best.
pub(super) async fn skew(db: &mut PgConnection) -> Result<f64, StoreError> {
    let (mut least, mut skew) = (Duration::MAX, 0.0);
    for _ in 0..3 {
        let (began, ours) = (Instant::now(), Utc::now());
        let row = sqlx::raw_sql("select clock_timestamp()").fetch_one(&mut *db).await?;
        let trip = began.elapsed();
        let theirs: DateTime<Utc> = row.try_get(0)?;
        if trip < least {
            (least, skew) = (trip, (theirs - ours).as_seconds_f64() - trip.as_secs_f64() / 2.0);
        }
    }
    Ok(skew)
}

/// What `serve` does with its tables and is not allowed to do. Locking rows, or the catalog, takes `update`.
async fn missing_rights(db: &mut PgConnection) -> Result<Vec<(String, String)>, StoreError> {
    let missing = sqlx::query!(
        r#"
        with needed (name, rights) as (values
            ('_sqlx_migrations', '{select}'::text[]),
            ('backfill', '{select,insert,update}'),
            ('catalog', '{select,insert,update}'),
            ('change', '{select,insert,update,delete}'),
            ('delivery', '{select,insert,update}'),
            ('failed_payment', '{select,insert,update,delete}'),
            ('item', '{select,insert,update,delete}'),
            ('override', '{select,insert,update,delete}'),
            ('plan_name', '{select,insert}'),
            ('snapshot', '{select,insert,update,delete}'),
            ('subject', '{select,insert,update}')
        )
        select name as "name!", needs as "needs!"
        from needed, unnest(rights) as needs, to_regclass(name) as found
        where found is not null and not has_table_privilege(found, needs)
        order by needs, name
        "#
    )
    .fetch_all(db)
    .await?;
    Ok(missing.into_iter().map(|row| (row.name, row.needs)).collect())
}

/// Functions that tell which history the change log is of, and may not be called.
async fn missing_functions(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let missing = sqlx::query_scalar!(
        r#"
        select name as "name!"
        from unnest(array[
            'pg_control_system()', 'pg_current_wal_lsn()', 'pg_walfile_name(pg_lsn)'
        ]) as name
        where not has_function_privilege(name, 'execute')
        "#
    );
    Ok(missing.fetch_all(db).await?)
}

/// How far the database was migrated.
pub(super) async fn migrated(db: &mut PgConnection) -> Result<Migrated, StoreError> {
    let schema = schema::compare(db).await?;
    let applied = if schema::is_begun(db).await? { schema::applied(db).await? } else { 0 };
    Ok(Migrated { schema, applied, known: schema::known() })
}
