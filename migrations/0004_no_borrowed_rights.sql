-- What another role of the database cannot take over or block.

-- A function is run with the rights of its caller, and finds what it calls by the caller's search_path: this one calls what
-- is of Postgres, whatever stands in other schemas.
create or replace function history() returns text language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_catalog.pg_is_in_recovery() then
        raise exception 'this server is a standby: DATABASE_URL must lead to the primary'
            using errcode = 'read_only_sql_transaction';
    end if;
    return (select system_identifier::text from pg_catalog.pg_control_system())
        || '.' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8);
exception when object_not_in_prerequisite_state or feature_not_supported or insufficient_privilege then
    return coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), 'local')
        || '.' || extract(epoch from pg_catalog.pg_postmaster_start_time())::text;
end
$$;

-- Who enters a delivery about a subject that may be unknown shares the lock of the row that the subject's id falls on; a
-- deletion has it for itself. Any role can take an advisory lock, and only one with rights on the table can take this.
create table deletion_lock (
    slot bigint primary key check (slot between 0 and 1023)
);

insert into deletion_lock (slot) select slot from pg_catalog.generate_series(0, 1023) as slot;
