//! Limits that triggers keep with `require_room`.

use crate::support::supabase::{Project, run};

/// A table whose owners have at most as many rows as their limit of projects.
const PROJECTS: &str = "create table app.project (owner text not null);
         create function app.require_room() returns trigger language plpgsql as $$
         begin
            perform entitlements.require_room('projects', null, new.owner);
            perform entitlements.require_room('projects', (select count(*) from app.project where owner = new.owner), new.owner);
            return new;
         end $$;
         create trigger require_room before insert on app.project for each row execute function app.require_room()";

/// Leaves room for one row.
const FILL: &str =
    "truncate app.project; insert into app.project select 'user_ada' from generate_series(1, 24)";

/// `ROUNDS=1000` for the full number.
#[tokio::test]
async fn a_limit_holds_against_many_inserts_at_once() {
    let rounds = std::env::var("ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let project = Project::start().await;
    let mut db = project.connect().await;
    run(&mut db, PROJECTS).await;
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(40);
    let pool = pool.connect(&Project::url(&project.postgres)).await.unwrap();
    for round in 0..rounds {
        run(&mut db, FILL).await;
        let insert = || sqlx::query("insert into app.project values ('user_ada')").execute(&pool);
        let done = futures_util::future::join_all((0..200).map(|_| insert())).await;
        let refused = done.iter().filter_map(|done| done.as_ref().err());
        let refused = refused.map(|error| {
            let error = error.as_database_error().unwrap();
            (error.code().unwrap().into_owned(), error.constraint().unwrap().to_owned())
        });
        let refused: Vec<_> = refused.collect();
        assert_eq!(
            refused,
            vec![("23514".to_owned(), "entitlements_limit".to_owned()); 199],
            "round {round}"
        );
        let rows: i64 = sqlx::query_scalar("select count(*) from app.project")
            .fetch_one(&mut db)
            .await
            .unwrap();
        assert_eq!(rows, 25, "round {round}");
    }
    let denied = sqlx::query("insert into app.project values ('user_other')")
        .execute(&pool)
        .await
        .unwrap_err();
    assert_eq!(
        denied.as_database_error().unwrap().constraint(),
        Some("entitlements_feature"),
        "{denied}"
    );
    pool.close().await;
    project.stop().await;
}

#[tokio::test]
async fn a_limit_holds_between_transactions_of_different_isolation_levels() {
    let project = Project::start().await;
    let mut first = project.connect().await;
    run(&mut first, PROJECTS).await;
    for level in ["repeatable read", "serializable"] {
        run(&mut first, FILL).await;
        let mut second = project.connect().await;
        run(&mut second, &format!("begin isolation level {level}; select from app.project")).await;
        run(&mut first, "insert into app.project values ('user_ada')").await;
        let insert = sqlx::raw_sql("insert into app.project values ('user_ada')");
        let error = insert.execute(&mut second).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "40001", "{level}: {error}");
    }
    project.stop().await;
}
