//! The roles of a Supabase project, and their rights on our objects.

use sqlx::{AssertSqlSafe, PgConnection};

/// The roles of a Supabase project, and two for the service: the owner of the tables, and the role of `serve`.
pub const ROLES: &str = "
    create role anon nologin noinherit; create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls; create role stranger nologin;
    create role authenticator login noinherit; grant anon, authenticated, service_role to authenticator;
    create role owner login createrole password 'owner'; create role clerk login password 'clerk'";

/// Lists the rights of a role, by what Postgres itself answers for each object and each kind of right.
const HELD: &str = "
    with ours as (select oid from pg_namespace where nspname = 'entitlements')
    select p || ' on ' || object from (
        select 'schema entitlements' as object, p, has_schema_privilege($1, oid, p) as held
        from ours, unnest('{create,usage}'::text[]) p
        union all
        select 'table ' || oid::regclass, p, has_table_privilege($1, oid, p)
        from pg_class, unnest('{select,insert,update,delete,truncate,references,trigger}'::text[]) p
        where relnamespace in (table ours) and relkind in ('r', 'p', 'v', 'm', 'f')
        union all
        select 'a column of table ' || oid::regclass, p, has_any_column_privilege($1, oid, p)
            and not has_table_privilege($1, oid, p)
        from pg_class, unnest('{select,insert,update,references}'::text[]) p
        where relnamespace in (table ours) and relkind in ('r', 'p', 'v', 'm', 'f')
        union all
        select 'sequence ' || oid::regclass, p, has_sequence_privilege($1, oid, p)
        from pg_class, unnest('{usage,select,update}'::text[]) p
        where relnamespace in (table ours) and relkind = 'S'
        union all
        select 'function ' || oid::regprocedure, 'execute', has_function_privilege($1, oid, 'execute')
        from pg_proc where pronamespace in (table ours)
        union all
        select 'type ' || oid::regtype, 'usage', has_type_privilege($1, oid, 'usage')
        from pg_type where typnamespace in (table ours)
    ) found where held order by 1";

/// The rights of a role on our objects.
pub async fn held(db: &mut PgConnection, role: &str) -> Vec<String> {
    run(db, "set search_path = pg_catalog").await; // names are printed with our schema
    sqlx::query_scalar(HELD).bind(role).fetch_all(db).await.unwrap()
}

/// Runs SQL statements.
pub async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap();
}
