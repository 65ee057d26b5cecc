//! `entitlements migrate`: databases with other tables, and the rights of roles.

use crate::{
    support::database::{Db, at_newest_migration},
    support::process::signal,
    support::service::{TIMEOUT, eventually},
    support::shell::Shell,
};
use embedded_postgres::{Binaries, Embedded};
use entitlements::storage::{self, Store};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};
use tokio::time::timeout;

/// Some tables of a development version, which had no schema of their own.
const OLD_LAYOUT: &str = "
    create table _sqlx_migrations (version bigint primary key, description text not null);
    insert into _sqlx_migrations values (1, 'entitlements'), (4, 'no borrowed rights');
    create table subject (subject text primary key, revision bigint not null);
    create table item (subject text not null references subject, id text not null, primary key (subject, id));
    create table delivery (svix_id text primary key, body bytea, body_sha256 bytea not null);
    create table deletion_lock (slot bigint primary key);
    create function history() returns text language sql as $$ select '1' $$";

/// Tables of an application with the names of tables of this service, and its own table of migrations.
const APPLICATION: &str = "
    create table _sqlx_migrations (version bigint primary key, description text not null);
    insert into _sqlx_migrations values (1, 'shop'), (7, 'prices');
    create table item (id bigint primary key, price numeric not null); insert into item values (1, 9.95);
    create table subject (subject text); create table catalog (number bigint); create table snapshot (id bigint);
    create table delivery (svix_id bigint, arrived date); insert into delivery values (5, '2026-01-01');
    create table change_log (id bigint); create view override as select * from item;
    create function history() returns text language sql as $$ select 'of the shop' $$";

/// The definitions and rows in `public`.
async fn public(db: &mut PgConnection) -> String {
    let objects = "select string_agg(format('%s %s %s %s', c.oid, relname, relkind, attname), ', ' order by c.oid, attnum)
            || (select string_agg(prosrc, '') from pg_proc where pronamespace = 'public'::regnamespace)
            || query_to_xml('select * from public.item', true, true, '')
            || query_to_xml('select * from public.delivery', true, true, '')
            || query_to_xml('select * from public._sqlx_migrations', true, true, '')
        from pg_class c join pg_attribute on attrelid = c.oid and attnum > 0
        where relnamespace = 'public'::regnamespace";
    sqlx::query_scalar(objects).fetch_one(db).await.unwrap()
}

async fn has_schema(db: &mut PgConnection) -> bool {
    let exists = "select to_regnamespace('entitlements') is not null";
    sqlx::query_scalar(exists).fetch_one(db).await.unwrap()
}

async fn empty() -> (Db, PgConnection) {
    let db = Db::absent();
    db.create_empty().await;
    let connection = PgConnection::connect(&db.url).await.unwrap();
    (db, connection)
}

#[tokio::test]
async fn tables_of_an_application_with_the_same_names_stay_as_they_are() {
    let (db, mut connection) = empty().await;
    db.run(APPLICATION).await;
    let before = public(&mut connection).await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    for _ in 0..2 {
        let (code, stdout, stderr) = shell.run(&["migrate"]).await;
        assert_eq!((code, &*stdout), (0, &*at_newest_migration()), "{stderr}");
    }
    crate::support::all_work::all_work(&db, &db.url).await;
    assert_eq!(public(&mut connection).await, before);
    assert_eq!(db.count("item").await, 1);
}

