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
    subject text collate "C" primary key,
    locked bigint not null default 1
) with (fillfactor = 50);
comment on table entitlements.room_lock is
    'The rows that require_room locks. They are not those of subject, for whose locks deliveries would wait.';
comment on column entitlements.room_lock.subject is 'The id of the subject.';
comment on column entitlements.room_lock.locked is
    'How often the row was locked. Each lock writes the row, so that a transaction with an older snapshot fails.';

-- The answer at one instant, and the next instant at which it may change. `slug` has no scope; `wanted_kind` is the kind of
-- subject that the scope names, or null.
create function entitlements.decide(
    slug text, wanted_kind text, user_id text, organization_id text, at timestamptz,
    out allowed boolean, out reason text, out subject text, out plan text, out "limit" bigint, out next_at timestamptz
)
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
    account record;
    part record;
    lasts boolean;
    -- When the first override or default plan begins; until when items and overrides of plans of one account last.
    begins timestamptz;
    live_until timestamptz;
    -- The best grant, and until when it and its reason last.
    order_of_part record;
    order_of_best record;
    best_code integer;
    best_subject text;
    best_plan text;
    best_until timestamptz;
    -- The grant with the largest limit.
    is_unlimited boolean := false;
    reach bigint;
    reach_until timestamptz;
    -- The newest override that sets the limit exactly.
    exact_at timestamptz;
    exact_id uuid;
    exact_subject text;
    exact_limit bigint;
    exact_until timestamptz;
    -- The greatest reason to deny; 0: there is no account. Until when overrides deny.
    worst integer := 0;
    denied_until timestamptz;
    worst_subject text;
    worst_plan text;
