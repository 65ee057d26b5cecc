-- What comparing with Clerk's Backend API needs.

alter table subject
    -- When it was last compared with what Clerk's Backend API says.
    add column reconciled_at timestamptz;

alter table change
    -- The subject's revision since: who knows it, or a later one, need not read it again.
    add column revision bigint;

alter table delivery
    -- The Clerk instance that sent it, as the body says.
    add column instance text;

-- What a file says and what Clerk says are kept apart, so that either can change without the other; of a plan
-- that both have, the file's counts.
alter table catalog rename column content to file;
alter table catalog
    alter column file drop not null,
    add column clerk text,
    drop column content_sha256;

-- The items and deliveries that look as if a delivery was lost are found without reading the others.
create index item_ends on item (period_end) where status = 'active' and canceled_at is null;
create index item_begins on item (period_start) where status = 'upcoming';
create index item_plan on item (plan, subject) where status = 'active';
drop index delivery_parked;
create index delivery_parked on delivery (subject) where result = 'parked';

-- The backfill: all subscriptions are taken over from Clerk once. It has one row from the moment it is begun.
create table backfill (
    singleton boolean primary key default true check (singleton),
    -- Until when the replica that works on it has it for itself; it moves this on while it works.
    claimed_until timestamptz not null,
    done_at timestamptz
);

-- Which history of the database this is: the cluster and its timeline, which a promotion moves on. Where a managed
-- Postgres refuses to tell them (Aurora does), a restart of the server counts as another history. A standby has none:
-- what it tells may be older than what a replica has heard already.
create function history() returns text language plpgsql stable as $$
begin
    if pg_is_in_recovery() then
        raise exception 'this server is a standby: DATABASE_URL must lead to the primary'
            using errcode = 'read_only_sql_transaction';
    end if;
    return (select system_identifier from pg_control_system())
        || '.' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
exception when object_not_in_prerequisite_state or feature_not_supported or insufficient_privilege then
    return coalesce(host(inet_server_addr()), 'local') || '.' || extract(epoch from pg_postmaster_start_time());
end
$$;
