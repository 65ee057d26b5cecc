//! Every statement of `docs/sql.md` works as the page says.

use crate::support::{
    process::Postgres,
    service::eventually,
    supabase::{Project, run},
};
use entitlements::storage::{self, Grantees};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, PgConnection};

/// The SQL blocks of the page: on the database of the service, and where the application has another database.
fn blocks() -> (Vec<String>, Vec<String>) {
    let page = std::fs::read_to_string("docs/sql.md").unwrap();
    let (here, elsewhere) = page.split_once("## If your application has another database").unwrap();
    let in_sql = |text: &str| {
        let blocks = text.split("```sql\n").skip(1);
        blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    (in_sql(here), in_sql(elsewhere))
}

async fn text(db: &mut PgConnection, query: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(db).await.unwrap()
}

/// Puts the folder of the server's socket in place of its host name.
async fn with_host(service: &mut PgConnection, block: &str) -> String {
    block.replace("service-db.example", &text(service, "show unix_socket_directories").await)
}

#[tokio::test]
async fn the_statements_for_one_database_work() {
    let project = Project::start().await;
    let mut db = project.connect().await;
    let (here, _) = blocks();
    assert_eq!(here.len(), 5, "{here:?}");
    for block in &here {
        run(&mut db, block).await;
    }
    let insert = "insert into app.project values ('org_acme', 'a')";
    run(&mut db, &format!("{insert}, ('org_acme', 'b')")).await;
    let refused = sqlx::raw_sql(insert).execute(&mut db).await.unwrap_err();
    let refused = refused.as_database_error().unwrap();
    assert_eq!(refused.message(), "the limit of projects is reached: 2 of 2");
    assert_eq!(
        (refused.code().unwrap(), refused.constraint()),
        ("23514".into(), Some("entitlements_limit"))
    );
    project.stop().await;
}

/// Every field of an answer but the instant.
const ANSWER: &str =
    "select (allowed, reason, subject, plan, \"limit\", valid_until, revision)::text
    from entitlements.check_feature('projects', 'user_ada', 'org_acme')";

#[tokio::test]
async fn a_copy_by_logical_replication_answers_as_its_source() {
    let mut project = Project::start().await;
    let mut service = project.postgres.db().await;
    run(&mut service, "alter system set wal_level = logical").await;
    project.postgres.restart(Signal::INT).await;
    let mut service = project.postgres.db().await;
    let copy = Postgres::start().await;
    storage::migrate_and_grant(&copy.url().parse().unwrap(), Grantees::default()).await.unwrap();
    let mut application = copy.db().await;
    let (_, elsewhere) = blocks();
    assert_eq!(elsewhere.len(), 3, "{elsewhere:?}");
    run(&mut service, &elsewhere[0]).await;
    run(&mut application, &with_host(&mut service, &elsewhere[1]).await).await;
    let copied = "select bool_and(srsubstate = 'r')::text from pg_subscription_rel";
    eventually("all tables are copied", async || text(&mut application, copied).await == "true")
        .await;
    let changes = [
        "update entitlements.item set status = 'ended'; update entitlements.subject set revision = revision + 1",
        "insert into entitlements.override (id, subject, feature, effect, \"limit\", permanent, owner, reason, reference,
            set_by, on_behalf_of, set_at, revision)
         select gen_random_uuid(), 'org_acme', 'projects', 'exactly', 7, true, 'x', 'x', '', 'x', '', now(), 3;
         update entitlements.subject set revision = revision + 1",
        "delete from entitlements.catalog_feature; update entitlements.catalog_in_force set number = number + 1",
    ];
    let mut seen = Vec::new();
    for change in ["select 1"].into_iter().chain(changes) {
        run(&mut service, &format!("begin; {change}; commit")).await;
        let expected = text(&mut service, ANSWER).await;
        eventually("the copy answers as its source", async || {
            text(&mut application, ANSWER).await == expected
        })
        .await;
        seen.push(expected);
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    let moves = "select coalesce(bool_and(now() - last_msg_receipt_time < '1 minute'), false)::text
        from pg_stat_subscription where subname = 'entitlements_sql' and relid is null";
    assert_eq!(text(&mut application, moves).await, "true");
    run(&mut application, "alter subscription entitlements_sql disable").await;
    eventually("the stop is seen", async || text(&mut application, moves).await == "false").await;
    run(&mut application, "drop subscription entitlements_sql").await;
    project.stop().await;
    copy.stop().await;
}

#[tokio::test]
async fn a_foreign_table_asks_about_the_named_subjects_only() {
    let project = Project::start().await;
    let mut service = project.postgres.db().await;
    run(&mut service, "create role application login password 'change-me'").await;
    let options = Project::url(&project.postgres).parse().unwrap();
    let sql = &["application".to_owned()];
    storage::migrate_and_grant(&options, Grantees { service: &[], sql }).await.unwrap();
    let application = Postgres::start().await;
    let mut db = application.db().await;
    let (_, elsewhere) = blocks();
    run(&mut db, &with_host(&mut service, &elsewhere[2]).await).await;
    let named = "from entitlement where subject in ('user_ada', 'org_acme') and feature = 'export'";
    assert_eq!(
        text(&mut db, &format!("select string_agg(subject || plan, ',') {named}")).await,
        "user_adapro"
    );
    let explained: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "explain (verbose, costs off) select subject {named}"
    )))
    .fetch_all(&mut db)
    .await
    .unwrap();
    let sent = explained.iter().find(|line| line.contains("Remote SQL")).unwrap();
    assert!(sent.contains("subject = ANY") && sent.contains("feature = 'export'"), "{sent}");
    project.stop().await;
    application.stop().await;
}