begin
    for account in
        select asked.id, asked.kind, s.deleted_at is not null as is_deleted, d.plan as default_plan,
            f.feature is not null as default_has_it, f."limit" as default_limit,
            g.past_due_ms * interval '1 millisecond' as past_due, g.renewal_ms * interval '1 millisecond' as renewal,
            coalesce(g.trial_ms, 259200000) * interval '1 millisecond' as trial
        from (values (decide.user_id, 'user', 1), (decide.organization_id, 'organization', 2)) as asked (id, kind, nth)
        left join entitlements.subject s on s.id = asked.id
        left join entitlements.catalog_in_force g on true
        left join entitlements.catalog_plan d on d.kind = asked.kind and d.name = '' and d.rule = 0
        left join entitlements.catalog_feature f
            on f.feature = decide.slug and f.kind = asked.kind and f.plan = d.plan
        where asked.id is not null and asked.kind = coalesce(decide.wanted_kind, asked.kind)
        order by asked.nth
    loop
        if account.is_deleted then
            if worst < 12 then
                worst := 12;
                worst_subject := account.id;
                worst_plan := null;
            end if;
            continue;
        end if;
        live_until := null;
        -- The overrides, the items and the default plan. Each grants for the reason `code` before `until`, or denies for
        -- the reason `denial`; null: it does neither. Of those that deny for the same reason, the first is given.
        for part in
            with observed as materialized ( -- faster: each column is read several times
                select i.id, i.plan, i.plan_id, i.was_active, i.free_trial, i.period_start, i.period_end,
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
                from entitlements.item i
                left join entitlements.snapshot listing on listing.subject = i.subject and listing.has_items
                left join entitlements.snapshot whole on whole.subject = i.subject and not whole.has_items
                where i.subject = account.id
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
                    end) over () as lasted
                from completed c
            ), dated as (
                select l.*, coalesce(l.past_due_at, l.updated_at) as failed_at,
                    coalesce(l.ends_at + account.trial, 'infinity') as after_trial,
                    coalesce(l.ends_at + account.renewal, 'infinity') as after_renewal,
                    coalesce(l.past_due_at + account.past_due, 'infinity') as after_past_due,
                    coalesce(coalesce(l.past_due_at, l.updated_at) + account.past_due, 'infinity') as after_failure
                from lasting l
            ), bounded as (
                -- No answer can express a time after the year 9999.
                select d.*,
                    case when d.after_trial < '10000-01-01 UTC' then d.after_trial else 'infinity' end as trial_until,
                    case when d.after_renewal < '10000-01-01 UTC' then d.after_renewal else 'infinity' end as renewal_until,
                    case when d.after_past_due < '10000-01-01 UTC' then d.after_past_due else 'infinity' end as unpaid_until,
                    case when d.after_failure < '10000-01-01 UTC' then d.after_failure else 'infinity' end as failure_until
                from dated d
            ), claim as (
                -- `until`: the end of the grant; null: it grants nothing, for the reason `denial`. `granted`, and from
                -- `overdue_at` on `overdue`: the reasons to allow. `denial`: also the reason to deny after the end.
                select b.plan, b.plan_id, b.period_start, b.id,
                    case when b.status = 'active' and not b.is_canceled then b.ends_at end as overdue_at,
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
            )
            select 1 as rank, null::timestamptz as period_start, null::text as id, o.starts_at,
                coalesce(o.expires_at, 'infinity') as until, null::timestamptz as overdue_at,
                o.effect = 'grant' and found.plan is not null as is_plan,
                case when o.effect <> 'deny' and (o.feature is not null or f.feature is not null) then 8 end as code,
                case
                    when o.effect = 'deny' and (o.feature is not null or f.feature is not null) then 17
                    when o.effect = 'grant' and o.feature is null and found.plan is null then 10
                end as denial,
                case when o.effect <> 'deny' and o.feature is null then coalesce(found.plan, o.plan) end as plan,
                case when o.feature is not null then o."limit" else f."limit" end as "limit",
                case when o.effect = 'exactly' then o.set_at end as exact_at, o.id as exact_id
            from entitlements.override o
            left join lateral (
                select p.plan from entitlements.catalog_plan p
                where p.kind = account.kind and p.rule in (2, 4) and p.name = o.plan order by p.rule limit 1
            ) as found on true
            left join entitlements.catalog_feature f
                on f.feature = decide.slug and f.kind = account.kind and f.plan = found.plan
            where o.subject = account.id and o.ended_at is null and (o.feature is null or o.feature = decide.slug)
                and (o.expires_at is null or o.expires_at > decide.at)
            union all
            select 2, c.period_start, c.id, null, c.until, c.overdue_at, true,
                case
                    when found.plan is null then case when account.default_has_it then 2 end
                    when f.feature is null then null
                    when c.overdue_at <= decide.at then c.overdue
                    else c.granted
                end,
                case
                    when c.until > decide.at then
                        case when found.plan is null and not account.default_has_it then 10 end
                    when f.feature is not null then c.denial
                end,
                case when found.plan is null and c.until > decide.at and account.default_has_it then account.default_plan
                    else coalesce(found.plan, c.plan, c.plan_id) end,
                case when found.plan is null then account.default_limit else f."limit" end, null, null
            from claim c
            left join lateral (
                select p.plan from entitlements.catalog_plan p
                where p.kind = account.kind
                    and (p.rule in (1, 3) and p.name = c.plan_id or p.rule in (2, 4) and p.name = c.plan)
                order by p.rule limit 1
            ) as found on true
            left join entitlements.catalog_feature f
                on f.feature = decide.slug and f.kind = account.kind and f.plan = found.plan
            union all
            select 3, null, null, null, 'infinity', null, false, case when account.default_has_it then 1 end,
                case when account.default_plan is null then 1 else 2 end,
                case when account.default_has_it then account.default_plan end, account.default_limit,
                null, null
            order by rank, period_start desc nulls last, id
        loop
            if part.starts_at > decide.at then
                begins := least(begins, part.starts_at);
                continue;
            end if;
            lasts := coalesce(part.until > decide.at, false);
            if lasts and part.is_plan then
                live_until := greatest(live_until, part.until);
            end if;
            if part.rank = 3 and live_until is not null then
                begins := least(begins, case when account.default_has_it then live_until end);
                part.code := null;
                part.denial := 2;
                part.plan := null;
            end if;
            if lasts and part.code is not null then
                if reach_until is null or (part."limit" is null, coalesce(part."limit", 0), part.until)
                    > (is_unlimited, coalesce(reach, 0), reach_until)
                then
                    is_unlimited := part."limit" is null;
                    reach := part."limit";
                    reach_until := part.until;
                end if;
                if part.exact_at is not null
                    and (exact_at is null or (part.exact_at, part.exact_id) > (exact_at, exact_id))
                then
                    exact_at := part.exact_at;
                    exact_id := part.exact_id;
                    exact_subject := account.id;
                    exact_limit := part."limit";
                    exact_until := part.until;
                end if;
                order_of_part := (part.code = 8, part.until, part.code, part."limit" is null, coalesce(part."limit", 0));
                if best_code is null or order_of_part > order_of_best
                    or order_of_part = order_of_best
                        and coalesce(part.plan collate "C" < best_plan, part.plan is null and best_plan is not null)
                then
                    order_of_best := order_of_part;
                    best_code := part.code;
                    best_subject := account.id;
                    best_plan := part.plan;
                    -- With a lesser reason from `overdue_at` on, another grant may be the best.
                    best_until := case when part.overdue_at > decide.at then least(part.overdue_at, part.until)
                        else part.until end;
                end if;
            elsif part.denial is not null then
                if part.denial = 17 then
                    denied_until := greatest(denied_until, part.until);
                end if;
                if part.denial > worst then
                    worst := part.denial;
                    worst_subject := account.id;
                    worst_plan := part.plan;
                end if;
            end if;
        end loop;
    end loop;
    -- Whatever begins or ends while an override denies or sets the limit exactly changes nothing, and while the best grant
    -- lasts, the end of another one changes nothing unless it has the largest limit.
    next_at := nullif(case
        when worst = 17 then denied_until
        when exact_at is not null then least(begins, exact_until)
        else least(begins, best_until, reach_until)
    end, 'infinity');
    allowed := worst <> 17 and best_code is not null;
    if allowed and exact_at is not null then
        reason := 'REASON_OVERRIDE_GRANTS';
        subject := exact_subject;
        "limit" := exact_limit;
    elsif allowed then
        reason := 'REASON_' || grants[best_code];
        subject := best_subject;
        plan := best_plan;
        "limit" := case when not is_unlimited then reach end;
    elsif worst = 0 and best_code is null then
        reason := 'REASON_OUT_OF_SCOPE';
    elsif worst in (12, 17) or exists (select from entitlements.catalog_feature f where f.feature = decide.slug) then
        reason := 'REASON_' || denials[worst];
        subject := worst_subject;
        plan := worst_plan;
    else
        reason := 'REASON_UNKNOWN_FEATURE';
    end if;
