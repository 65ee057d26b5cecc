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
    past_due interval,
    renewal interval,
    trial interval not null
);
comment on table entitlements.catalog_in_force is 'One row: the catalog in force, and its grace periods. No row: there is no catalog.';
comment on column entitlements.catalog_in_force.singleton is 'Allows one row only.';
comment on column entitlements.catalog_in_force.number is 'The number of the version in force.';
comment on column entitlements.catalog_in_force.names is 'The number of known pairs of plan id and slug.';
comment on column entitlements.catalog_in_force.past_due is
    'The grace after a failed payment. Null: until Clerk ends the subscription.';
comment on column entitlements.catalog_in_force.renewal is
    'The grace after the end of a period without a renewal. Null: until Clerk ends the subscription.';
comment on column entitlements.catalog_in_force.trial is 'The grace after the end of a free trial.';

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
    locked xid8 not null
) with (fillfactor = 50);
comment on table entitlements.room_lock is
    'The rows that require_room locks. They are not those of subject, for whose locks deliveries would wait.';
comment on column entitlements.room_lock.subject is 'The id of the subject.';
comment on column entitlements.room_lock.locked is
    'The transaction that locked the row last. It writes the row, so that a transaction with an older snapshot fails.';

-- The items as a decision reads them: with their withdrawal or cancellation by a snapshot of the subscription, and with the
-- end of the period that an older observation had. The status of a withdrawn item is null, which Clerk cannot send.
create view entitlements.completed_item as
select i.subject, i.id, i.plan, i.plan_id, i.status, i.was_active, i.free_trial, i.period_start, i.updated_at,
    i.past_due_at, i.canceled_at,
    case
        when i.period_end is null and (i.free_trial or i.canceled_at is not null or i.status = 'canceled')
        then i.last_period_end else i.period_end
    end as ends_at
from (
    select i.subject, i.id, i.plan, i.plan_id, i.was_active, i.free_trial, i.period_start, i.period_end,
        i.last_period_end, i.canceled_at, i.updated_at,
        case
            when not i.id = any (listing.item_ids)
                and (i.updated_at, i.sent_at) <= (listing.updated_at, listing.sent_at) then null
            when i.status = 'active' and whole.canceled
                and (i.updated_at, i.sent_at) <= (whole.updated_at, whole.sent_at)
                and (listing.subject is null
                    or (listing.updated_at, listing.sent_at) <= (whole.updated_at, whole.sent_at)) then 'canceled'
            else i.status
        end as status,
        coalesce(
            (
                select pg_catalog.min(case when p.failed_at >= coalesce(i.paid_at, '-infinity')
                    then p.failed_at else p.updated_at end)
                from entitlements.failed_payment p
                where i.status in ('active', 'past_due') and p.subject = i.subject and p.item = i.id
                    and p.updated_at >= coalesce(i.paid_at, '-infinity')
            ),
            case when i.status = 'past_due' then i.past_due_at end
        ) as past_due_at
    from entitlements.item i
    left join entitlements.snapshot listing on listing.subject = i.subject and listing.has_items
    left join entitlements.snapshot whole on whole.subject = i.subject and not whole.has_items
) as i;
comment on view entitlements.completed_item is
    'The items as a decision reads them: completed by the snapshots, the failed payments and the older observations.';

