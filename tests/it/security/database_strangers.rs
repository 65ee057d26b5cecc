//! A role of the database without rights on any table that may create objects in the schema of our tables.

use crate::{
    support::all_work::all_work,
    support::database::Db,
    support::process::Process,
    support::service::{ADA, Replica, eventually, payload},
    support::sql_texts::{bare, calls, queries},
};
use entitlements::{
    api::pb::CheckFeatureRequest,
    domain::Catalog,
    storage::{self, Author, Origin, Store},
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row};
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_function_that_a_query_calls_is_named_with_the_schema_of_postgres() {
    const KEYWORDS: [&str; 4] = ["coalesce", "greatest", "least", "extract"];
    let mut pieces: Vec<_> = queries().into_iter().map(|(sql, _)| sql).collect();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    for migration in fs::read_dir(migrations).unwrap() {
        let text = fs::read_to_string(migration.unwrap().path()).unwrap();
        // A function with a body has a search path of its own.
        let parts: Vec<_> = text.split("$function$").collect();
        for (nth, part) in parts.iter().enumerate() {
            match nth % 2 {
                0 => pieces.push((*part).to_owned()),
                _ => assert!(
                    parts[nth - 1]
                        .trim_end()
                        .ends_with("set search_path = pg_catalog, pg_temp\nas")
                ),
            }
        }
    }
    let mut of_postgres = 0;
    for sql in pieces {
        for name in calls(&bare(&sql)) {
            let is_qualified = name.starts_with("pg_catalog.");
            // Our own functions are called with exactly the types of their parameters, so that no overload fits better.
            let is_ours = name.starts_with("entitlements.");
            assert!(is_qualified || is_ours || KEYWORDS.contains(&&*name), "{name}( in {sql}");
            of_postgres += usize::from(is_qualified);
        }
    }
    assert!(of_postgres > 40, "{of_postgres}");
}

/// The body of a trap: a function that counts its call and fails.
const TRAP: &str = "returns boolean language plpgsql as $trap$ begin
    perform pg_catalog.nextval('public.stranger_calls'::pg_catalog.regclass);
    raise exception 'the code of a stranger was run';
end $trap$";

/// Traps for every operator and function name, for all types that may occur: overloads with the signatures of
/// Postgres's own, and better matching ones.
const TRAPS: &str = "do $all$ declare
    one regtype[] := '{text,varchar,name,bigint,int,smallint,numeric,float8,boolean,timestamptz,timestamp,
        interval,bytea,xid8,oid,regclass,text[],name[],jsonb,inet,pg_lsn,pg_snapshot}';
    few regtype[] := '{text,bigint,int,smallint,numeric,float8,boolean,timestamptz,interval,xid8,oid,regclass,text[]}';
    called text; l regtype; r regtype; sign text;
begin
    foreach l in array one || (select coalesce(array_agg(c.reltype::regtype), '{}') from pg_class c
        where relkind = 'r' and relnamespace = to_regnamespace('entitlements'))
    loop
        foreach called in array $names loop
            execute format('create or replace function public.%I(%s) {trap}', called, l);
        end loop;
    end loop;
    foreach l in array few loop foreach r in array few loop
        foreach called in array $names || '{stranger_sign}'::text[] loop
            execute format('create or replace function public.%I(%s, %s) {trap}', called, l, r);
        end loop;
        foreach sign in array '{=,<>,<,<=,>,>=,+,-,*,/,||,&,~~}'::text[] loop
            if not exists (select from pg_operator o where oprnamespace = 'public'::regnamespace
                and oprname = sign and oprleft = l and oprright = r)
            then
                execute format('create operator public.%s (function = public.stranger_sign, leftarg = %s, rightarg = %s)',
                    sign, l, r);
            end if;
        end loop;
    end loop; end loop;
end $all$";

/// Allows every role to name our row types, as a database restored from a dump does.
const DEFINE: &str = "do $$ declare type regtype; begin
    for type in select reltype from pg_class where relkind = 'r' and relnamespace = to_regnamespace('entitlements') loop
        execute format('grant usage on schema entitlements to public; grant usage on type %s to public', type);
    end loop;
end $$";

async fn run(db: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
}

/// Creates traps for these function names, also for the row types of existing tables.
async fn lay_traps(db: &Db, stranger: &str, names: &BTreeSet<String>) {
    let pool = db.pool().await;
    let all: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    let traps = TRAPS.replace("$names", &format!("array[{}]::text[]", all.join(",")));
    let traps = traps.replace("{trap}", &TRAP.replace('\'', "''"));
    run(
        &pool,
        format!(
            "set search_path = pg_catalog; {DEFINE}; set role {stranger};
            set check_function_bodies = off; {traps}; reset role; reset search_path;"
        ),
    )
    .await;
    pool.close().await;
}