end
$function$;
comment on function entitlements.decide is 'Decides at one instant. The rule behind all functions that can be granted.';

-- The parts of a question such as `org:sso` about some subjects. Rejects what is no feature and what are no ids. The parts
-- have no collation of the caller, such as that of a column.
create function entitlements.question(
    feature text, user_id text, organization_id text,
    out slug text, out kind text, out is_known boolean, out asked_user text, out asked_organization text
)
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    whole text collate "C" := feature;
    "user" text collate "C" := user_id;
    organization text collate "C" := organization_id;
    colon integer := strpos(whole, ':');
    scope text collate "C" := case when colon > 0 then left(whole, colon - 1) end;
begin
    slug := substr(whole, colon + 1);
    kind := case when scope in ('u', 'user') then 'user' when scope in ('o', 'org', 'organization') then 'organization' end;
    is_known := scope is null or kind is not null;
    if whole is null or slug = '' or octet_length(slug) > 128 or slug collate "C" ~ '[[:cntrl:]]' then
        raise exception 'feature: must be a slug: 1 to 128 bytes without control characters'
            using errcode = 'invalid_parameter_value';
    elsif "user" is null and organization is null then
        raise exception 'user_id, organization_id: at least one is required' using errcode = 'invalid_parameter_value';
    elsif "user" !~ '^user_[A-Za-z0-9_-]{1,122}$' then
        raise exception 'user_id: must be a Clerk user id, user_…' using errcode = 'invalid_parameter_value';
    elsif organization !~ '^org_[A-Za-z0-9_-]{1,123}$' then
        raise exception 'organization_id: must be a Clerk organization id, org_…'
            using errcode = 'invalid_parameter_value';
    end if;
    asked_user := "user";
    asked_organization := organization;
