-- The decision in SQL: the answer of `CheckFeature`, in the caller's own snapshot. `decide` is the one rule; the functions
-- around it read its arguments from the caller or from the claims of a session. It is compared with the Rust core on
-- generated accounts, catalogs and overrides, in every field.
--
-- No function can be called by any role but the owner, until `migrate --grant-sql-to` grants it. A later migration may
-- replace a function, but never drops one or changes its arguments: policies of the application depend on them.

-- The catalog in force, as rows. They are written in the transaction that puts a version in force.
create table entitlements.catalog_in_force (
    singleton boolean primary key default true check (singleton),
    number bigint not null,
    names bigint not null,
    past_due_ms bigint,
    renewal_ms bigint,
    trial_ms bigint not null
);
comment on table entitlements.catalog_in_force is 'One row: the catalog in force, and its grace periods. No row: there is no catalog.';
comment on column entitlements.catalog_in_force.singleton is 'Allows one row only.';
comment on column entitlements.catalog_in_force.number is 'The number of the version in force.';
comment on column entitlements.catalog_in_force.names is 'The number of known pairs of plan id and slug.';
comment on column entitlements.catalog_in_force.past_due_ms is
    'The grace after a failed payment, in milliseconds. Null: until Clerk ends the subscription.';
comment on column entitlements.catalog_in_force.renewal_ms is
    'The grace after the end of a period without a renewal, in milliseconds. Null: until Clerk ends the subscription.';
comment on column entitlements.catalog_in_force.trial_ms is 'The grace after the end of a free trial, in milliseconds.';

create table entitlements.catalog_feature (
    kind text not null,
    plan text collate "C" not null,
    feature text collate "C" not null,
    "limit" bigint,
    primary key (feature, kind, plan)
);
comment on table entitlements.catalog_feature is 'The features of each plan of the catalog in force.';
comment on column entitlements.catalog_feature.kind is 'The kind of subject that can have the plan: user or organization.';
comment on column entitlements.catalog_feature.plan is 'The slug of the plan.';
comment on column entitlements.catalog_feature.feature is 'The slug of the feature.';
comment on column entitlements.catalog_feature."limit" is 'The limit of the feature. Null: no limit.';

create table entitlements.catalog_plan (
    kind text not null,
    name text collate "C" not null,
    rule smallint not null,
    plan text collate "C" not null,
    primary key (kind, name, rule)
);
comment on table entitlements.catalog_plan is
    'The names by which a plan of the catalog in force is found. Of several matches, the lowest rule counts.';
comment on column entitlements.catalog_plan.kind is 'The kind of subject that can have the plan: user or organization.';
comment on column entitlements.catalog_plan.name is 'The id or the slug that an item has; for rule 0, empty.';
comment on column entitlements.catalog_plan.rule is
    '0: the default plan. 1: an id that the catalog states. 2: the slug. 3: an id that occurred with the slug in events. '
    '4: a slug that the plan had before it was renamed.';
comment on column entitlements.catalog_plan.plan is 'The slug of the plan.';

create table entitlements.room_lock (
    subject text collate "C" primary key
);
comment on table entitlements.room_lock is
    'The rows that require_room locks. They are not those of subject, for whose locks deliveries would wait.';
comment on column entitlements.room_lock.subject is 'The id of the subject.';

-- The answer at one instant, and the next instant at which it may change. `slug` has no scope; `wanted_kind` is the kind of
-- subject that the scope names, or null.
create function entitlements.decide(
    slug text, wanted_kind text, user_id text, organization_id text, at timestamptz
) returns table (allowed boolean, reason text, subject text, plan text, "limit" bigint, next_at timestamptz)
language plpgsql stable parallel safe
set plan_cache_mode = force_generic_plan -- planning takes longer than deciding
set jit = off
set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    -- In ascending order: of several reasons, the greatest is given.
    grants constant text[] := array['DEFAULT_PLAN', 'DEFAULT_FOR_UNKNOWN_PLAN', 'CANCELED_BUT_PAID', 'PAST_DUE_IN_GRACE',
        'RENEWAL_OVERDUE', 'TRIAL', 'PLAN', 'OVERRIDE_GRANTS'];
    denials constant text[] := array['NO_SUBSCRIPTION', 'NOT_IN_PLAN', 'ABANDONED', 'ENDED', 'PERIOD_OVER', 'TRIAL_OVER',
        'NOT_STARTED', 'CHECKOUT_INCOMPLETE', 'UNKNOWN_STATUS', 'UNKNOWN_PLAN', 'PAST_DUE', 'SUBJECT_DELETED',
        'UNKNOWN_FEATURE', 'OUT_OF_SCOPE', 'UNKNOWN_SCOPE', 'STALE', 'OVERRIDE_DENIES'];
