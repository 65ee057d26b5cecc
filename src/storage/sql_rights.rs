//! Rights to ask in SQL: which functions, and the view, a role may be given.

use super::rights::{self, Exposure, Right};
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// The rights of a role that acts for the session of a web page: it can ask only about the verified claims of its session.
const FOR_SESSIONS: [(&str, &[&str]); 3] = [
    (SCHEMA, &["usage"]),
    ("function entitlements.session_has_feature(feature text)", &["execute"]),
    ("function entitlements.session_limit_of(feature text)", &["execute"]),
];

/// The further rights of a role that asks about anybody.
const FOR_ANYBODY: [(&str, &[&str]); 5] = [
    (
        "function entitlements.check_feature(feature text, user_id text, organization_id text, \
         at timestamp with time zone)",
        &["execute"],
    ),
    (
        "function entitlements.has_feature(feature text, user_id text, organization_id text)",
        &["execute"],
    ),
    (
        "function entitlements.limit_of(feature text, user_id text, organization_id text)",
        &["execute"],
    ),
    (
        "function entitlements.require_room(feature text, current_count bigint, user_id text, organization_id text)",
        &["execute"],
    ),
    ("table entitlements.entitlement", &["select"]),
];

const SCHEMA: &str = "schema entitlements";

/// Gives a role the rights to ask in SQL: one of Supabase's web roles, or a role of which one is a member, about its
/// session; any other role about anybody.
/// Everybody loses the right that a restored dump without privileges gives on every function.
pub(super) async fn grant(db: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let revoke = "revoke all on all functions in schema entitlements from public";
    sqlx::raw_sql(revoke).execute(&mut *db).await?;
    let acts_for_pages = "select exists (
        select from pg_catalog.pg_roles web
        where web.rolname::text = any ($1::text[]) and pg_catalog.pg_has_role(web.oid, $2::name, 'member')
    )";
    let acts_for_pages = sqlx::query_scalar(acts_for_pages).bind(rights::WEB_ROLES).bind(role);
    let acts_for_pages = acts_for_pages.fetch_one(&mut *db).await?;
    rights::execute(db, &grantable(acts_for_pages), "grant", "to", &rights::quoted(role)).await
}

/// Takes from a role's rights those that it may have to ask in SQL; returns whether it may ask anything. Everybody, the
/// role `public`, may not.
pub(super) fn take(held: &mut BTreeSet<Right>, role: &str, exposure: Exposure) -> bool {
    let grantable = grantable(exposure != Exposure::None);
    let asks = |right: &Right| grantable.contains(right) && !right.is_on(SCHEMA);
    let may_ask = role != "public" && held.iter().any(asks);
    if may_ask {
        held.retain(|right| !grantable.contains(right));
    }
    may_ask
}

/// The rights that a role can be given.
fn grantable(acts_for_pages: bool) -> BTreeSet<Right> {
    let mut rights = rights::listed(&FOR_SESSIONS);
    if !acts_for_pages {
        rights.extend(rights::listed(&FOR_ANYBODY));
    }
    rights
}
