//! Rights on the objects in the schema `entitlements`: those that `serve` needs, and those that other roles have.

use super::{Store, StoreError};
use sqlx::{AssertSqlSafe, PgConnection, postgres::types::Oid};
use std::collections::{BTreeMap, BTreeSet};

/// The rights that `serve` needs, by object. Locking rows or the catalog requires `update`.
const REQUIRED: [(&str, &[&str]); 19] = [
    ("schema entitlements", &["usage"]),
    ("function entitlements.history()", &["execute"]),
    ("table entitlements._sqlx_migrations", &["select"]),
    ("table entitlements.backfill", &["select", "insert", "update"]),
    ("table entitlements.catalog_feature", &["insert", "delete"]),
    ("table entitlements.catalog_in_force", &["select", "insert", "delete"]),
    ("table entitlements.catalog_plan", &["insert", "delete"]),
    ("table entitlements.catalog_version", &["select", "insert", "update"]),
    ("table entitlements.change_log", &["select", "insert", "update", "delete"]),
    ("table entitlements.deletion_lock", &["select", "update"]),
    ("table entitlements.delivery", &["select", "insert", "update"]),
    ("table entitlements.failed_payment", &["select", "insert", "update", "delete"]),
    ("table entitlements.history_retention", &["select", "update"]),
    ("table entitlements.item", &["select", "insert", "update", "delete"]),
    ("table entitlements.observation", &["select", "insert", "delete"]),
    ("table entitlements.override", &["select", "insert", "update", "delete"]),
    ("table entitlements.plan_name", &["select", "insert"]),
    ("table entitlements.snapshot", &["select", "insert", "update", "delete"]),
    ("table entitlements.subject", &["select", "insert", "update"]),
];

/// A right on an object, such as `select` on `table entitlements.item`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    object: String,
    name: String,
}

impl Right {
    pub(super) fn is_on(&self, object: &str) -> bool {
        self.object == object
    }
}

/// A right that a role has on one of our objects, other than the rights of the object's owner.
#[derive(Debug)]
pub(super) struct HeldRight {
    /// The role, quoted where needed; `public`: every role.
    pub(super) role: String,
    pub(super) right: Right,
    oid: Oid,
    /// Whether the role is a superuser, has the rights of the owner, or is the role of this connection.
    pub(super) is_trusted: bool,
    pub(super) exposure: Exposure,
}

/// Whether a role's rights are the rights of everybody, or of everybody who can open a web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exposure {
    /// They are not.
    None,
    /// `anon` or `authenticated` is a member of the role.
    Inherited,
    /// The role is `public`, `anon` or `authenticated`. Supabase's API acts as the latter two for web pages.
    Direct,
}

/// The roles as which Supabase's API acts for web pages.
pub(super) const WEB_ROLES: [&str; 2] = ["anon", "authenticated"];

impl Store {
    /// The statements that give the role of this connection the rights that `serve` requires and the role lacks, on objects
    /// that exist; empty: nothing is missing.
    pub async fn missing_rights(&self) -> Result<Vec<String>, StoreError> {
        self.background.run(missing_statements).await
    }

    /// Whether connections can only read: on a standby, or by `default_transaction_read_only` of the role or the database.
    pub async fn is_read_only(&self) -> Result<bool, StoreError> {
        self.background.run(is_read_only).await
    }
}

async fn is_read_only(db: &mut PgConnection) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"select pg_catalog.current_setting('transaction_read_only')::boolean as "is_read_only!""#
    );
    Ok(found.fetch_one(db).await?)
}

/// The rights that `serve` needs.
pub(super) fn required() -> BTreeSet<Right> {
    listed(&REQUIRED)
}

/// The rights of a list.
pub(super) fn listed(list: &[(&str, &[&str])]) -> BTreeSet<Right> {
    let rights = list.iter().flat_map(|(object, names)| {
        names.iter().map(|name| Right { object: (*object).into(), name: (*name).into() })
    });
    rights.collect()
}