begin
    return query
    with grace as (
        select c.past_due_ms, c.renewal_ms, coalesce(c.trial_ms, 259200000) as trial_ms
        from (select 1) as one left join entitlements.catalog_in_force c on true
    ), account as (
        select asked.id, asked.kind, asked.nth, s.deleted_at is not null as is_deleted,
            d.plan as default_plan, f.feature is not null as default_has_it, f."limit" as default_limit
        from (values (decide.user_id, 'user', 1), (decide.organization_id, 'organization', 2)) as asked (id, kind, nth)
        left join entitlements.subject s on s.id = asked.id
        left join entitlements.catalog_plan d on d.kind = asked.kind and d.name = '' and d.rule = 0
        left join entitlements.catalog_feature f
            on f.feature = decide.slug and f.kind = asked.kind and f.plan = d.plan
        where asked.id is not null and asked.kind = coalesce(decide.wanted_kind, asked.kind)
    ), observed as (
        select a.nth, a.kind, i.id, i.plan, i.plan_id, i.was_active, i.free_trial, i.period_start, i.period_end,
            i.last_period_end, i.canceled_at, i.updated_at,
            coalesce(
                (
                    select min(case when p.failed_at >= coalesce(i.paid_at, '-infinity')
                        then p.failed_at else p.updated_at end)
                    from entitlements.failed_payment p
                    where i.status in ('active', 'past_due') and p.subject = i.subject and p.item = i.id
                        and p.updated_at >= coalesce(i.paid_at, '-infinity')
                ),
                case when i.status = 'past_due' then i.past_due_at end
            ) as past_due_at,
            coalesce(
                not i.id = any (listing.item_ids)
                    and (i.updated_at, i.sent_at) <= (listing.updated_at, listing.sent_at),
                false
            ) as is_withdrawn,
            case
                when i.status = 'active' and whole.canceled
                    and (i.updated_at, i.sent_at) <= (whole.updated_at, whole.sent_at)
                    and (listing.subject is null
                        or (listing.updated_at, listing.sent_at) <= (whole.updated_at, whole.sent_at))
                then 'canceled' else i.status
            end as status
        from account a
        join entitlements.item i on i.subject = a.id
        left join entitlements.snapshot listing on listing.subject = a.id and listing.has_items
        left join entitlements.snapshot whole on whole.subject = a.id and not whole.has_items
        where not a.is_deleted
    ), completed as (
        select o.*,
            not o.is_withdrawn and (o.status = 'canceled' or o.status = 'active' and o.canceled_at is not null)
                as is_canceled,
            coalesce(
                o.period_end,
                case when o.free_trial or o.canceled_at is not null or not o.is_withdrawn and o.status = 'canceled'
                    then o.last_period_end end
            ) as ends_at
        from observed o
    ), lasting as (
        select c.*,
            max(case
                when not c.was_active then null
                when c.is_withdrawn or c.status in ('active', 'canceled') then c.ends_at
                else c.updated_at
            end) over (partition by c.nth) as lasted
        from completed c
    ), dated as (
        select l.*, coalesce(l.past_due_at, l.updated_at) as failed_at,
            coalesce(l.ends_at + g.trial_ms * interval '1 millisecond', 'infinity') as after_trial,
            coalesce(l.ends_at + g.renewal_ms * interval '1 millisecond', 'infinity') as after_renewal,
            coalesce(l.past_due_at + g.past_due_ms * interval '1 millisecond', 'infinity') as after_past_due,
            coalesce(coalesce(l.past_due_at, l.updated_at) + g.past_due_ms * interval '1 millisecond', 'infinity')
                as after_failure
        from lasting l cross join grace g
    ), bounded as (
        -- No answer can express a time after the year 9999.
        select d.*,
            case when d.after_trial < '10000-01-01 UTC' then d.after_trial else 'infinity' end as trial_until,
            case when d.after_renewal < '10000-01-01 UTC' then d.after_renewal else 'infinity' end as renewal_until,
            case when d.after_past_due < '10000-01-01 UTC' then d.after_past_due else 'infinity' end as unpaid_until,
            case when d.after_failure < '10000-01-01 UTC' then d.after_failure else 'infinity' end as failure_until
        from dated d
    ), claim as (
        -- `until`: the end of the grant; null: it grants nothing, for the reason `denial`. `granted`, and from `overdue_at`
        -- on `overdue`: the reasons to allow. `denial`: also the reason to deny after the end.
        select b.nth, b.kind, b.plan, b.plan_id, b.period_start, b.id, b.ends_at as overdue_at,
            case
                when b.is_canceled then b.ends_at
                when b.is_withdrawn then null
                when b.status = 'active' then least(
                    case when b.free_trial then b.trial_until else b.renewal_until end,
                    case when b.past_due_at is not null and b.ends_at is not null
                        then greatest(b.unpaid_until, b.ends_at) else 'infinity' end)
                when b.status = 'past_due' and not (not b.was_active and coalesce(b.lasted >= b.failed_at, false))
                    then b.failure_until
            end as until,
            case
                when b.is_canceled then 3
                when b.status = 'past_due' then 4
                when b.free_trial then 6
                else 7
            end as granted,
            case
                when b.is_canceled or b.status <> 'active' then null
                when b.past_due_at is not null then 4
                else 5
            end as overdue,
            case
                when b.is_canceled then 5
                when b.is_withdrawn then 4
                when b.status = 'active' and b.past_due_at is not null and b.ends_at is not null
                    and greatest(b.unpaid_until, b.ends_at)
                        < case when b.free_trial then b.trial_until else b.renewal_until end then 11
                when b.status = 'active' then case when b.free_trial then 6 else 5 end
                when b.status = 'past_due' then 11
                when b.status in ('ended', 'expired') then 4
                when b.status = 'abandoned' then 3
                when b.status = 'upcoming' then 7
                when b.status = 'incomplete' then 8
                else 9
            end as denial
        from bounded b
    ), held as (
        select c.nth, c.kind, row_number() over (partition by c.nth order by c.period_start desc nulls last, c.id) as seq,
            coalesce(c.until > decide.at, false) as is_live, c.until, c.denial,
            case when c.overdue is not null and c.overdue_at <= decide.at then c.overdue else c.granted end as granted,
            case when c.overdue is not null and c.overdue_at > decide.at then c.overdue_at end as overdue_at,
            found.plan is null as is_unknown, coalesce(found.plan, c.plan, c.plan_id) collate "C" as named,
            f.feature is not null as has_it, f."limit"
        from claim c
        left join lateral (
            select p.plan from entitlements.catalog_plan p
            where p.kind = c.kind
                and (p.rule in (1, 3) and p.name = c.plan_id or p.rule in (2, 4) and p.name = c.plan)
            order by p.rule limit 1
        ) as found on true
        left join entitlements.catalog_feature f
            on f.feature = decide.slug and f.kind = c.kind and f.plan = found.plan
    ), exception as (
        select a.nth, o.id, o.set_at, o.effect, o."limit", coalesce(o.expires_at, 'infinity') as until,
            o.feature is not null as is_of_feature, coalesce(found.plan, o.plan) collate "C" as named,
            found.plan is null as is_unknown, f.feature is not null as has_it, f."limit" as plan_limit
        from account a
        join entitlements.override o on o.subject = a.id
        left join lateral (
            select p.plan from entitlements.catalog_plan p
            where p.kind = a.kind and p.rule in (2, 4) and p.name = o.plan order by p.rule limit 1
        ) as found on true
        left join entitlements.catalog_feature f
            on f.feature = decide.slug and f.kind = a.kind and f.plan = found.plan
        where not a.is_deleted and o.ended_at is null and coalesce(o.feature = decide.slug, true)
            and coalesce(o.starts_at <= decide.at, true) and coalesce(o.expires_at > decide.at, true)
    ), live as (
        select h.nth from held h where h.is_live
        union
        select e.nth from exception e where not e.is_of_feature and e.effect = 'grant' and not e.is_unknown
    ), candidate (nth, seq, is_grant, code, until, plan, "limit", exact_at, exact_id) as (
        select a.nth, 0::bigint, false, 12, null::timestamptz, null::text, null::bigint, null::timestamptz, null::uuid
        from account a where a.is_deleted
        union all
        select e.nth, 0, false, 17, e.until, null, null, null, null
        from exception e where e.effect = 'deny' and (e.is_of_feature or e.has_it)
        union all
        select e.nth, 0, true, 8, e.until, case when not e.is_of_feature then e.named end,
            case when e.is_of_feature then e."limit" else e.plan_limit end,
            case when e.effect = 'exactly' then e.set_at end, case when e.effect = 'exactly' then e.id end
        from exception e where e.effect <> 'deny' and (e.is_of_feature or e.has_it)
        union all
        select e.nth, 0, false, 10, null, e.named, null, null, null
        from exception e where e.effect = 'grant' and not e.is_of_feature and e.is_unknown
        union all
        select h.nth, h.seq, true, h.granted, h.until, h.named, h."limit", null, null
        from held h where h.is_live and h.has_it
        union all
        select h.nth, h.seq, true, 2, h.until, a.default_plan, a.default_limit, null, null
        from held h join account a using (nth) where h.is_live and h.is_unknown and a.default_has_it
        union all
        select h.nth, h.seq, false, 10, null, h.named, null, null, null
        from held h join account a using (nth) where h.is_live and h.is_unknown and not a.default_has_it
        union all
        select h.nth, h.seq, false, h.denial, null, h.named, null, null, null
        from held h where not h.is_live and h.has_it
        union all
        select a.nth, 9223372036854775807, a.default_has_it and l.nth is null,
            case when l.nth is not null then 2 when a.default_has_it then 1 when a.default_plan is null then 1 else 2 end,
            'infinity', case when a.default_has_it and l.nth is null then a.default_plan end,
            case when a.default_has_it and l.nth is null then a.default_limit end, null, null
        from account a left join live l using (nth) where not a.is_deleted
    ), best as (
        select c.* from candidate c where c.is_grant
        order by c.code = 8 desc, c.until desc, c.code desc, c."limit" is null desc, c."limit" desc nulls last,
            c.plan collate "C" nulls first, c.nth limit 1
    ), exact as (
        select c.* from candidate c where c.exact_at is not null order by c.exact_at desc, c.exact_id desc limit 1
    ), reach as (
        select c."limit" from candidate c where c.is_grant
        order by c."limit" is null desc, c."limit" desc nulls last limit 1
    ), worst as (
        select c.* from candidate c where not c.is_grant order by c.code desc, c.nth, c.seq limit 1
    )
    select
        verdict.allowed,
        'REASON_' || case when verdict.allowed then grants[verdict.code] else denials[verdict.code] end,
        case verdict.nth when 1 then decide.user_id when 2 then decide.organization_id end,
        verdict.plan,
        verdict."limit",
        (
            select min(boundary.at) from (
                select h.until as at from held h where h.is_live and h.until < 'infinity'
                union all
                -- With the lesser reason, another of several grants may be the best.
                select h.overdue_at from held h where h.is_live and h.has_it
                union all
                select e.until from exception e where e.until < 'infinity'
                union all
                select o.starts_at from account a join entitlements.override o on o.subject = a.id
                where not a.is_deleted and o.ended_at is null and coalesce(o.feature = decide.slug, true)
                    and o.starts_at > decide.at
            ) as boundary
        )
    from (
        select 1 as place, false as allowed, w.code, w.nth, null::text as plan, null::bigint as "limit"
        from worst w where w.code = 17
        union all
        select 2, true, e.code, e.nth, e.plan, e."limit" from exact e
        union all
        select 3, true, b.code, b.nth, b.plan, r."limit" from best b cross join reach r
        union all
        select 4, false, w.code, w.nth, w.plan, null from worst w
        where w.code = 12 or exists (select from entitlements.catalog_feature f where f.feature = decide.slug)
        union all
        select 5, false, 13, null, null, null from worst w
        union all
        select 6, false, 14, null, null, null
    ) as verdict
    order by verdict.place limit 1;