/// Creates a role that may create objects in the schema of a database.
async fn open(db: &Db) -> String {
    let (pool, stranger) = (db.pool().await, format!("{}_stranger", db.name()));
    run(
        &pool,
        format!(
            "create role {stranger} login; grant create, usage on schema public to {stranger};
            set role {stranger}; create sequence public.stranger_calls;
            grant usage on sequence public.stranger_calls to public"
        ),
    )
    .await;
    pool.close().await;
    stranger
}

/// The names in our SQL that are functions of Postgres.
async fn names_of_functions(db: &Db) -> BTreeSet<String> {
    let mut texts: Vec<_> = queries().into_iter().map(|(sql, _)| sql).collect();
    for folder in ["migrations", "src/storage"] {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            texts.extend(path.is_file().then(|| fs::read_to_string(path).unwrap()));
        }
    }
    let names: BTreeSet<_> = texts.iter().flat_map(|text| calls(text)).collect();
    let names: Vec<_> = names.iter().filter_map(|name| name.rsplit('.').next()).collect();
    let known = "select distinct proname::text from pg_proc where proname = any ($1)
        and pronamespace = 'pg_catalog'::regnamespace";
    let pool = db.pool().await;
    let known: Vec<String> = sqlx::query_scalar(known).bind(names).fetch_all(&pool).await.unwrap();
    pool.close().await;
    assert!(known.iter().any(|name| name == "json_agg") && known.len() > 25, "{known:?}");
    known.into_iter().collect()
}

/// The other role's objects that these queries would use, as Postgres resolves them.
async fn used(db: &Db, stranger: &str, queries: &[(String, Vec<String>)]) -> Vec<String> {
    let pool = db.pool().await;
    run(&pool, "create schema understood".into()).await;
    for (n, (sql, types)) in queries.iter().enumerate() {
        if sql.starts_with("lock table") {
            continue; // neither calls a function nor belongs to one
        }
        let types = types.join(", ");
        let function = format!("create function understood.query_{n}({types}) returns void");
        run(&pool, format!("{function} language sql begin atomic {sql}\n; end")).await;
    }
    // Uses exact types, because this query would otherwise hit the operator traps itself.
    let used = "select pg_describe_object(d.refclassid, d.refobjid, 0) from pg_depend d
        where d.classid = 'pg_proc'::regclass::oid
            and d.objid in (select oid from pg_proc where pronamespace = 'understood'::regnamespace::oid)
            and (d.refclassid, d.refobjid) in (
                select 'pg_proc'::regclass::oid, oid from pg_proc where proowner = $1::regrole::oid
                union all
                select 'pg_operator'::regclass::oid, oid from pg_operator where oprowner = $1::regrole::oid
            )";
    let used = sqlx::query(AssertSqlSafe(used.replace("$1", &format!("'{stranger}'"))));
    let used = used.fetch_all(&pool).await.unwrap().iter().map(|row| row.get(0)).collect();
    run(&pool, "drop schema understood cascade".into()).await;
    pool.close().await;
    used
}

async fn was_called(db: &Db) -> bool {
    let pool = db.pool().await;
    let called = sqlx::query_scalar("select is_called from public.stranger_calls");
    let called = called.fetch_one(&pool).await.unwrap();
    pool.close().await;
    called
}

#[tokio::test]
async fn no_object_of_another_role_is_called() {
    let db = Db::absent();
    db.create_empty().await;
    let stranger = open(&db).await;
    let names = names_of_functions(&db).await;
    lay_traps(&db, &stranger, &names).await;
    storage::migrate(&db.url.parse().unwrap()).await.unwrap();
    lay_traps(&db, &stranger, &names).await;
    assert_eq!(used(&db, &stranger, &queries()).await, [""; 0]);
    // Also where the objects of the other role come first.
    db.run(&format!("alter database {} set search_path = public, pg_catalog", db.name())).await;
    all_work(&db, &db.url).await;
    db.run(&format!("alter database {} reset search_path", db.name())).await;
    assert!(!was_called(&db).await);

    // The traps work: a query without the schema's name, or without exact types, is caught.
    for (bait, trap) in [
        ("select json_agg(o) from entitlements.override o", "function json_agg(override)"),
        ("select power(2, 3)", "function power(integer,integer)"),
        ("select 1::bigint || '.'::text", "operator ||(bigint,text)"),
    ] {
        let used = used(&db, &stranger, &[(bait.to_owned(), vec![])]).await;
        assert!(used.iter().any(|used| used == trap), "{bait}: {used:?}");
    }
}

/// Connects as a role without rights.
async fn connected(db: &Db) -> PgConnection {
    let (pool, role) = (db.pool().await, format!("{}_nobody", db.name()));
    run(&pool, format!("create role {role} login password '{role}'")).await;
    pool.close().await;
    let url = db.url_as(&role);
    assert_ne!(url, db.url);
    PgConnection::connect(&url).await.unwrap()
}

