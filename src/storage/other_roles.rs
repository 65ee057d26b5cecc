//! Roles other than the owner and the role of this connection that have rights on the objects in the schema
//! `entitlements`, for `doctor`.

use super::{
    Store, StoreError,
    rights::{Exposure, HeldRight, Right, WEB_ROLES, grants, required, statements},
    sql_rights,
};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// The roles that have rights on our objects. Owners, their members, superusers and the role of this connection are
/// left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherRoles {
    /// Roles that have the rights that `serve` needs, so a service may use them.
    pub services: Vec<String>,
    /// Roles that may ask in SQL: those that act for web pages only about their session, others about anybody.
    pub askers: Vec<String>,
    /// Roles with rights beyond those: all other roles, and the ones above with more rights.
    pub strangers: Vec<Stranger>,
}

/// A role that has rights on our objects beyond those of a service and those to ask in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The role, quoted where needed; `public`: every role.
    pub role: String,
    /// Whether the rights are those of everybody, or of everybody who can open a web page, by Supabase's API.
    pub is_exposed: bool,
    /// The statements that revoke the rights.
    pub revokes: Vec<String>,
}

impl Store {
    /// Lists the roles that have rights on our objects: by a grant, by membership in a role that has them, or by one of
    /// Postgres's roles for reading and writing all tables.
    pub async fn other_roles(&self) -> Result<OtherRoles, StoreError> {
        self.background.run(other_roles).await
    }
}

/// The rights of one role.
struct RoleRights {
    rights: BTreeSet<Right>,
    is_trusted: bool,
    exposure: Exposure,
}

async fn other_roles(db: &mut PgConnection) -> Result<OtherRoles, StoreError> {
    let required = required();
    let mut found = OtherRoles::default();
    for (role, RoleRights { mut rights, is_trusted, mut exposure }) in
        held(grants(db, false).await?)
    {
        let is_direct = exposure == Exposure::Direct;
        if is_trusted && !is_direct {
            continue;
        }
        let is_service = rights.is_superset(&required) && !is_direct;
        if sql_rights::take(&mut rights, &role, exposure) {
            found.askers.push(role.clone());
        }
        if is_service {
            rights.retain(|right| !required.contains(right));
            exposure = Exposure::None; // the members of this role are listed by themselves
            found.services.push(role.clone());
        }
        let revokes = statements(&rights, "revoke", "from", &role);
        if !revokes.is_empty() {
            let is_exposed = exposure != Exposure::None;
            found.strangers.push(Stranger { role, is_exposed, revokes });
        }
    }
    let members = members(db, &found.services).await?;
    found.strangers.extend(members);
    Ok(found)
}

/// Collects the rights of each role.
fn held(grants: Vec<HeldRight>) -> BTreeMap<String, RoleRights> {
    let mut by_role: BTreeMap<String, RoleRights> = BTreeMap::new();
    for HeldRight { role, right, is_trusted, exposure, .. } in grants {
        let held = by_role.entry(role).or_insert(RoleRights {
            rights: BTreeSet::new(),
            is_trusted,
            exposure,
        });
        held.is_trusted &= is_trusted;
        held.rights.insert(right);
    }
    by_role
}

/// The members of these roles, of the role of this connection, and of Postgres's roles for reading and writing all
/// tables. Of the members of the owner, only those that act for web pages count.
async fn members(db: &mut PgConnection, of: &[String]) -> Result<Vec<Stranger>, StoreError> {
    let members = sqlx::query!(
        r#"
        with owner as (
            select nspowner as oid from pg_catalog.pg_namespace where nspname = 'entitlements'
        ), holder as (
            select oid, false as is_owner from pg_catalog.pg_roles
            where not rolsuper and (
                rolname in ('pg_read_all_data', 'pg_write_all_data') or rolname = current_user
                    or pg_catalog.quote_ident(rolname::text) = any ($1::text[])
            )
            union all
            select oid, true from owner
        ), membership as (
            select member.rolname::text as member, role.rolname::text as role, role.oid as role_oid,
                role.rolsuper as is_super,
                member.rolname::text = any ($2::text[]) as is_exposed,
                member.rolsuper or member.rolname = current_user or exists (
                    select from owner where pg_catalog.pg_has_role(member.oid, owner.oid, 'usage')
                ) as is_trusted
            from pg_catalog.pg_auth_members m
            join pg_catalog.pg_roles member on member.oid = m.member
            join pg_catalog.pg_roles role on role.oid = m.roleid
            where role.rolname::text <> all ($2::text[])
        )
        select distinct pg_catalog.quote_ident(member) as "member!",
            pg_catalog.quote_ident(role) as "role!", is_exposed as "is_exposed!"
        from membership
        where exists (select from owner)
            and (is_exposed or not is_trusted and not is_super)
            and exists (
                select from holder
                where (is_exposed or not is_owner)
                    and pg_catalog.pg_has_role(membership.role_oid, holder.oid, 'member')
            )
        order by 1, 2
        "#,
        of,
        &WEB_ROLES.map(String::from),
    );
    let members = members.fetch_all(db).await?.into_iter().map(|row| Stranger {
        revokes: vec![format!("revoke {} from {}", row.role, row.member)],
        role: row.member,
        is_exposed: row.is_exposed,
    });
    Ok(members.collect())
}