-- The answer at one instant, and the next instant at which it may change. Malformed features and ids are errors.
-- It evaluates few expressions, because each transaction prepares them anew, which takes longer.
create function entitlements.decide(
    feature text, user_id text, organization_id text, at timestamptz,
    out allowed boolean, out reason text, out subject text, out plan text, out "limit" bigint, out next_at timestamptz
)
language plpgsql stable parallel safe
set plan_cache_mode = force_generic_plan -- planning takes longer than deciding
set jit = off
set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    -- The question: a slug with or without a scope, such as `org:sso`, and ids. Without the collation of a column.
    asked text collate "C" := feature;
    asked_user text collate "C" := user_id;
    asked_organization text collate "C" := organization_id;
    colon integer := strpos(asked, ':');
    scope text collate "C" := nullif(left(asked, colon), '');
    slug text collate "C" := substr(asked, colon + 1);
    asked_kind text collate "C"; -- user or organization
    asked_id text collate "C";
    -- An override, an item or the default plan.
    part record;
    -- When the first override or default plan begins; until when items and overrides of plans of one account last.
    begins timestamptz;
    live_until timestamptz;
    -- The best grant, until when it lasts, and until when its reason stays the same.
    best_code integer;
    best_until timestamptz;
    best_limit bigint;
    best_subject text;
    best_plan text;
    best_steady_until timestamptz;
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
    if asked is null or slug = '' or octet_length(slug) > 128 or slug ~ '[[:cntrl:]]' then
        raise exception 'feature: must be a slug: 1 to 128 bytes without control characters'
            using errcode = 'invalid_parameter_value';
    elsif asked_user is null and asked_organization is null then
        raise exception 'user_id, organization_id: at least one is required' using errcode = 'invalid_parameter_value';
    elsif asked_user !~ '^user_[A-Za-z0-9_-]{1,122}$' then
        raise exception 'user_id: must be a Clerk user id, user_…' using errcode = 'invalid_parameter_value';
    elsif asked_organization !~ '^org_[A-Za-z0-9_-]{1,123}$' then
        raise exception 'organization_id: must be a Clerk organization id, org_…'
            using errcode = 'invalid_parameter_value';
    elsif scope not in ('u:', 'user:', 'o:', 'org:', 'organization:') then
        allowed := false;
        reason := 'REASON_UNKNOWN_SCOPE';
        return;
    end if;
    foreach asked_kind in array array['user', 'organization'] loop
        asked_id := case asked_kind when 'user' then asked_user else asked_organization end;
        continue when asked_id is null or left(asked_kind, 1) <> left(scope, 1);
        perform from entitlements.subject s where s.id = asked_id and s.deleted_at is not null;
        if found then
            if worst < 12 then
                worst := 12;
                worst_subject := asked_id;
                worst_plan := null;
            end if;
            continue;
        end if;
        live_until := null;
        -- Of the parts that deny for the same reason, the first is given.
        for part in
            select 1 as rank, o.plan, null::text as plan_id, o.effect, o.feature, o."limit", o.starts_at,
                coalesce(o.expires_at, 'infinity') as ends_at, o.set_at, o.id as override_id,
                null::text as item, null::text as status, null::timestamptz as canceled_at, false as was_active,
                false as free_trial, null::timestamptz as period_start, null::timestamptz as updated_at,
                null::timestamptz as past_due_at,
                null::interval as trial, null::interval as renewal, null::interval as past_due
            from entitlements.override o
            where o.subject = asked_id and o.ended_at is null and (o.feature is null or o.feature = slug)
                and (o.expires_at is null or o.expires_at > decide.at)
            union all
            select 2, i.plan, i.plan_id, null, null, null, null, i.ends_at, null, null,
                i.id, i.status, i.canceled_at, i.was_active, i.free_trial, i.period_start, i.updated_at, i.past_due_at,
                coalesce(g.trial, '72 hours'), g.renewal, g.past_due
            from entitlements.completed_item i left join entitlements.catalog_in_force g on true
            where i.subject = asked_id
            union all
            select 3, null, null, null, null, null, null, 'infinity', null, null,
                null, null, null, false, false, null, null, null,
                null, null, null
            order by rank, period_start desc nulls last, item, set_at, override_id
        loop
            declare
                -- Its plan by the catalog, and whether that has the feature. By rule 0, the default plan stands in.
                rule integer;
                found_plan text;
                has_it boolean;
                found_limit bigint;
                -- It grants for the reason `code` before `until`, or denies for the reason `denial`; null: it does not. The
                -- numbers are the places in the two lists at the end of this function: the last is the most important.
                code integer;
                denial integer;
                until timestamptz := part.ends_at;
                -- When an item should have been renewed.
                overdue_at timestamptz;
                -- The end of the grace after a failed payment.
                unpaid_until timestamptz;
            begin
                if part.starts_at > at then
                    begins := least(begins, part.starts_at);
                    continue;
                elsif part.feature is not null then
                    has_it := true;
                    found_limit := part."limit";
                elsif part.rank < 3 or live_until is null or live_until < 'infinity' then
                    select p.rule, p.plan, f.feature is not null, f."limit" into rule, found_plan, has_it, found_limit
                    from entitlements.catalog_plan p
                    left join entitlements.catalog_feature f on f.feature = slug and f.kind = p.kind and f.plan = p.plan
                    where p.kind = asked_kind and p.name in (part.plan_id, part.plan, '')
                        and (p.rule in (1, 3) and p.name = part.plan_id or p.rule in (2, 4) and p.name = part.plan
                            or p.rule = 0 and part.rank > 1)
                    order by p.rule = 0, p.rule limit 1;
                end if;
                if part.rank = 2 then
                    -- The reasons to grant, and to deny after the end.
                    if part.status = 'canceled' or part.status = 'active' and part.canceled_at is not null then
                        code := 3;
                        denial := 5;
                    elsif part.status = 'active' then
                        overdue_at := until;
                        code := case
                            when overdue_at <= at then case when part.past_due_at is null then 5 else 4 end
                            when part.free_trial then 6
                            else 7
                        end;
                        denial := case when part.free_trial then 6 else 5 end;
                        until := coalesce(
                            overdue_at + case when part.free_trial then part.trial else part.renewal end, 'infinity');
                        -- After a failed payment, it lasts at most to the end of that grace or of the period.
                        if part.past_due_at is not null then
                            unpaid_until := part.past_due_at + part.past_due;
                            if unpaid_until is not null and greatest(unpaid_until, overdue_at) < until
                                and overdue_at is not null
                            then
                                denial := 11;
                                until := greatest(unpaid_until, overdue_at);
                            end if;
                        end if;
                    elsif part.status = 'past_due' then
                        code := 4;
                        denial := 11;
                        until := coalesce(coalesce(part.past_due_at, part.updated_at) + part.past_due, 'infinity');
                        -- A failed upgrade: it never was active, and a paid item lasted until the payment failed.
                        if not part.was_active and exists (
                            select from entitlements.completed_item i
                            where i.subject = asked_id and i.was_active and coalesce(part.past_due_at, part.updated_at)
                                <= case when coalesce(i.status, 'active') in ('active', 'canceled') then i.ends_at
                                    else i.updated_at end
                        ) then
                            until := null;
                        end if;
                    else
                        denial := case coalesce(part.status, 'ended')
                            when 'ended' then 4 when 'expired' then 4 when 'abandoned' then 3
                            when 'upcoming' then 7 when 'incomplete' then 8 else 9
                        end;
                        until := null;
                    end if;
                    if until >= '10000-01-01 UTC' then
                        until := 'infinity'; -- No answer can express a later time.
                    end if;
                    if until > at then
                        live_until := greatest(live_until, until);
                        denial := null;
                        if rule > 0 then
                            code := case when has_it then code end;
                        elsif has_it then
                            code := 2;
                        else
                            code := null;
                            denial := 10;
                            found_plan := coalesce(part.plan, part.plan_id);
                        end if;
                    else
                        code := null;
                        denial := case when rule > 0 and has_it then denial end;
                    end if;
                elsif part.rank = 3 then
                    if live_until is not null then
                        begins := least(begins, case when has_it then live_until end);
                        denial := 2;
                        found_plan := null;
                    elsif has_it then
                        code := 1;
                    else
                        denial := case when found_plan is null then 1 else 2 end;
                        found_plan := null;
                    end if;
                elsif part.effect = 'deny' then
                    denial := case when has_it then 17 end;
                    found_plan := null;
                else
                    if part.effect = 'grant' and part.feature is null then
                        if found_plan is null then
                            denial := 10;
                            found_plan := part.plan;
                        else
                            live_until := greatest(live_until, until);
                        end if;
                    end if;
                    code := case when has_it then 8 end;
                end if;
                if code is not null then
                    if reach_until is null or (found_limit is null, coalesce(found_limit, 0), until)
                        > (is_unlimited, coalesce(reach, 0), reach_until)
                    then
                        is_unlimited := found_limit is null;
                        reach := found_limit;
                        reach_until := until;
                    end if;
                    if part.effect = 'exactly'
                        and (exact_at is null or (part.set_at, part.override_id) > (exact_at, exact_id))
                    then
                        exact_at := part.set_at;
                        exact_id := part.override_id;
                        exact_subject := asked_id;
                        exact_limit := found_limit;
                        exact_until := until;
                    end if;
                    if best_code is null
                        or (code = 8, until, code, found_limit is null, coalesce(found_limit, 0))
                            > (best_code = 8, best_until, best_code, best_limit is null, coalesce(best_limit, 0))
                        or (until, code, found_limit is null, coalesce(found_limit, 0))
                                = (best_until, best_code, best_limit is null, coalesce(best_limit, 0))
                            and coalesce(found_plan collate "C" < best_plan, found_plan is null and best_plan is not null)
                    then
                        best_code := code;
                        best_until := until;
                        best_limit := found_limit;
                        best_subject := asked_id;
                        best_plan := found_plan;
                        -- With a lesser reason from `overdue_at` on, another grant may be the best.
                        best_steady_until := case when overdue_at > at then least(overdue_at, until) else until end;
                    end if;
                elsif denial is not null then
                    if denial = 17 then
                        denied_until := greatest(denied_until, until);
                    end if;
                    if denial > worst then
                        worst := denial;
                        worst_subject := asked_id;
                        worst_plan := found_plan;
                    end if;
                end if;
            end;
        end loop;
    end loop;
    -- Whatever begins or ends while an override denies or sets the limit exactly changes nothing, and while the best grant
    -- lasts, the end of another one changes nothing unless it has the largest limit.
    next_at := nullif(case
        when worst = 17 then denied_until
        when exact_at is not null then least(begins, exact_until)
        else least(begins, best_steady_until, reach_until)
    end, 'infinity');
    allowed := worst <> 17 and best_code is not null;
    if not allowed then
        if worst = 0 then
            reason := 'REASON_OUT_OF_SCOPE';
        elsif worst in (12, 17) or exists (select from entitlements.catalog_feature f where f.feature = slug) then
            reason := 'REASON_' || (array['NO_SUBSCRIPTION', 'NOT_IN_PLAN', 'ABANDONED', 'ENDED', 'PERIOD_OVER', 'TRIAL_OVER',
                'NOT_STARTED', 'CHECKOUT_INCOMPLETE', 'UNKNOWN_STATUS', 'UNKNOWN_PLAN', 'PAST_DUE', 'SUBJECT_DELETED',
                'UNKNOWN_FEATURE', 'OUT_OF_SCOPE', 'UNKNOWN_SCOPE', 'STALE', 'OVERRIDE_DENIES'])[worst];
            subject := worst_subject;
            plan := worst_plan;
        else
            reason := 'REASON_UNKNOWN_FEATURE';
        end if;
    elsif exact_at is not null then
        reason := 'REASON_OVERRIDE_GRANTS';
        subject := exact_subject;
        "limit" := exact_limit;
    else
        reason := 'REASON_' || (array['DEFAULT_PLAN', 'DEFAULT_FOR_UNKNOWN_PLAN', 'CANCELED_BUT_PAID', 'PAST_DUE_IN_GRACE',
            'RENEWAL_OVERDUE', 'TRIAL', 'PLAN', 'OVERRIDE_GRANTS'])[best_code];
        subject := best_subject;
        plan := best_plan;
        "limit" := case when not is_unlimited then reach end;
    end if;