#[tokio::test]
async fn a_database_of_the_old_layout_is_rejected_with_what_to_do() {
    let (db, mut connection) = empty().await;
    db.run(OLD_LAYOUT).await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    let (code, _, stderr) = shell.run(&["migrate"]).await;
    assert_eq!(code, 2, "{stderr}");
    let found = "the schema public has tables of an earlier development version: _sqlx_migrations, deletion_lock, \
                 delivery, item, subject. ";
    assert!(stderr.contains(found), "{stderr}");
    assert!(!has_schema(&mut connection).await);
    // The statements are printed as they work.
    let (_, rest) = stderr.split_once("drop the old tables: `").unwrap();
    db.run(rest.split('`').next().unwrap()).await;
    let (code, _, stderr) = shell.run(&["migrate"]).await;
    assert_eq!(code, 0, "{stderr}");
    let left = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn dev_rejects_the_database_of_an_earlier_version_and_names_its_folder() {
    let here = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let kept = here.path().join(".entitlements");
    fs::create_dir(&kept).unwrap();
    let postgres = Embedded::persistent(&kept, &Binaries::from_env().unwrap()).await.unwrap();
    let mut db = PgConnection::connect(&postgres.url("entitlements")).await.unwrap();
    sqlx::raw_sql(OLD_LAYOUT).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    let home = postgres.folder().to_owned();
    postgres.stop().await.unwrap();

    let log = here.path().join("log");
    let dev = || {
        let mut dev = tokio::process::Command::new(env!("CARGO_BIN_EXE_entitlements"));
        dev.arg("dev").current_dir(here.path()).kill_on_drop(true);
        dev.envs(
            [
                "ENTITLEMENTS_API_LISTEN",
                "ENTITLEMENTS_WEBHOOK_LISTEN",
                "ENTITLEMENTS_OPERATOR_LISTEN",
            ]
            .map(|v| (v, "127.0.0.1:0")),
        );
        let output = fs::File::create(&log).unwrap();
        dev.stdout(output.try_clone().unwrap()).stderr(output).stdin(Stdio::null());
        dev.spawn().unwrap()
    };
    let mut first = dev();
    let ended = timeout(TIMEOUT, first.wait()).await.expect("`dev` refuses the database");
    let code = ended.unwrap().code();
    let output = fs::read_to_string(&log).unwrap();
    assert_eq!(code, Some(2), "{output}");
    let home = home.display();
    let what = format!("{home} has the database of an earlier development version");
    assert!(output.contains(&what), "{output}");
    assert!(output.contains(&format!("delete the folder (`rm -r {home}`)")), "{output}");
    assert!(!output.contains("drop table"), "{output}");

    eventually("the last process of Postgres has ended", async || {
        fs::remove_dir_all(home.to_string()).is_ok()
    })
    .await;
    let mut dev = dev();
    let output = || fs::read_to_string(&log).unwrap();
    eventually("`dev` runs", async || {
        assert_eq!(dev.try_wait().unwrap(), None, "{}", output());
        output().contains("and start `dev` again")
    })
    .await;
    signal(dev.id().unwrap().try_into().unwrap(), Signal::TERM);
    assert!(dev.wait().await.unwrap().success(), "{}", output());
    if !home.to_string().starts_with(here.path().to_str().unwrap()) {
        fs::remove_dir_all(std::path::Path::new(&home.to_string()).parent().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn grant_to_gives_several_roles_what_serve_needs_and_rejects_others() {
    let (db, mut connection) = empty().await;
    let [one, other] = ["one", "other"].map(|name| format!("{}_{name}", db.name()));
    for role in [&one, &other] {
        db.run(&format!("create role {role} login password '{role}'")).await;
    }
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    for (role, words) in [
        (
            "nobody here",
            "the role `nobody here` of --grant-to or --grant-sql-to does not exist: correct the name",
        ),
        ("nobody here", "create role \"nobody here\" login"),
        ("public", "the role `public` of --grant-to or"),
        ("", "the role `` of --grant-to or"),
        ("anon", "Supabase's API acts as the role `anon` for every web page"),
        ("authenticated", "create another role for the service"),
    ] {
        let (code, _, stderr) =
            shell.run(&["migrate", "--grant-to", &one, "--grant-to", role]).await;
        assert!(code == 2 && stderr.contains(words), "{role}: {stderr}");
        let (code, ..) =
            shell.run(&["migrate", "--grant-to", &one, "--grant-sql-to", "nobody"]).await;
        assert_eq!(code, 2);
        assert!(!has_schema(&mut connection).await, "{role}");
    }
    for grants in [
        &["migrate", "--grant-to", &one][..],
        &["migrate", "--grant-to", &one, "--grant-to", &other],
    ] {
        let (code, stdout, stderr) = shell.run(grants).await;
        assert_eq!((code, &*stdout), (0, &*at_newest_migration()), "{stderr}");
    }
    for role in [&one, &other] {
        let store = Store::new(db.url_as(role).parse().unwrap());
        assert_eq!(store.missing_rights().await.unwrap(), [""; 0]);
        store.close().await;
    }
    db.run(&format!("drop owned by {one}, {other}; drop role {one}, {other}")).await;
}

#[tokio::test]
async fn a_role_without_rights_on_the_database_migrates_into_a_schema_of_its_own() {
    let (db, mut connection) = empty().await;
    let owner = format!("{}_Owner", db.name());
    db.run(&format!("create role \"{owner}\" login password '{owner}'")).await;
    let options = db.url_as(&owner).parse().unwrap();
    let error = storage::migrate(&options).await.unwrap_err().to_string();
    let statement = format!("create schema entitlements authorization \"{owner}\"");
    assert!(
        error.contains(&format!("run `{statement}`, then run `entitlements migrate`")),
        "{error}"
    );
    db.run(&statement).await;
    storage::migrate(&options).await.unwrap();
    let all_owned = "select bool_and(pg_get_userbyid(relowner)::text = $1) from pg_class
        where relnamespace = 'entitlements'::regnamespace";
    let all_owned = sqlx::query_scalar(all_owned).bind(&owner).fetch_one(&mut connection).await;
    assert!(all_owned.unwrap_or(false));
    sqlx::raw_sql(AssertSqlSafe(format!(
        "drop owned by \"{owner}\" cascade; drop role \"{owner}\""
    )))
    .execute(&mut connection)
    .await
    .unwrap();
}

#[tokio::test]
async fn every_table_column_and_function_has_a_comment() {
    let db = Db::new().await;
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let bare = "
        with ours as (select oid from pg_namespace where nspname = 'entitlements')
        select 'schema' from ours where obj_description(oid, 'pg_namespace') is null
        union all
        select oid::regclass::text from pg_class
        where relnamespace in (table ours) and relkind = 'r' and obj_description(oid, 'pg_class') is null
        union all
        select oid::regclass || '.' || attname from pg_class join pg_attribute on attrelid = oid and attnum > 0
        where relnamespace in (table ours) and relkind = 'r' and col_description(oid, attnum) is null
        union all
        select oid::regprocedure::text from pg_proc
        where pronamespace in (table ours) and obj_description(oid, 'pg_proc') is null";
    let bare: Vec<String> = sqlx::query_scalar(bare).fetch_all(&mut connection).await.unwrap();
    assert_eq!(bare, [""; 0]);
}