end
$function$;
comment on function entitlements.question is 'The valid parts of a question: the slug, the kind of subject of its scope, the ids.';

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
    asked := entitlements.question(feature, user_id, organization_id);
    if at is null or at not between '0001-01-01 UTC' and '9999-12-31 23:59:59.999 UTC' then
        raise exception 'at: must be a time from the year 1 to 9999' using errcode = 'invalid_parameter_value';
    end if;
    checked_at := date_trunc('milliseconds', at);
    revision := entitlements.revision_of(asked.asked_user, asked.asked_organization);
    if not asked.is_known then
        allowed := false;
        reason := 'REASON_UNKNOWN_SCOPE';
        return next;
        return;
    end if;
    answer := entitlements.decide(
        asked.slug, asked.kind, asked.asked_user, asked.asked_organization, checked_at);
    valid_until := answer.next_at;
    while valid_until is not null loop
        later := entitlements.decide(
            asked.slug, asked.kind, asked.asked_user, asked.asked_organization, valid_until);
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
    asked := entitlements.question(feature, user_id, organization_id);
    return asked.is_known and (entitlements.decide(
        asked.slug, asked.kind, asked.asked_user, asked.asked_organization,
        date_trunc('milliseconds', statement_timestamp()))).allowed;
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
    answer record;
begin
    asked := entitlements.question(feature, user_id, organization_id);
    if not asked.is_known then
        return 0;
    end if;
    answer := entitlements.decide(
        asked.slug, asked.kind, asked.asked_user, asked.asked_organization,
        date_trunc('milliseconds', statement_timestamp()));
    return case when answer.allowed then coalesce(answer."limit", 9223372036854775807) else 0 end;
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
    session := entitlements.session_ids();
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
    session := entitlements.session_ids();
    return case when session.user_id is null then 0
        else entitlements.limit_of(feature, session.user_id, session.organization_id) end;
end
$function$;
comment on function entitlements.session_limit_of is
    'The limit of a feature for the user of the session token, in its organization; 0 without a token.';

-- A count in the arguments is of a snapshot from before the lock. So a caller locks first, without a count, and counts
-- in a second call. The lock writes a row: a transaction of a stricter isolation level, whose snapshot is older than that
-- of the transaction before, fails instead of counting too few.
create function entitlements.require_room(
    feature text, current_count bigint, user_id text default null, organization_id text default null
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_variable
declare
    asked record := entitlements.question(feature, user_id, organization_id);
    answer record;
begin
    insert into entitlements.room_lock as held (subject)
    select id from unnest(array[asked.asked_user, asked.asked_organization]) as asked (id)
    where id is not null order by id collate "C"
    on conflict on constraint room_lock_pkey do update set locked = held.locked + 1;
    answer := entitlements.decide(
        asked.slug, asked.kind, asked.asked_user, asked.asked_organization,
        date_trunc('milliseconds', clock_timestamp()));
    if not asked.is_known or not answer.allowed then
        raise exception 'the feature % is denied: %', feature,
            case when asked.is_known then answer.reason else 'REASON_UNKNOWN_SCOPE' end
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

-- A barrier: no function of a reader sees a row that is not listed.
create view entitlements.entitlement with (security_barrier) as
select subject.id as subject, named.feature, answer.reason, answer.plan, answer."limit", answer.valid_until
from (
    select s.id, case when s.id like 'user\_%' then 'user' else 'organization' end as kind from entitlements.subject s
) as subject
cross join lateral (
    select f.feature from entitlements.catalog_feature f where f.kind = subject.kind
    union
    select o.feature from entitlements.override o where o.subject = subject.id and o.feature is not null
) as named
cross join lateral entitlements.check_feature(
    subject.kind || ':' || named.feature, -- with its scope, because a slug may have a colon
    case when subject.kind = 'user' then subject.id end,
    case when subject.kind = 'organization' then subject.id end
) as answer
where answer.allowed;
comment on view entitlements.entitlement is
    'Every feature that a recorded subject may use now. A subject without a record, who may have the default plan, is not listed.';

-- `create function` lets every role execute it.
revoke all on all functions in schema entitlements from public;