end
$function$;
comment on function entitlements.decide is 'Decides at one instant. The rule behind all functions that can be granted.';

-- The token of the state behind an answer, as all other interfaces of the service have it.
create function entitlements.revision_of(user_id text, organization_id text) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    -- Not the collation of a column of the caller.
    token text collate "C" := coalesce(
        (select c.number || '.' || c.names from entitlements.catalog_in_force c),
        '0.' || (select count(*) from entitlements.plan_name));
    asked text collate "C";
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

-- The costs and the number of rows are for the planner: a call takes longer than reading a page.
create function entitlements.check_feature(
    feature text, user_id text default null, organization_id text default null,
    at timestamptz default pg_catalog.statement_timestamp()
) returns table (
    allowed boolean, reason text, subject text, plan text, "limit" bigint, valid_until timestamptz, revision text,
    checked_at timestamptz
)
language plpgsql stable parallel safe security definer rows 1 cost 2000
set search_path = pg_catalog, pg_temp
as $function$
declare
    answer record;
    later record;
begin
    if at is null or at not between '0001-01-01 UTC' and '9999-12-31 23:59:59.999 UTC' then
        raise exception 'at: must be a time from the year 1 to 9999' using errcode = 'invalid_parameter_value';
    end if;
    checked_at := date_trunc('milliseconds', at);
    answer := entitlements.decide(feature, user_id, organization_id, checked_at);
    valid_until := answer.next_at;
    while valid_until is not null loop
        later := entitlements.decide(feature, user_id, organization_id, valid_until);
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
    revision := entitlements.revision_of(user_id, organization_id);
    return next;