async fn missing_statements(db: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let role = sqlx::query_scalar!(r#"select current_user::text as "role!""#);
    let role = role.fetch_one(&mut *db).await?;
    let missing = missing(db).await?.into_iter().collect();
    Ok(statements(&missing, "grant", "to", &quoted(&role)))
}

/// Gives a role the rights that `serve` needs.
pub(super) async fn grant(db: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    execute(db, &required(), "grant", "to", &quoted(role)).await
}

/// Grants or revokes rights.
pub(super) async fn execute(
    db: &mut PgConnection,
    rights: &BTreeSet<Right>,
    verb: &str,
    preposition: &str,
    role: &str,
) -> Result<(), sqlx::Error> {
    for statement in statements(rights, verb, preposition, role) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *db).await?;
    }
    Ok(())
}

/// Revokes the rights of other roles on our objects, such as those that default privileges of the database give, except
/// on some objects.
pub(super) async fn revoke(db: &mut PgConnection, except: &[Oid]) -> Result<(), sqlx::Error> {
    let mut by_role: BTreeMap<String, BTreeSet<Right>> = BTreeMap::new();
    for grant in grants(db, true).await?.into_iter().filter(|grant| !except.contains(&grant.oid)) {
        by_role.entry(grant.role).or_default().insert(grant.right);
    }
    for (role, rights) in by_role {
        execute(db, &rights, "revoke", "from", &role).await?;
    }
    Ok(())
}

/// Statements that grant or revoke rights. Objects of one kind on which the same rights are named share a statement.
pub(super) fn statements(
    rights: &BTreeSet<Right>,
    verb: &str,
    preposition: &str,
    role: &str,
) -> Vec<String> {
    let mut by_object: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Right { object, name } in rights {
        by_object.entry(object).or_default().push(name);
    }
    let mut by_rights: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for (object, names) in by_object {
        let (kind, object) = object.split_once(' ').unwrap_or_default();
        by_rights.entry((kind, names.join(", "))).or_default().push(object);
    }
    let statement = |((kind, names), objects): (_, Vec<&str>)| {
        format!("{verb} {names} on {kind} {} {preposition} {role}", objects.join(", "))
    };
    by_rights.into_iter().map(statement).collect()
}

/// A name as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The rights that `serve` needs and the role of this connection lacks, on objects that exist.
async fn missing(db: &mut PgConnection) -> Result<Vec<Right>, StoreError> {
    let (objects, names): (Vec<_>, Vec<_>) =
        required().into_iter().map(|right| (right.object, right.name)).unzip();
    let missing = sqlx::query_as!(
        Right,
        r#"
        with ours as (
            select oid from pg_catalog.pg_namespace where nspname = 'entitlements'
        ), object as (
            select 'schema' as kind, 'schema entitlements' as name, oid from ours
            union all
            select 'table', pg_catalog.format('table entitlements.%I', relname), oid
            from pg_catalog.pg_class where relnamespace in (select oid from ours)
            union all
            select 'function', pg_catalog.format('function entitlements.%I()', proname), oid
            from pg_catalog.pg_proc where pronamespace in (select oid from ours)
        )
        select object.name as "object!", required.name as "name!"
        from rows from (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) as required (object, name)
        join object on object.name = required.object
        where not case object.kind
            when 'schema' then pg_catalog.has_schema_privilege(object.oid, required.name)
            when 'table' then pg_catalog.has_table_privilege(object.oid, required.name)
            else pg_catalog.has_function_privilege(object.oid, required.name)
        end
        "#,
        &objects,
        &names,
    );
    Ok(missing.fetch_all(db).await?)
}

/// The oids of all our objects.
pub(super) async fn objects(db: &mut PgConnection) -> Result<Vec<Oid>, sqlx::Error> {
    let objects = sqlx::query_scalar!(
        r#"
        with ours as (
            select oid from pg_catalog.pg_namespace where nspname = 'entitlements'
        )
        select oid as "oid!" from ours
        union all
        select oid from pg_catalog.pg_class where relnamespace in (select oid from ours)
        union all
        select oid from pg_catalog.pg_proc where pronamespace in (select oid from ours)
        union all
        select oid from pg_catalog.pg_type where typnamespace in (select oid from ours)
        "#
    );
    objects.fetch_all(db).await
}

