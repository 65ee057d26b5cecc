//! The roles of a Supabase project, and their rights on our objects.

use crate::support::process::Postgres;
use entitlements::{
    domain::Catalog,
    storage::{self, Author, Grantees, Origin, Store},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::sync::Arc;

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

/// A database in which the user `user_ada` has the plan `pro`, and the organization `org_acme` the plan `team`. The roles
/// of a Supabase project may ask in SQL.
pub struct Project {
    pub postgres: Postgres,
    pub store: Arc<Store>,
}

impl Project {
    pub async fn start() -> Self {
        let postgres = Postgres::start().await;
        let mut admin = postgres.db().await;
        run(&mut admin, ROLES).await;
        run(
            &mut admin,
            "grant create on database entitlements to owner; create schema app authorization owner",
        )
        .await;
        let store = Store::new(Self::url(&postgres).parse().unwrap());
        let project = Self { postgres, store };
        project.grant().await;
        let catalog = "
            [user.plans.pro]
            features = [\"export\"]
            limits = { projects = 25 }
            [organization.plans.team]
            features = [\"sso\"]
            limits = { projects = 2 }";
        let catalog = Catalog::from_toml(catalog).unwrap();
        let origin = Origin::service("the test");
        project.store.apply_catalog(Author::Operator(None), &catalog, origin).await.unwrap();
        for (subject, plan) in [("user_ada", "pro"), ("org_acme", "team")] {
            let item = format!(
                "insert into entitlements.subject (id, revision) values ('{subject}', 1);
                 insert into entitlements.item (subject, id, plan, status, free_trial, has_seats, updated_at, sent_at, rank,
                    svix_id)
                 values ('{subject}', 'csub_1', '{plan}', 'active', false, false, now(), now(), 0, 'msg_1')"
            );
            run(&mut admin, &item).await;
        }
        project
    }

    /// The URL of the owner of the tables.
    pub fn url(postgres: &Postgres) -> String {
        postgres.url().replace("entitlements@", "owner:owner@")
    }

    /// Migrates, and lets the roles ask.
    pub async fn grant(&self) {
        let sql = &["anon", "authenticated", "service_role"].map(String::from);
        let options = Self::url(&self.postgres).parse().unwrap();
        storage::migrate_and_grant(&options, Grantees { service: &[], sql }).await.unwrap();
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&Self::url(&self.postgres)).await.unwrap()
    }

    pub async fn stop(self) {
        self.store.close().await;
        self.postgres.stop().await;
    }
}
