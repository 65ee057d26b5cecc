//! The rights of roles on the objects in the schema `entitlements`.

use crate::{
    support::all_work::all_work,
    support::database::Db,
    support::process::Postgres,
    support::service::{Replica, config, eventually},
    support::sql_texts::{bare, queries},
    support::supabase::{ROLES, held, run},
};
use entitlements::storage::{self, Grantees, OtherRoles, Store, Stranger};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use std::collections::{BTreeMap, BTreeSet};

/// Checks that each of these statements is refused to a role.
async fn check_refused(db: &mut PgConnection, role: &str, statements: &[String]) {
    for statement in statements {
        run(db, &format!("set role {role}")).await;
        let refused = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *db).await;
        run(db, "reset role").await;
        let error = refused.expect_err(statement).to_string();
        assert!(error.contains("permission denied"), "{role}: {statement}: {error}");
    }
}

/// Reads, writes and calls of each of our objects.
async fn uses(db: &mut PgConnection) -> Vec<String> {
    let uses = "
        select format(use, oid::regclass) from pg_class, unnest(array['select from %s', 'insert into %s default values',
            'delete from %s', 'truncate %s', 'create index on %s ((true))']) use
        where relnamespace = 'entitlements'::regnamespace and relkind = 'r'
        union all
        select format('select from %s', oid::regclass) from pg_class
        where relnamespace = 'entitlements'::regnamespace and relkind = 'v'
        union all
        select format('select nextval(%L)', oid::regclass) from pg_class
        where relnamespace = 'entitlements'::regnamespace and relkind = 'S'
        union all
        select format('select %s(%s)', oid::regproc, (
            select string_agg('null::' || format_type(type, null), ', ') from unnest(proargtypes) as type
        )) from pg_proc where pronamespace = 'entitlements'::regnamespace
        union all
        select 'create table entitlements.mine ()'
        union all
        select 'update entitlements.item set plan = null'";
    run(db, "set search_path = pg_catalog").await;
    let uses: Vec<String> = sqlx::query_scalar(uses).fetch_all(db).await.unwrap();
    assert!(uses.len() > 60, "{uses:?}");
    uses
}

const WEB: &str = "anon, authenticated, service_role";

/// Migrates, and gives the role `clerk` the rights of the service.
async fn migrate_for_clerk(as_owner: &PgConnectOptions) {
    let grantees = Grantees { service: &["clerk".into()], sql: &[] };
    storage::migrate_and_grant(as_owner, grantees).await.unwrap();
}

#[tokio::test]
async fn default_privileges_of_the_database_give_no_role_a_right() {
    let postgres = Postgres::start().await;
    let url = postgres.url();
    run(&mut postgres.db().await, ROLES).await;
    let all = |place: &str| {
        ["tables", "functions", "sequences", "types"].map(|kind| {
            format!("alter default privileges for role owner {place} grant all on {kind} to {WEB}")
        })
    };
    let schemas = format!("alter default privileges for role owner grant all on schemas to {WEB}");
    let open = format!(
        "create schema entitlements authorization owner; grant all on schema entitlements to {WEB}, public"
    );
    let public = "alter default privileges for role owner grant all on tables to public";
    for (case, grants) in [
        ("none", vec![]),
        ("in public", all("in schema public").to_vec()),
        ("in the whole database", [&all("")[..], &[schemas]].concat()),
        ("in the schema, which exists", [&[open][..], &all("in schema entitlements")].concat()),
        ("to everybody", vec![public.into()]),
    ] {
        let name = case.replace([' ', ','], "_");
        run(&mut postgres.db().await, &format!("create database {name} owner owner")).await;
        let of = |role: &str| {
            let url = url.replace("/entitlements?", &format!("/{name}?"));
            url.replace("entitlements@", role)
        };
        let mut db = PgConnection::connect(&of("entitlements@")).await.unwrap();
        run(&mut db, &grants.join(";")).await;
        let as_owner = of("owner:owner@").parse().unwrap();
        migrate_for_clerk(&as_owner).await;
        let uses = uses(&mut db).await;
        for role in ["anon", "authenticated", "service_role", "stranger"] {
            assert_eq!(held(&mut db, role).await, [""; 0], "{case}: {role}");
            check_refused(&mut db, role, &uses).await;
        }
        assert_eq!(table_rights(&mut db, "clerk").await, used_rights(), "{case}");
        let store = Store::new(as_owner);
        let only_the_service =
            OtherRoles { services: vec!["clerk".into()], ..OtherRoles::default() };
        assert_eq!(store.other_roles().await.unwrap(), only_the_service, "{case}");
        store.close().await;
        // A later run does not change the rights that an operator gave.
        run(&mut db, "grant select on entitlements.item to stranger").await;
        storage::migrate(&of("owner:owner@").parse().unwrap()).await.unwrap();
        assert_eq!(held(&mut db, "stranger").await, ["select on table entitlements.item"]);
        db.close().await.unwrap();
    }
    postgres.stop().await;
}

