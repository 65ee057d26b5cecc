//! What the database is, and what this role may do in it: for those who look for what is wrong.

use super::{Schema, StoreError, delivery_queries, schema};
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
    /// Schemas in which our names are looked for, and into which others may put objects: with who may.
    pub open_schemas: Vec<(String, String)>,
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
    let queue =
        sqlx::query_scalar!(r#"select pg_catalog.pg_notification_queue_usage() as "usage!""#);
    let queue = queue.fetch_one(&mut *db).await?;
    Ok(Pulse { skew, queue, parked: delivery_queries::parked(db).await? })
}

/// Looks without touching anything.
pub(super) async fn inspect(db: &mut PgConnection) -> Result<Inspection, StoreError> {
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

/// How far the database's clock is ahead of this machine's, in seconds. Half the round trip is allowed for: of three,
/// the quickest tells it best.
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

/// What `serve` does with its tables and is not allowed to do. Locking rows, or the catalog, takes `update`.
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

/// Functions that tell which history the change log is of, and may not be called.
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

/// Roles that may create in our schema, or in one where our tables and Postgres's functions are looked for before, and
/// are neither superusers nor this role, nor can act as the owner of the schema or of the tables.
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

/// How far the database was migrated.
pub(super) async fn migrated(db: &mut PgConnection) -> Result<Migrated, StoreError> {
    let schema = schema::compare(db).await?;
    let applied = if schema::is_begun(db).await? { schema::applied(db).await? } else { 0 };
    Ok(Migrated { schema, applied, known: schema::known() })
}
