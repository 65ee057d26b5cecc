//! Feature gates in SQL: what the roles of a Supabase project may ask, by the claims of the session.

use crate::support::supabase::{Project, held, run};
use entitlements::storage::OtherRoles;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Runs a query in a transaction with a role and claims, as `PostgREST` does; the error's text if it fails.
async fn as_session<T>(
    db: &mut PgConnection,
    role: &str,
    claims: &str,
    query: &str,
) -> Result<T, String>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut tx = db.begin().await.unwrap();
    let set = "select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)";
    sqlx::query(set).bind(claims).bind(role).execute(&mut *tx).await.unwrap();
    let found = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut *tx).await;
    tx.rollback().await.unwrap();
    found.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_session_asks_about_its_own_claims_only() {
    let project = Project::start().await;
    let mut db = project.postgres.db().await;
    for (claims, [export, sso], projects) in [
        (r#"{"sub": "user_ada"}"#, [true, false], 25),
        (r#"{"sub": "user_ada", "v": 2, "o": {"id": "org_acme"}}"#, [true, true], 25),
        (r#"{"sub": "user_ada", "org_id": "org_acme"}"#, [true, true], 25),
        (r#"{"sub": "user_ada", "v": 2, "o": {"id": "org_other"}}"#, [true, false], 25),
        // The claim of another version is not Clerk's.
        (r#"{"sub": "user_ada", "v": 2, "org_id": "org_acme"}"#, [true, false], 25),
        (r#"{"sub": "user_ada", "v": 1, "o": {"id": "org_acme"}}"#, [true, false], 25),
        (r#"{"sub": "user_ada", "v": 2, "o": {"id": ""}}"#, [true, false], 25),
        (r#"{"sub": "user_ada", "v": 2, "o": null}"#, [true, false], 25),
        (r#"{"sub": "user_other"}"#, [false, false], 0),
        (r#"{"sub": "user_other", "v": 2, "o": {"id": "org_acme"}}"#, [false, true], 2),
        // No token, no user, a pending session, and claims of another form.
        ("", [false, false], 0),
        ("{}", [false, false], 0),
        ("null", [false, false], 0),
        (r#"{"v": 2, "o": {"id": "org_acme"}}"#, [false, false], 0),
        (r#"{"sub": "user_ada", "sts": "pending"}"#, [false, false], 0),
        (r#"{"sub": "org_acme"}"#, [false, false], 0),
        (r#"{"sub": ["user_ada"]}"#, [false, false], 0),
        (r#"{"sub": "user_ada' or true --"}"#, [false, false], 0),
        (r#"{"sub": "user_ada", "v": 2, "o": "org_acme"}"#, [false, false], 0),
        (r#"{"sub": "user_ada", "v": 2, "o": {"id": ["org_acme"]}}"#, [false, false], 0),
        (r#"{"sub": "user_ada", "org_id": "user_ada"}"#, [false, false], 0),
    ] {
        for role in ["anon", "authenticated", "service_role"] {
            let query = "select array[entitlements.session_has_feature('export'), entitlements.session_has_feature('sso')]";
            let has: Vec<bool> = as_session(&mut db, role, claims, query).await.unwrap();
            assert_eq!(has, [export, sso], "{role}: {claims}");
            let query = "select entitlements.session_limit_of('projects')";
            let limit: i64 = as_session(&mut db, role, claims, query).await.unwrap();
            assert_eq!(limit, projects, "{role}: {claims}");
        }
    }
    project.stop().await;
}

#[tokio::test]
async fn roles_get_the_rights_to_ask_and_no_others() {
    let project = Project::start().await;
    let mut db = project.postgres.db().await;
    let sessions = [
        "execute on function entitlements.session_has_feature(text)",
        "execute on function entitlements.session_limit_of(text)",
        "usage on schema entitlements",
    ];
    let anybody = [
        "execute on function entitlements.check_feature(text,text,text,timestamp with time zone)",
        "execute on function entitlements.has_feature(text,text,text)",
        "execute on function entitlements.limit_of(text,text,text)",
        "execute on function entitlements.require_room(text,bigint,text,text)",
        "execute on function entitlements.session_has_feature(text)",
        "execute on function entitlements.session_limit_of(text)",
        "select on table entitlements.entitlement",
        "usage on schema entitlements",
    ];
    assert_eq!(held(&mut db, "anon").await, sessions);
    assert_eq!(held(&mut db, "authenticated").await, sessions);
    assert_eq!(held(&mut db, "service_role").await, anybody);
    assert_eq!(held(&mut db, "stranger").await, [""; 0]);
    let askers = ["anon", "authenticated", "service_role"].map(String::from).to_vec();
    let clean = OtherRoles { askers, ..OtherRoles::default() };
    assert_eq!(project.store.other_roles().await.unwrap(), clean);
    for (right, role) in [
        ("execute on function entitlements.has_feature", "authenticated"),
        ("execute on function entitlements.check_feature", "anon"),
        ("execute on function entitlements.session_has_feature", "public"),
        ("select on table entitlements.entitlement", "anon"),
        ("select on table entitlements.item", "service_role"),
        ("execute on function entitlements.decide", "service_role"),
    ] {
        run(&mut db, &format!("grant {right} to {role}")).await;
        let found = project.store.other_roles().await.unwrap();
        let [stranger] = &*found.strangers else { panic!("{right} to {role}: {found:?}") };
        assert_eq!((&*stranger.role, stranger.is_exposed), (role, role != "service_role"));
        let [revoke] = &*stranger.revokes else { panic!("{stranger:?}") };
        run(&mut db, revoke).await;
        assert_eq!(project.store.other_roles().await.unwrap(), clean, "{revoke}");
    }
    let reads = [
        "select entitlements.has_feature('export', 'user_ada')",
        "select count(*) from entitlements.item",
    ];
    for query in reads {
        let refused = as_session::<bool>(&mut db, "authenticated", "", query).await.unwrap_err();
        assert!(refused.contains("permission denied"), "{refused}");
    }
    // As a restored dump without privileges has it.
    run(&mut db, "grant execute on all functions in schema entitlements to public").await;
    project.grant().await;
    assert_eq!(project.store.other_roles().await.unwrap(), clean);
    let query = "select entitlements.has_feature('export', 'user_ada')";
    assert_eq!(as_session(&mut db, "service_role", "", query).await, Ok(true));
    let query = "select string_agg(subject || ' ' || feature, ', ' order by subject, feature) from entitlements.entitlement";
    let listed: String = as_session(&mut db, "service_role", "", query).await.unwrap();
    assert_eq!(listed, "org_acme projects, org_acme sso, user_ada export, user_ada projects");
    project.stop().await;
}

#[tokio::test]
async fn migrate_writes_the_catalog_in_force_as_rows_if_they_are_missing() {
    let project = Project::start().await;
    let mut db = project.postgres.db().await;
    let query = "select entitlements.has_feature('export', 'user_ada')";
    run(
        &mut db,
        "delete from entitlements.catalog_in_force; delete from entitlements.catalog_feature;
         delete from entitlements.catalog_plan",
    )
    .await;
    assert_eq!(as_session(&mut db, "service_role", "", query).await, Ok(false));
    project.grant().await;
    assert_eq!(as_session(&mut db, "service_role", "", query).await, Ok(true));
    project.stop().await;
}

#[tokio::test]
async fn a_policy_decides_once_for_a_statement() {
    let project = Project::start().await;
    let mut db = project.connect().await;
    run(
        &mut db,
        "create table app.export (id integer);
         insert into app.export select generate_series(1, 1000);
         alter table app.export enable row level security;
         create policy \"exports need the feature\" on app.export for select to authenticated
            using ((select entitlements.session_has_feature('export')));
         grant usage on schema app to authenticated;
         grant select on app.export to authenticated",
    )
    .await;
    let mut db = project.postgres.db().await;
    for (claims, rows) in
        [(r#"{"sub": "user_ada"}"#, 1_000i64), (r#"{"sub": "user_other"}"#, 0), ("", 0)]
    {
        let count =
            as_session(&mut db, "authenticated", claims, "select count(*) from app.export").await;
        assert_eq!(count, Ok(rows), "{claims}");
    }
    let plan: serde_json::Value = as_session(
        &mut db,
        "authenticated",
        r#"{"sub": "user_ada"}"#,
        "explain (analyze, format json) select * from app.export",
    )
    .await
    .unwrap();
    let parts = plan[0]["Plan"]["Plans"].as_array().unwrap();
    let [part] = &**parts else { panic!("{plan}") };
    assert_eq!(
        (&part["Parent Relationship"], &part["Actual Loops"]),
        (&"InitPlan".into(), &1.into()),
        "{plan}"
    );
    project.stop().await;
}

#[tokio::test]
async fn a_malformed_question_is_an_error() {
    let project = Project::start().await;
    let mut db = project.connect().await;
    run(
        &mut db,
        "insert into entitlements.override (id, subject, feature, effect, expires_at, permanent, owner, reason, reference,
            set_by, on_behalf_of, set_at, revision)
         values (gen_random_uuid(), 'user_ada', 'beta', 'grant', null, true, 'o', 'r', '', 's', '', now(), 1)",
    )
    .await;
    for (call, words) in [
        ("has_feature(null, 'user_ada')", "feature: must be a slug"),
        ("has_feature('', 'user_ada')", "feature: must be a slug"),
        ("limit_of('org:', 'user_ada')", "feature: must be a slug"),
        ("require_room(null, 0, 'user_ada')", "feature: must be a slug"),
        ("has_feature(E'a\\nb', 'user_ada')", "feature: must be a slug"),
        ("has_feature('export')", "at least one is required"),
        ("has_feature('export', 'org_acme')", "user_id: must be"),
        ("has_feature('export', E'user_ada\\n')", "user_id: must be"),
        ("has_feature('export', 'user_ada', '')", "organization_id: must be"),
        ("check_feature('export', 'user_ada', at => null)", "at: must be"),
        ("check_feature('export', 'user_ada', at => 'infinity')", "at: must be"),
        ("check_feature('export', 'user_ada', at => '0044-03-15 BC')", "at: must be"),
    ] {
        let query = AssertSqlSafe(format!("select entitlements.{call}"));
        let error = sqlx::raw_sql(query).execute(&mut db).await.expect_err(call);
        let error = error.as_database_error().unwrap();
        assert_eq!(error.code().unwrap(), "22023", "{call}: {error}");
        assert!(error.message().contains(words), "{call}: {error}");
    }
    project.stop().await;
}

#[tokio::test]
async fn columns_of_any_collation_can_be_asked_about() {
    let project = Project::start().await;
    let mut db = project.connect().await;
    run(
        &mut db,
        "create table app.member (id text collate \"POSIX\", organization text collate \"POSIX\", feature text);
         insert into app.member values ('user_ada', 'org_acme', 'sso')",
    )
    .await;
    let query = "select entitlements.has_feature(feature, id, organization)
        and entitlements.has_feature(feature, organization_id => organization)
        and (select allowed from entitlements.check_feature('export', id)) from app.member";
    let allowed: bool = sqlx::query_scalar(query).fetch_one(&mut db).await.unwrap();
    assert!(allowed);
    project.stop().await;
}