/// The rights on tables that a role has, by table, without `select`, which each table needs.
async fn table_rights(db: &mut PgConnection, role: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rights = BTreeMap::<String, BTreeSet<String>>::new();
    // The functions in SQL read the others.
    let tables = "select oid::regclass::text from pg_class
        where relnamespace = 'entitlements'::regnamespace and relkind in ('r', 'p', 'm', 'f')
            and relname not in ('catalog_feature', 'catalog_plan', 'room_lock')";
    run(db, "set search_path = pg_catalog").await;
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *db).await.unwrap();
    for right in held(db, role).await {
        if let Some((right, table)) = right.split_once(" on table ") {
            rights.entry(table.into()).or_default().insert(right.into());
        }
    }
    for table in tables {
        let found = rights.entry(table.clone()).or_default();
        assert!(found.remove("select"), "storage/rights.rs does not list {table}");
    }
    rights
}

/// The rights on tables that the queries of `.sqlx` use, by table, without `select`.
fn used_rights() -> BTreeMap<String, BTreeSet<String>> {
    let mut rights = BTreeMap::<String, BTreeSet<String>>::new();
    rights.insert("entitlements._sqlx_migrations".into(), BTreeSet::new()); // only read, by unchecked queries
    for (sql, _) in queries() {
        let sql = bare(&sql).replace(['(', ')', ',', ';'], " ");
        let words: Vec<_> = sql.split_whitespace().collect();
        let (mut read, mut written) = ("", "");
        for (at, word) in words.iter().enumerate() {
            let before = |n: usize| if at < n { "" } else { words[at - n] };
            if word.starts_with("entitlements.") && *word != "entitlements.history" {
                let right = match (before(2), before(1)) {
                    (_, "into") => Some("insert"),
                    ("lock", "table") | (_, "update") => Some("update"),
                    ("delete", "from") => Some("delete"),
                    _ => None,
                };
                rights.entry((*word).into()).or_default().extend(right.map(String::from));
                (read, written) = (word, if right == Some("insert") { word } else { written });
            }
            // Locking rows and replacing a conflicting row need `update`.
            let locked = match (before(1), *word) {
                ("for", "update" | "share") => read,
                ("do", "update") => written,
                _ => continue,
            };
            rights.entry(locked.into()).or_default().insert("update".into());
        }
    }
    rights
}