/// The rights on our objects, other than those of their owners. A table's row type also has rights, which allow nothing
/// without a right on the schema, and which a dump does not contain; they are listed on request. Arrays have none.
pub(super) async fn grants(
    db: &mut PgConnection,
    with_row_types: bool,
) -> Result<Vec<HeldRight>, sqlx::Error> {
    let grants = sqlx::query!(
        r#"
        with ours as (
            select * from pg_catalog.pg_namespace where nspname = 'entitlements'
        ), object (oid, owner, name, part, acl) as (
            select oid, nspowner, 'schema entitlements', '',
                coalesce(nspacl, pg_catalog.acldefault('n', nspowner))
            from ours
            union all
            select oid, relowner,
                case relkind when 'S' then pg_catalog.format('sequence entitlements.%I', relname)
                    else pg_catalog.format('table entitlements.%I', relname) end,
                '',
                coalesce(relacl, case relkind when 'S' then pg_catalog.acldefault('s', relowner)
                    else pg_catalog.acldefault('r', relowner) end)
            from pg_catalog.pg_class
            where relnamespace in (select oid from ours) and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
            union all
            select c.oid, c.relowner, pg_catalog.format('table entitlements.%I', c.relname),
                pg_catalog.format(' (%I)', a.attname), a.attacl
            from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
            where c.relnamespace in (select oid from ours) and not a.attisdropped
            union all
            select oid, proowner,
                pg_catalog.format('function entitlements.%I(%s)', proname,
                    pg_catalog.pg_get_function_identity_arguments(oid)),
                '', coalesce(proacl, pg_catalog.acldefault('f', proowner))
            from pg_catalog.pg_proc where pronamespace in (select oid from ours)
            union all
            select oid, typowner, pg_catalog.format('type entitlements.%I', typname), '',
                coalesce(typacl, pg_catalog.acldefault('T', typowner))
            from pg_catalog.pg_type
            where typnamespace in (select oid from ours)
                and (typtype in ('d', 'e', 'r') or typtype = 'c' and ($1 or exists (
                    select from pg_catalog.pg_class c where c.oid = typrelid and c.relkind = 'c'
                )))
        )
        select object.oid as "oid!", object.name as "object!",
            pg_catalog.format('%s%s', pg_catalog.lower(acl.privilege_type), part) as "name!",
            coalesce(pg_catalog.quote_ident(role.rolname::text), 'public') as "role!",
            coalesce(role.rolsuper or role.rolname = current_user
                or pg_catalog.pg_has_role(role.oid, object.owner, 'usage'), false) as "is_trusted!",
            role.oid is null or role.rolname::text = any ($2::text[]) as "is_direct!",
            exists (
                select from pg_catalog.pg_roles web
                where web.rolname::text = any ($2::text[])
                    and pg_catalog.pg_has_role(web.oid, role.oid, 'member')
            ) as "is_inherited!"
        from object
        cross join lateral pg_catalog.aclexplode(object.acl) as acl
        left join pg_catalog.pg_roles role on role.oid = acl.grantee
        where acl.grantee <> object.owner
        "#,
        with_row_types,
        &WEB_ROLES.map(String::from),
    );
    let grants = grants.fetch_all(db).await?.into_iter().map(|row| HeldRight {
        role: row.role,
        right: Right { object: row.object, name: row.name },
        oid: row.oid,
        is_trusted: row.is_trusted,
        exposure: match (row.is_direct, row.is_inherited) {
            (true, _) => Exposure::Direct,
            (false, true) => Exposure::Inherited,
            (false, false) => Exposure::None,
        },
    });
    Ok(grants.collect())
}
