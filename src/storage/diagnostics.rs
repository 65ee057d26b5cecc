//! Inspects the database and the rights of this role, for `doctor` and the database gauges.

use super::{Schema, Store, StoreError, delivery_queries, schema};
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
    /// Each table on which the role lacks a right that `serve` needs, and the right.
    pub missing_rights: Vec<(String, String)>,
    /// The functions that `serve` needs and the role may not execute.
    pub missing_functions: Vec<String>,
    /// Each schema on the search path in which another role can create objects that shadow ours, and that role.
    pub open_schemas: Vec<(String, String)>,
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

impl Store {
    /// Inspects the server, its clock and the rights of this role, without writing anything.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.background.run(inspect).await
    }

    /// Reads the values of the database gauges.
    pub async fn database_stats(&self) -> Result<DatabaseStats, StoreError> {
        self.background.run(database_stats).await
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
        missing_rights: missing_rights(db).await?,
        missing_functions: missing_functions(db).await?,
        open_schemas: open_schemas(db).await?,
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

/// The table rights that `serve` needs and the role lacks. Locking rows or the catalog requires `update`.
async fn missing_rights(db: &mut PgConnection) -> Result<Vec<(String, String)>, StoreError> {
    let missing = sqlx::query!(
        r#"
        with needed (name, rights) as (values
            ('_sqlx_migrations', '{select}'::text[]),
            ('backfill', '{select,insert,update}'),
            ('catalog', '{select,insert,update}'),
            ('change', '{select,insert,update,delete}'),
            ('deletion_lock', '{select,update}'),
            ('delivery', '{select,insert,update}'),
            ('failed_payment', '{select,insert,update,delete}'),
            ('item', '{select,insert,update,delete}'),
            ('override', '{select,insert,update,delete}'),
            ('plan_name', '{select,insert}'),
            ('snapshot', '{select,insert,update,delete}'),
            ('subject', '{select,insert,update}')
        )
        select name as "name!", needs as "needs!"
        from needed, pg_catalog.unnest(rights) as needs, pg_catalog.to_regclass(name) as found
        where found is not null and not pg_catalog.has_table_privilege(found, needs)
        order by needs, name
        "#
    )
    .fetch_all(db)
    .await?;
    Ok(missing.into_iter().map(|row| (row.name, row.needs)).collect())
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

/// Roles that can create objects in our schema, or in a schema that precedes it or `pg_catalog` on the search path.
/// This role is left out, as are superusers and members of the owner of the schema or of the tables.
async fn open_schemas(db: &mut PgConnection) -> Result<Vec<(String, String)>, StoreError> {
    let open = sqlx::query!(
        r#"
        with ours as (
            select relnamespace as schema, relowner as owner from pg_catalog.pg_class
            where oid = pg_catalog.to_regclass('_sqlx_migrations')::oid
            union all
            select oid, nspowner from pg_catalog.pg_namespace
            where nspname = pg_catalog.current_schema()
                and pg_catalog.to_regclass('_sqlx_migrations') is null
        ), path as (
            select n.oid, n.nspname, n.nspowner, n.nspacl, found.place
            from pg_catalog.unnest(pg_catalog.current_schemas(true))
                with ordinality as found (name, place)
            join pg_catalog.pg_namespace n on n.nspname = found.name
        ), trusted as (
            select owner from ours
            union
            select nspowner from path where path.oid in (select schema from ours)
        )
        select distinct path.place, pg_catalog.quote_ident(path.nspname::text) as "schema!",
            coalesce(pg_catalog.quote_ident(role.rolname::text), 'public') as "role!"
        from path
        cross join lateral pg_catalog.aclexplode(
            coalesce(path.nspacl, pg_catalog.acldefault('n', path.nspowner))
        ) as acl
        left join pg_catalog.pg_roles role on role.oid = acl.grantee
        where acl.privilege_type = 'CREATE'
            and path.place <= (
                select pg_catalog.max(place) from path
                where path.oid in (select schema from ours) or path.nspname = 'pg_catalog'
            )
            and (role.oid is null or role.rolname <> current_user and not exists (
                select from trusted where pg_catalog.pg_has_role(role.oid, trusted.owner, 'member')
            ))
        order by path.place, "role!"
        "#
    )
    .fetch_all(db)
    .await?;
    Ok(open.into_iter().map(|row| (row.schema, row.role)).collect())
}

/// Compares the migrations of the database with those of this build.
pub(super) async fn migrated(db: &mut PgConnection) -> Result<Migrated, StoreError> {
    let schema = schema::compare(db).await?;
    let applied = if schema::is_begun(db).await? { schema::applied(db).await? } else { 0 };
    Ok(Migrated { schema, applied, known: schema::known() })
}