#[tokio::test]
async fn a_role_with_the_rights_of_grant_to_alone_does_all_work() {
    let db = Db::new().await;
    let (role, url) = db.service_role().await;
    let mut owner = PgConnection::connect(&db.url).await.unwrap();
    let is_limited =
        "select not rolsuper and not rolbypassrls and not pg_has_role(oid, 'entitlements', 'usage')
        from pg_roles where rolname = $1";
    let is_limited = sqlx::query_scalar(is_limited).bind(&role).fetch_one(&mut owner).await;
    assert!(is_limited.unwrap_or(false));
    all_work(&db, &url).await;
    let refused = storage::migrate(&url.parse().unwrap()).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    let others: Vec<_> = held(&mut owner, &role).await;
    let others = others.iter().filter(|right| !right.contains(" on table "));
    let expected = ["execute on function entitlements.history()", "usage on schema entitlements"];
    assert_eq!(others.collect::<Vec<_>>(), expected);
    db.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn each_needed_right_that_a_role_lacks_is_found_with_the_statement_that_gives_it() {
    let db = Db::new().await;
    let (role, url) = db.service_role().await;
    let mut owner = PgConnection::connect(&db.url).await.unwrap();
    let store = Store::new(url.parse().unwrap());
    let rights = held(&mut owner, &role).await;
    assert!(rights.len() > 30, "{rights:?}");
    for right in rights {
        run(&mut owner, &format!("revoke {right} from {role}")).await;
        let grants = store.missing_rights().await.unwrap();
        assert_eq!(grants, [format!("grant {right} to \"{role}\"")]);
        run(&mut owner, &grants[0]).await;
        assert_eq!(store.missing_rights().await.unwrap(), [""; 0], "{right}");
    }
    store.close().await;
    db.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn members_of_roles_with_rights_are_listed() {
    let postgres = Postgres::start().await;
    let url = postgres.url();
    let mut db = postgres.db().await;
    run(&mut db, ROLES).await;
    run(&mut db, "create role reader; create role \"On Call\"; create role boss; grant create on database entitlements to owner")
        .await;
    let as_owner = url.replace("entitlements@", "owner:owner@");
    migrate_for_clerk(&as_owner.parse().unwrap()).await;
    let store = Store::new(as_owner.parse().unwrap());
    for (grant, expected) in [
        ("pg_read_all_data to reader", vec![("reader", false)]),
        ("pg_write_all_data to reader with admin option", vec![("reader", false)]),
        ("clerk to \"On Call\"", vec![("\"On Call\"", false)]),
        ("clerk to anon", vec![("anon", true)]),
        ("owner to boss", vec![]),
        ("owner to authenticated", vec![("authenticated", true)]),
        ("select on table entitlements.item to reader", vec![("reader", false)]),
        ("select on table entitlements.item to service_role", vec![("service_role", false)]),
        ("select on table entitlements.item to authenticated", vec![("authenticated", true)]),
        ("select on table entitlements.item to public", vec![("public", true)]),
    ] {
        run(&mut db, &format!("grant {grant}")).await;
        let strangers = store.other_roles().await.unwrap().strangers;
        let found = strangers.iter().map(|stranger| (&*stranger.role, stranger.is_exposed));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{grant}");
        // The statements end it.
        let revokes = strangers.iter().flat_map(|stranger: &Stranger| &stranger.revokes);
        let revokes: Vec<_> = revokes.cloned().collect();
        run(&mut db, &revokes.join(";")).await;
        assert_eq!(store.other_roles().await.unwrap().strangers, [], "{grant}: {revokes:?}");
    }
    // A right of a role of which a web role is a member is a right of the web role.
    run(&mut db, "grant reader to anon; grant select on table entitlements.item to reader").await;
    let strangers = store.other_roles().await.unwrap().strangers;
    assert!(strangers.len() == 1 && strangers[0].is_exposed, "{strangers:?}");
    store.close().await;
    db.close().await.unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn serve_is_not_ready_while_the_database_accepts_no_writes() {
    let db = Db::new().await;
    let name = db.url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let set =
        |value: &str| format!("alter database {name} set default_transaction_read_only = {value}");
    let mut admin = PgConnection::connect(&Db::admin_url()).await.unwrap();
    run(&mut admin, &set("on")).await;
    let replica = Replica::launch(config(&db)).await;
    let asked = format!(
        "select count(*) from pg_stat_activity where datname = '{name}' and query like '%transaction_read_only%'"
    );
    eventually("the service has asked whether it may write", async || {
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(asked.clone()));
        count.fetch_one(&mut admin).await.unwrap() > 0
    })
    .await;
    let not_ready = (503, "has not read the database yet\n".to_owned());
    assert_eq!(replica.get("/readyz").await, not_ready);
    run(&mut admin, &set("off")).await;
    // A connection keeps the setting that it began with.
    let end =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    run(&mut admin, &end).await;
    replica.serving().await;
    admin.close().await.unwrap();
    replica.stop().await.unwrap();
}