/// The advisory lock that sqlx takes for a database, unless it is disabled.
fn lock_of_sqlx(database: &str) -> i64 {
    let crc = database.bytes().fold(u32::MAX, |crc, byte| {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        (0..8).fold(crc ^ u32::from(byte), step)
    });
    0x3d32_ad9e * i64::from(!crc)
}

#[tokio::test]
async fn no_lock_of_another_role_blocks_a_deletion_a_catalog_or_a_migration() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let mut stranger = connected(&db).await;
    db.run("grant usage on schema entitlements to public").await; // or it could not even name the tables
    // Takes any advisory lock. PREPARE locks the tables that it names, whether or not the role may run the statement.
    let locks = format!(
        "begin;
        select pg_advisory_lock(hashtextextended('{ADA}', 0)), pg_advisory_lock({});
        prepare a as update entitlements.catalog_version set source = ''; prepare b as update entitlements._sqlx_migrations set success = true;
        prepare c as update entitlements.deletion_lock set slot = 0; prepare d as update entitlements.subject set revision = 0;
        prepare e as select from entitlements.deletion_lock for update; prepare f as select from entitlements.subject for update",
        lock_of_sqlx(db.name())
    );
    sqlx::raw_sql(AssertSqlSafe(locks)).execute(&mut stranger).await.unwrap();
    let store = Store::new(db.url.parse().unwrap());
    let other = Catalog::from_toml("[user.plans.pro]\nfeatures = [\"export\"]").unwrap();
    store.apply_catalog(Author::Operator(None), &other, Origin::service("other")).await.unwrap();
    storage::migrate(&db.url.parse().unwrap()).await.unwrap();
    let ignored = replica.send(&payload("organizationMembership.created")).await;
    let deleted = replica.send(&payload("user.deleted")).await;
    assert_eq!([ignored.result(), deleted.result()], ["ignored", "applied"]);
    stranger.close().await.unwrap();
}

#[tokio::test]
async fn a_migrations_table_of_another_role_is_rejected_and_concurrent_migrations_work() {
    let db = Db::absent();
    db.create_empty().await;
    let (stranger, pool) = (open(&db).await, db.pool().await);
    let view = "create view entitlements._sqlx_migrations as select 1::bigint as version";
    let options = || db.url.parse().unwrap();
    for (object, trap) in [
        ("the schema entitlements", format!("create schema entitlements authorization {stranger}")),
        (
            "the schema entitlements",
            format!("create schema entitlements authorization {stranger}; set role {stranger}; {view}"),
        ),
        (
            "entitlements._sqlx_migrations",
            format!(
                "create schema entitlements; grant create, usage on schema entitlements to {stranger};
                set role {stranger}; {view}"
            ),
        ),
    ] {
        run(&pool, format!("{trap}; reset role")).await;
        let error = storage::migrate(&options()).await.unwrap_err().to_string();
        let expected = format!("{object} belongs to the role `{stranger}`");
        assert!(error.starts_with(&expected), "{trap}: {error}");
        run(&pool, "drop schema entitlements cascade".into()).await;
    }
    let options: Vec<_> = (0..8).map(|_| options()).collect();
    let newest = join_all(options.iter().map(storage::migrate)).await;
    assert!(
        newest.iter().all(|newest| newest.as_ref().is_ok_and(|newest| *newest >= 1)),
        "{newest:?}"
    );
    pool.close().await;
}

/// The peak memory of a process, in MiB.
fn most_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test]
async fn a_flood_of_notifications_fills_no_memory_and_later_changes_are_processed() {
    let db = Db::new().await;
    let (flooded, other) = (Process::start(&db.url, &[]).await, Replica::start(&db).await);
    let mut client = flooded.client();
    let mut is_allowed = async || {
        let (user_id, feature) = (ADA.to_owned(), "export".to_owned());
        let request = CheckFeatureRequest { user_id, feature, ..Default::default() };
        client.check_feature(request).await.unwrap().into_inner().allowed
    };
    assert!(!is_allowed().await);
    let before = most_memory(flooded.pid());
    let mut stranger = connected(&db).await;
    let flood = "select count(pg_notify('entitlements_change', 'x ' || (
        select string_agg('user_' || g || 'y' || n || ' 1', ' ') from generate_series(1, 420) n
    ))) from generate_series(1, 4000) g";
    sqlx::raw_sql(flood).execute(&mut stranger).await.unwrap();
    // This change also sends a notification, and notifications arrive in the order of their commits.
    other.send(&payload("subscriptionItem.active")).await;
    eventually("the change is processed", async || is_allowed().await).await;
    eventually("the flood is over", async || {
        let left = "select pg_notify('entitlements_change', ''), pg_notification_queue_usage()";
        sqlx::raw_sql(left).fetch_one(&mut stranger).await.unwrap().get::<f64, _>(1) < 1e-4
    })
    .await;
    let grown = most_memory(flooded.pid()) - before;
    assert!(grown < 48, "{grown} MiB");
    assert!(!flooded.log().contains("LISTEN session lost"), "{}", flooded.log());
    stranger.close().await.unwrap();
}