end
$function$;
comment on function entitlements.decide is 'Decides at one instant. The rule behind all functions that can be granted.';

-- The parts of a question such as `org:sso`.
create function entitlements.scope_of(feature text, out slug text, out kind text, out is_known boolean)
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    colon integer := strpos(feature, ':');
    scope text := case when colon > 0 then left(feature, colon - 1) end;
begin
    slug := substr(feature, colon + 1);
    kind := case when scope in ('u', 'user') then 'user' when scope in ('o', 'org', 'organization') then 'organization' end;
    is_known := scope is null or kind is not null;
    if slug = '' or octet_length(slug) > 128 or slug ~ '[[:cntrl:]]' then
        raise exception 'feature: must be a slug: 1 to 128 bytes without control characters'
            using errcode = 'invalid_parameter_value';
    end if;
end
$function$;
comment on function entitlements.scope_of is 'Splits a question at its first colon into the kind of subject and the slug.';

-- Rejects what is not the id of a user or of an organization.
create function entitlements.check_ids(user_id text, organization_id text) returns void
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
begin
    if user_id is null and organization_id is null then
        raise exception 'user_id, organization_id: at least one is required' using errcode = 'invalid_parameter_value';
    elsif user_id !~ '^user_[A-Za-z0-9_-]{1,122}$' then
        raise exception 'user_id: must be a Clerk user id, user_…' using errcode = 'invalid_parameter_value';
    elsif organization_id !~ '^org_[A-Za-z0-9_-]{1,123}$' then
        raise exception 'organization_id: must be a Clerk organization id, org_…'
            using errcode = 'invalid_parameter_value';
    end if;