end
$function$;
comment on function entitlements.check_feature is
    'Answers whether a user, in an organization, may use a feature: every field that CheckFeature answers.';

create function entitlements.has_feature(
    feature text, user_id text default null, organization_id text default null
) returns boolean
language plpgsql stable parallel safe security definer cost 1000
set search_path = pg_catalog, pg_temp
as $function$
begin
    return (entitlements.decide(
        feature, user_id, organization_id, date_trunc('milliseconds', statement_timestamp()))).allowed;
end
$function$;
comment on function entitlements.has_feature is 'Whether a user, in an organization, may use a feature now.';

create function entitlements.limit_of(
    feature text, user_id text default null, organization_id text default null
) returns bigint
language plpgsql stable parallel safe security definer cost 1000
set search_path = pg_catalog, pg_temp
as $function$
declare
    answer record := entitlements.decide(
        feature, user_id, organization_id, date_trunc('milliseconds', statement_timestamp()));
begin
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
language plpgsql stable parallel safe security definer cost 1000
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
language plpgsql stable parallel safe security definer cost 1000
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
    answer record;
begin
    insert into entitlements.room_lock as held (subject, locked)
    select id, pg_current_xact_id() from unnest(array[user_id, organization_id]) as asked (id)
    where id is not null order by id collate "C"
    on conflict on constraint room_lock_pkey do update set locked = excluded.locked
        where held.locked <> excluded.locked; -- many versions of one row would make each further lock slower
    answer := entitlements.decide(
        feature, user_id, organization_id, date_trunc('milliseconds', clock_timestamp()));
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