end
$function$;
comment on function entitlements.check_ids is 'Rejects ids of another form, and a question about nobody.';

-- The token of the state behind an answer, as all other interfaces of the service have it.
create function entitlements.revision_of(user_id text, organization_id text) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    token text := coalesce(
        (select c.number || '.' || c.names from entitlements.catalog_in_force c),
        '0.' || (select count(*) from entitlements.plan_name));
    asked text;
    hash numeric;
    low integer;
begin
    foreach asked in array array[user_id, organization_id] loop
        continue when asked is null;
        hash := 14695981039346656037; -- FNV-1a, 64 bits
        for nth in 1 .. octet_length(asked) loop
            low := (hash % 256)::integer;
            hash := ((hash - low + (low # get_byte(asked::bytea, nth - 1))) * 1099511628211) % 18446744073709551616;
        end loop;
        if hash >= 9223372036854775808 then
            hash := hash - 18446744073709551616;
        end if;
        token := token || '_' || to_hex(hash::bigint) || '.'
            || coalesce((select s.revision from entitlements.subject s where s.id = asked), 0);
    end loop;
    return token;
end
$function$;
comment on function entitlements.revision_of is 'The token of the state of the catalog and of some subjects.';

create function entitlements.check_feature(
    feature text, user_id text default null, organization_id text default null,
    at timestamptz default pg_catalog.statement_timestamp()
) returns table (
    allowed boolean, reason text, subject text, plan text, "limit" bigint, valid_until timestamptz, revision text,
    checked_at timestamptz
)
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    asked record;
    answer record;
    later record;
begin
    perform entitlements.check_ids(user_id, organization_id);
    select * into asked from entitlements.scope_of(feature);
    checked_at := date_trunc('milliseconds', at);
    revision := entitlements.revision_of(user_id, organization_id);
    if not asked.is_known then
        allowed := false;
        reason := 'REASON_UNKNOWN_SCOPE';
        return next;
        return;
    end if;
    select * into answer
    from entitlements.decide(asked.slug, asked.kind, user_id, organization_id, checked_at);
    valid_until := answer.next_at;
    while valid_until is not null loop
        select * into later
        from entitlements.decide(asked.slug, asked.kind, user_id, organization_id, valid_until);
        exit when later.allowed <> answer.allowed
            or later.allowed
                and (later.subject, later.plan, later."limit") is distinct from (answer.subject, answer.plan, answer."limit");
        valid_until := later.next_at;
    end loop;
    allowed := answer.allowed;
    reason := answer.reason;
    subject := answer.subject;
    plan := answer.plan;
    "limit" := answer."limit";
    return next;
end
$function$;
comment on function entitlements.check_feature is
    'Answers whether a user, in an organization, may use a feature: every field that CheckFeature answers.';

create function entitlements.has_feature(
    feature text, user_id text default null, organization_id text default null
) returns boolean
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    asked record;
begin
    perform entitlements.check_ids(user_id, organization_id);
    select * into asked from entitlements.scope_of(feature);
    return asked.is_known and (
        select d.allowed
        from entitlements.decide(asked.slug, asked.kind, user_id, organization_id,
            date_trunc('milliseconds', statement_timestamp())) d);
end
$function$;
comment on function entitlements.has_feature is 'Whether a user, in an organization, may use a feature now.';

create function entitlements.limit_of(
    feature text, user_id text default null, organization_id text default null
) returns bigint
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    asked record;
begin
    perform entitlements.check_ids(user_id, organization_id);
    select * into asked from entitlements.scope_of(feature);
    return case when asked.is_known then (
        select case when d.allowed then coalesce(d."limit", 9223372036854775807) else 0 end
        from entitlements.decide(asked.slug, asked.kind, user_id, organization_id,
            date_trunc('milliseconds', statement_timestamp())) d) else 0 end;
end
$function$;
comment on function entitlements.limit_of is
    'The limit of a feature now: 0 if it is denied, the largest bigint if it has no limit, so that counts can be compared.';

-- The user and the organization of the verified session token, read as the service reads it; null without a token, of a
-- pending session, and if a claim has another form.
create function entitlements.session_ids(out user_id text, out organization_id text)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    organization jsonb;
begin
    if claims -> 'v' = '2' then
        organization := case when coalesce(jsonb_typeof(claims -> 'o') in ('object', 'null'), true)
            then claims -> 'o' -> 'id' else 'false' end;
    else
        organization := claims -> 'org_id';
    end if;
    if jsonb_typeof(claims -> 'sub') = 'string' and claims ->> 'sub' ~ '^user_[A-Za-z0-9_-]{1,122}$'
        and claims ->> 'sts' is distinct from 'pending'
        and (organization is null or organization in ('null', '""')
            or jsonb_typeof(organization) = 'string' and organization #>> '{}' ~ '^org_[A-Za-z0-9_-]{1,123}$')
    then
        user_id := claims ->> 'sub';
        organization_id := nullif(organization #>> '{}', '');
    end if;
end
$function$;
comment on function entitlements.session_ids is 'The subjects of the claims that PostgREST and Supabase set for a request.';

create function entitlements.session_has_feature(feature text) returns boolean
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    session record;
begin
    select * into session from entitlements.session_ids();
    return session.user_id is not null
        and entitlements.has_feature(feature, session.user_id, session.organization_id);
end
$function$;
comment on function entitlements.session_has_feature is
    'Whether the user of the session token, in its organization, may use a feature now; false without a token.';

create function entitlements.session_limit_of(feature text) returns bigint
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    session record;
begin
    select * into session from entitlements.session_ids();
    return case when session.user_id is null then 0
        else entitlements.limit_of(feature, session.user_id, session.organization_id) end;
end
$function$;
comment on function entitlements.session_limit_of is
    'The limit of a feature for the user of the session token, in its organization; 0 without a token.';

-- A count in the arguments is of a snapshot from before the lock. So a caller locks first, without a count, and counts
-- in a second call. In `repeatable read`, the second count would be of the old snapshot, too; in `serializable`, one of
-- two transactions that count alike fails.
create function entitlements.require_room(
    feature text, current_count bigint, user_id text default null, organization_id text default null
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    answer record;
begin
    if current_setting('transaction_isolation') = 'repeatable read' then
        raise exception 'a limit cannot be kept in a transaction of isolation level repeatable read: use read committed or '
            'serializable' using errcode = 'invalid_transaction_state';
    end if;
    perform entitlements.check_ids(user_id, organization_id);
    insert into entitlements.room_lock (subject)
    select id from unnest(array[user_id, organization_id]) as asked (id) where id is not null order by id
    on conflict do nothing;
    perform from entitlements.room_lock l where l.subject = any (array[user_id, organization_id])
    order by l.subject for update;
    select * into answer from entitlements.check_feature(feature, user_id, organization_id, clock_timestamp());
    if not answer.allowed then
        raise exception 'the feature % is denied: %', feature, answer.reason
            using errcode = 'insufficient_privilege', constraint = 'entitlements_feature';
    elsif current_count >= answer."limit" then
        raise exception 'the limit of % is reached: % of %', feature, current_count, answer."limit"
            using errcode = 'check_violation', constraint = 'entitlements_limit';
    end if;
end
$function$;
comment on function entitlements.require_room is
    'Locks the subjects until the end of the transaction, and raises an error if the feature is denied or a count reaches its '
    'limit. Without a count, it only locks and checks the feature.';

create view entitlements.entitlement as
select s.id as subject, named.feature, answer.reason, answer.plan, answer."limit", answer.valid_until
from entitlements.subject s
cross join lateral (
    select f.feature from entitlements.catalog_feature f
    where f.kind = case when s.id like 'user\_%' then 'user' else 'organization' end
    union
    select o.feature from entitlements.override o where o.subject = s.id and o.feature is not null
) as named
cross join lateral entitlements.check_feature(
    named.feature,
    case when s.id like 'user\_%' then s.id end,
    case when s.id not like 'user\_%' then s.id end
) as answer
where answer.allowed;
comment on view entitlements.entitlement is
    'Every feature that a recorded subject may use now. A subject without a record, who may have the default plan, is not listed.';

-- `create function` lets every role execute it.
revoke all on all functions in schema entitlements from public;
