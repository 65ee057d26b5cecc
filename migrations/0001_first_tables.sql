-- The state of every subject of Clerk Billing, the deliveries that it comes from, and the catalog. `migrate` creates the
-- schema `entitlements` and the table of migrations before this file runs. Afterwards it revokes the rights that default
-- privileges of the database give to other roles. All times are instants with a time zone.
--
-- Postgres prepares each check constraint anew for every statement that writes its table. Tables that every delivery writes
-- have few of them, with constant arrays in place of `in (…)`, and none for a copy of a value that another one checks.

comment on schema entitlements is
    'The tables and functions of the entitlements service. Only its own commands write to them.';

comment on table entitlements._sqlx_migrations is
    'The applied migrations. The library sqlx creates and writes this table.';
comment on column entitlements._sqlx_migrations.version is 'The number of the migration.';
comment on column entitlements._sqlx_migrations.description is 'The name of the migration.';
comment on column entitlements._sqlx_migrations.installed_on is 'The time at which the migration was applied.';
comment on column entitlements._sqlx_migrations.success is 'True if the migration was applied completely.';
comment on column entitlements._sqlx_migrations.checksum is 'The SHA-384 of the text of the migration.';
comment on column entitlements._sqlx_migrations.execution_time is
    'The duration of the migration in nanoseconds; -1 until it is complete.';

create table entitlements.delivery (
    svix_id text collate "C" primary key,
    received_at timestamptz not null default pg_catalog.clock_timestamp(),
    event text,
    sent_at timestamptz,
    signed_at timestamptz,
    subject text,
    instance text,
    is_foreign boolean not null default false,
    result text not null check (result = any ('{applied,superseded,ignored,parked}'::text[])),
    detail text,
    revision bigint,
    body bytea,
    body_sha256 bytea not null,
    replayed_at timestamptz
);
comment on table entitlements.delivery is
    'The ledger: one row for each delivery with a valid signature, whatever its result.';
comment on column entitlements.delivery.svix_id is 'The message id. Repeated deliveries of a message have the same id.';
comment on column entitlements.delivery.received_at is 'The time at which the first delivery of the message arrived.';
comment on column entitlements.delivery.event is 'Clerk''s name of the event. Null: the body could not be parsed.';
comment on column entitlements.delivery.sent_at is
    'The time in the body. Null: the body has none, or could not be parsed.';
comment on column entitlements.delivery.signed_at is
    'The signed time of the delivery that arrived first. It orders a body without a time of its own.';
comment on column entitlements.delivery.subject is 'The subject of the event. Null: unknown.';
comment on column entitlements.delivery.instance is
    'The Clerk instance that the body names. Null: the body names none.';
comment on column entitlements.delivery.is_foreign is 'True if the instance is not the one that the service serves.';
comment on column entitlements.delivery.result is
    'applied; superseded: a newer state was stored; ignored: no effect on entitlements; parked: not parsed or not stored.';
comment on column entitlements.delivery.detail is 'The reason for the result, for people.';
comment on column entitlements.delivery.revision is
    'The revision of the subject after this delivery. Null: the delivery changed nothing.';
comment on column entitlements.delivery.body is
    'The signed bytes. Null: deleted after the retention, or with the subject.';
comment on column entitlements.delivery.body_sha256 is 'The SHA-256 of the body. It remains when the body is deleted.';
comment on column entitlements.delivery.replayed_at is 'The time of the last replay. Null: never replayed.';

create index delivery_received_at on entitlements.delivery (received_at);
create index delivery_subject on entitlements.delivery (subject, received_at);
create index delivery_parked on entitlements.delivery (subject) where result = 'parked';
create index delivery_with_body on entitlements.delivery (received_at) where body is not null;

-- Every delivery updates rows of `subject` and `item`: with room on its page, an update writes no index.
create table entitlements.subject (
    id text collate "C" primary key,
    revision bigint not null check (revision >= 0),
    deleted_at timestamptz,
    reconciled_at timestamptz,
    reconciled_revision bigint,
    reconcile_for text,
    reconcile_at timestamptz,
    reconcile_tries integer not null default 0 check (reconcile_tries >= 0),
    key bigint generated always as identity unique,
    oldest_observed_at timestamptz default pg_catalog.now(),
    history_removed_at timestamptz
) with (fillfactor = 70);
comment on table entitlements.subject is 'The subjects: Clerk users and organizations that can hold a subscription.';
comment on column entitlements.subject.id is 'Clerk''s id: user_… or org_….';
comment on column entitlements.subject.revision is
    'A counter that every change of the subject''s items, snapshots or overrides increments.';
comment on column entitlements.subject.deleted_at is
    'The time at which Clerk deleted the subject. Clerk does not reuse ids. Null: not deleted.';
comment on column entitlements.subject.reconciled_at is
    'The time of the last comparison with Clerk''s Backend API. Null: never compared.';
comment on column entitlements.subject.reconciled_revision is
    'The revision at the last comparison. Null: never compared.';
comment on column entitlements.subject.reconcile_for is
    'The reason to compare the subject with Clerk, in addition to reasons that its items show. Null: none.';
comment on column entitlements.subject.reconcile_at is
    'The subject is not compared again before this time. Null: no limit.';
comment on column entitlements.subject.reconcile_tries is
    'The number of comparisons since the revision last changed. It lengthens the pause before the next one.';

create index subject_reconcile on entitlements.subject (reconcile_at) where reconcile_for is not null;
comment on column entitlements.subject.key is 'A short key, which observations have instead of the id.';
comment on column entitlements.subject.oldest_observed_at is
    'When the oldest observation was recorded that was not looked at by ENTITLEMENTS_HISTORY_RETENTION; null: there is none.';
comment on column entitlements.subject.history_removed_at is
    'When the observations of the deleted subject were last removed; null: never.';

create index subject_oldest_observed on entitlements.subject (oldest_observed_at)
    where oldest_observed_at is not null;
create index subject_deleted on entitlements.subject (deleted_at)
    where deleted_at is not null and (history_removed_at is null or history_removed_at < deleted_at);

-- The version of an observation is (updated_at, sent_at, rank, svix_id): a total order that does not depend on arrival.
create table entitlements.item (
    subject text collate "C" not null references entitlements.subject,
    id text collate "C" not null,
    plan text,
    plan_id text,
    plan_updated_at timestamptz,
    plan_sent_at timestamptz,
    status text not null,
    was_active boolean not null default false,
    free_trial boolean not null,
    period_start timestamptz,
    period_end timestamptz,
    last_period_end timestamptz,
    last_period_end_at timestamptz,
    canceled_at timestamptz,
    past_due_at timestamptz,
    paid_at timestamptz,
    has_seats boolean not null,
    seats bigint check (seats is null or has_seats),
    updated_at timestamptz not null,
    sent_at timestamptz not null,
    rank smallint not null,
    svix_id text collate "C" not null,
    primary key (subject, id),
    check ((plan_updated_at is null) = (plan_sent_at is null)),
    check ((last_period_end is null) = (last_period_end_at is null))
) with (fillfactor = 80);
comment on table entitlements.item is
    'The subscription items: the newest observation of each, and the facts that only earlier observations contain.';
comment on column entitlements.item.subject is 'The subject that pays for the item.';
comment on column entitlements.item.id is 'Clerk''s id: csub_item_….';
comment on column entitlements.item.plan is 'The slug of the plan. Null: no observation named it.';
comment on column entitlements.item.plan_id is 'Clerk''s id of the plan. Null: no observation named it.';
comment on column entitlements.item.plan_updated_at is
    'updated_at of the newest observation that named the plan. Null: none did. An observation without a plan '
    'keeps the stored plan.';
comment on column entitlements.item.plan_sent_at is
    'sent_at of the newest observation that named the plan. Null: none did.';
comment on column entitlements.item.status is 'Clerk''s status, such as active, past_due, canceled, upcoming or ended.';
comment on column entitlements.item.was_active is 'True if any observation had the status active.';
comment on column entitlements.item.free_trial is 'True if the current period is a free trial.';
comment on column entitlements.item.period_start is 'The start of the period. Null: the newest observation has none.';
comment on column entitlements.item.period_end is 'The end of the period. Null: the newest observation has none.';
comment on column entitlements.item.last_period_end is
    'The end of the period in the newest observation that has one, because a cancellation may omit it. Null: none has.';
comment on column entitlements.item.last_period_end_at is
    'updated_at of the observation that last_period_end comes from.';
comment on column entitlements.item.canceled_at is
    'The time of the cancellation. A canceled item may continue to the end of its period. Null: not canceled.';
comment on column entitlements.item.past_due_at is
    'The time of the failed payment in the newest observation. Null: it has none.';
comment on column entitlements.item.paid_at is
    'updated_at of the newest observation without an open payment. Null: every observation had one.';
comment on column entitlements.item.has_seats is 'True if the plan has seats.';
comment on column entitlements.item.seats is
    'The number of seats. Null: unlimited if has_seats is true, otherwise none.';
comment on column entitlements.item.updated_at is 'The time at which Clerk changed the item. It orders observations.';
comment on column entitlements.item.sent_at is
    'The time at which Clerk sent the observation. It orders observations with equal updated_at.';
comment on column entitlements.item.rank is
    'The rank of the status: a more final status has a higher rank. It orders observations with equal times.';
comment on column entitlements.item.svix_id is
    'The id of the message with the observation. It orders observations that are equal otherwise.';

-- Find the items of which a delivery may have been lost, without reading the others.
create index item_ends on entitlements.item (period_end) where status = 'active' and canceled_at is null;
create index item_begins on entitlements.item (period_start) where status = 'upcoming';
-- Lists the distinct plans of items one after another, to find those that are not in the catalog.
create index item_plan on entitlements.item ((coalesce(plan_id, '')), (coalesce(plan, '')), subject);
-- Finds the subject of an item: an item belongs to one subject.
create index item_id on entitlements.item (id);

create table entitlements.failed_payment (
    subject text collate "C" not null references entitlements.subject,
    item text collate "C" not null,
    updated_at timestamptz not null,
    failed_at timestamptz not null,
    primary key (subject, item, updated_at)
);
comment on table entitlements.failed_payment is
    'The observations that report a failed payment. A grace period counts from the earliest since the last payment.';
comment on column entitlements.failed_payment.subject is 'The subject that pays for the item.';
comment on column entitlements.failed_payment.item is 'The id of the item.';
comment on column entitlements.failed_payment.updated_at is 'updated_at of the observation.';
comment on column entitlements.failed_payment.failed_at is
    'The time of the failure. If the observation has none, its updated_at.';

create table entitlements.snapshot (
    subject text collate "C" not null references entitlements.subject,
    has_items boolean not null,
    item_ids text[] not null check (has_items or item_ids = '{}'),
    canceled boolean not null,
    updated_at timestamptz not null,
    sent_at timestamptz not null,
    svix_id text collate "C" not null,
    primary key (subject, has_items)
);
comment on table entitlements.snapshot is
    'The newest observations of a subject''s subscription as a whole: one that lists its items, and one without a '
    'list.';
comment on column entitlements.snapshot.subject is 'The subject of the subscription.';
comment on column entitlements.snapshot.has_items is 'True if the subscription lists its items.';
comment on column entitlements.snapshot.item_ids is
    'The ids of the listed items. Older items that are not in the list are withdrawn.';
comment on column entitlements.snapshot.canceled is
    'True if the subscription is canceled. Only a subscription without a list of items uses it.';
comment on column entitlements.snapshot.updated_at is
    'The time at which Clerk changed the subscription. It orders snapshots.';
comment on column entitlements.snapshot.sent_at is
    'The time at which Clerk sent the snapshot. It orders snapshots with equal updated_at.';
comment on column entitlements.snapshot.svix_id is
    'The id of the message with the snapshot. It orders snapshots with equal times.';

-- The columns of 8 bytes come first, so that no row has padding. There is no primary key: an index on `id` would cost more
-- than the index on the subject, and no query looks for one row. There is no foreign key: its check would cost a query for
-- each row of a subject that is locked already, and subjects are never deleted.
create table entitlements.observation (
    id bigint generated always as identity,
    subject_key bigint not null,
    known_at timestamptz not null default pg_catalog.statement_timestamp(),
    revision bigint not null,
    updated_at timestamptz not null,
    sent_at timestamptz,
    period_start timestamptz,
    period_end timestamptz,
    canceled_at timestamptz,
    past_due_at timestamptz,
    failed_at timestamptz,
    seats bigint,
    is_replay boolean not null,
    free_trial boolean,
    was_active boolean,
    has_seats boolean,
    is_paid boolean,
    canceled boolean,
    kind text not null check (kind = any ('{item,snapshot,deletion,undeletion}'::text[])),
    message text collate "C" not null,
    item text collate "C",
    plan text,
    plan_id text,
    status text,
    item_ids text[],
    check ((kind = 'item') = (item is not null and status is not null)),
    check (sent_at is not null or kind = any ('{deletion,undeletion}'::text[]))
);
comment on table entitlements.observation is
    'Each statement about a subject, even one that a newer statement had superseded. A row is never changed.';
comment on column entitlements.observation.id is 'Orders the observations of a subject by their recording.';
comment on column entitlements.observation.subject_key is 'The key of the subject.';
comment on column entitlements.observation.known_at is 'When this service recorded it: the same time for all rows of a delivery.';
comment on column entitlements.observation.revision is 'The revision of the subject after the recording.';
comment on column entitlements.observation.updated_at is
    'When Clerk changed the state, or deleted the subject; of an undeletion, when it was recorded.';
comment on column entitlements.observation.sent_at is 'When Clerk sent it; null: it was not sent.';
comment on column entitlements.observation.period_start is 'Item: the beginning of its period.';
comment on column entitlements.observation.period_end is 'Item: the end of its period.';
comment on column entitlements.observation.canceled_at is 'Item: when it was canceled.';
comment on column entitlements.observation.past_due_at is 'Item: when it became past due, as Clerk dates it.';
comment on column entitlements.observation.failed_at is 'Item: the time of the failed payment; Clerk may report it later.';
comment on column entitlements.observation.seats is 'Item: the number of seats; null with has_seats: unlimited.';
comment on column entitlements.observation.is_replay is 'Whether a replay of the ledger recorded it.';
comment on column entitlements.observation.free_trial is 'Item: whether its period is a free trial.';
comment on column entitlements.observation.was_active is 'Item: whether it was active.';
comment on column entitlements.observation.has_seats is 'Item: whether its plan has seats.';
comment on column entitlements.observation.is_paid is 'Item: whether nothing was owed.';
comment on column entitlements.observation.canceled is 'Snapshot: whether the subscription was canceled.';
comment on column entitlements.observation.kind is 'item, snapshot (a whole subscription), deletion or undeletion.';
comment on column entitlements.observation.message is
    'The id of the delivery, msg_…, or of the answer of Clerk''s Backend API, api_…; empty for an undeletion.';
comment on column entitlements.observation.item is 'Item: its id, csub_item_….';
comment on column entitlements.observation.plan is 'Item: the slug of its plan; null: it was not named.';
comment on column entitlements.observation.plan_id is 'Item: the id of its plan, cplan_…; null: it was not named.';
comment on column entitlements.observation.status is 'Item: its status in Clerk''s words.';
comment on column entitlements.observation.item_ids is 'Snapshot: the items that it listed; null: it listed none.';

create index observation_subject on entitlements.observation (subject_key);
-- Where the database publishes all tables, a table without a primary key could not be deleted from.
alter table entitlements.observation replica identity full;

create table entitlements.history_retention (
    singleton boolean primary key default true check (singleton),
    complete_from timestamptz not null
);
comment on table entitlements.history_retention is 'One row: how far back histories are complete.';
comment on column entitlements.history_retention.singleton is 'Allows one row only.';
comment on column entitlements.history_retention.complete_from is
    'The items of a subject, as they were known from this time on, can be derived; earlier ones cannot. At first, when '
    'the tables were created.';

insert into entitlements.history_retention (complete_from) values (pg_catalog.now());

-- A row is never changed, except that its end is noted once. An extension or a correction is a new row that replaces the
-- older one.
create table entitlements.override (
    id uuid primary key,
    subject text collate "C" not null references entitlements.subject,
    feature text,
    plan text,
    effect text not null check (effect in ('deny', 'grant', 'unlimited', 'at_least', 'exactly')),
    "limit" bigint check ("limit" >= 0),
    starts_at timestamptz,
    expires_at timestamptz,
    permanent boolean not null,
    owner text not null check (owner <> ''),
    reason text not null check (reason <> ''),
    reference text not null,
    replaces uuid unique references entitlements.override,
    set_by text not null,
    on_behalf_of text not null,
    set_at timestamptz not null,
    revision bigint not null check (revision > 0),
    idempotency_key text,
    request_sha256 bytea,
    ended_at timestamptz,
    ended_by text,
    ended_on_behalf_of text,
    ended_reason text check (ended_reason <> ''),
    ended_revision bigint check (ended_revision > revision),
    constraint override_has_one_target check ((feature is null) <> (plan is null)),
    constraint override_of_a_plan_has_no_limit check (plan is null or effect in ('deny', 'grant')),
    constraint override_limit_fits_effect check ((effect in ('at_least', 'exactly')) = ("limit" is not null)),
    constraint override_is_permanent_or_expires check (permanent = (expires_at is null)),
    constraint override_ends_after_start check (expires_at > coalesce(starts_at, set_at)),
    constraint override_has_possible_dates check (
        coalesce(starts_at, set_at) >= '0001-01-01 UTC' and set_at >= '0001-01-01 UTC' and set_at < '10000-01-01 UTC'
        and coalesce(starts_at, set_at) < '10000-01-01 UTC' and expires_at < '10000-01-01 UTC'
        and ended_at >= '0001-01-01 UTC' and ended_at < '10000-01-01 UTC'
    ),
    constraint override_has_short_plain_texts check (
        pg_catalog.octet_length(owner) <= 500 and pg_catalog.octet_length(reason) <= 500
        and pg_catalog.octet_length(reference) <= 500 and pg_catalog.octet_length(on_behalf_of) <= 500
        and pg_catalog.octet_length(coalesce(feature, plan)) between 1 and 128
        and (coalesce(feature, plan) || owner || reason || reference || on_behalf_of || set_by || coalesce(ended_by, '')
            || coalesce(ended_on_behalf_of, '') || coalesce(ended_reason, '')) !~ '[[:cntrl:]]'
    ),
    constraint override_replaces_another check (replaces <> id),
    constraint override_key_has_digest check ((idempotency_key is null) = (request_sha256 is null)),
    constraint override_has_a_whole_end check (
        pg_catalog.num_nulls(ended_at, ended_by, ended_on_behalf_of, ended_reason, ended_revision) in (0, 5)
    ),
    constraint override_ends_after_setting check (ended_at >= set_at),
    unique (set_by, idempotency_key)
);
comment on table entitlements.override is
    'Features and plans that operators granted or denied to a subject, in addition to its plans.';
comment on column entitlements.override.id is 'A UUID of version 7.';
comment on column entitlements.override.subject is 'The subject.';
comment on column entitlements.override.feature is 'The slug of the feature; null: a plan.';
comment on column entitlements.override.plan is 'The slug of the plan, with all that it has; null: a feature.';
comment on column entitlements.override.effect is
    'deny; grant (a plan, or a feature without limits); or a grant of a feature that plans limit: unlimited, at_least (the '
    'limit, unless another grant has a larger one), exactly (the limit, even then).';
comment on column entitlements.override."limit" is 'The limit of at_least and exactly.';
comment on column entitlements.override.starts_at is 'The first instant at which it is in force; null: when it was set.';
comment on column entitlements.override.expires_at is 'The instant from which on it is no longer in force; null: permanent.';
comment on column entitlements.override.permanent is 'Whether it has no end, as the operator said expressly.';
comment on column entitlements.override.owner is 'The person or team that answers for it.';
comment on column entitlements.override.reason is 'The reason, for people.';
comment on column entitlements.override.reference is 'A ticket or a contract; may be empty.';
comment on column entitlements.override.replaces is 'The override that this one extends or corrects; null: none.';
comment on column entitlements.override.set_by is 'The authenticated caller that set it; empty: callers are not authenticated.';
comment on column entitlements.override.on_behalf_of is 'The person for whom the caller set it, as the caller said; may be empty.';
comment on column entitlements.override.set_at is 'When it was set.';
comment on column entitlements.override.revision is 'The revision of the subject after it was set.';
comment on column entitlements.override.idempotency_key is 'The key of the request, unique for the caller; null: none.';
comment on column entitlements.override.request_sha256 is 'The SHA-256 of the request with the key.';
comment on column entitlements.override.ended_at is
    'When it was ended, replaced or removed with its subject, before its time; null: it was not.';
comment on column entitlements.override.ended_by is
    'The authenticated caller that ended it; empty: callers are not authenticated, or the subject was deleted.';
comment on column entitlements.override.ended_on_behalf_of is 'As on_behalf_of, of the end.';
comment on column entitlements.override.ended_reason is 'The reason for the end, for people.';
comment on column entitlements.override.ended_revision is 'The revision of the subject after the end.';

create index override_subject on entitlements.override (subject, set_at);
create index override_in_force on entitlements.override (subject) where ended_at is null;
create index override_owner on entitlements.override (owner, id);
create index override_expires on entitlements.override (expires_at) where ended_at is null;
create index override_feature on entitlements.override (feature, subject) where ended_at is null and feature is not null;
create index override_plan on entitlements.override (plan, subject) where ended_at is null and plan is not null;

-- Replicas read it by transaction and not by id: a lower id can become visible after a higher one. Every change
-- writes a row, so there is one index only, and sessions take ids in batches.
create table entitlements.change_log (
    id bigint generated always as identity (cache 20),
    subject text,
    revision bigint,
    tx xid8 not null default pg_catalog.pg_current_xact_id(),
    logged_at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tx, id)
);
comment on table entitlements.change_log is
    'The log of changes that every replica reads: one row for each change of a subject, of the catalog or of the '
    'plan names.';
comment on column entitlements.change_log.id is 'The order of rows within one transaction.';
comment on column entitlements.change_log.subject is
    'The changed subject. Null: the catalog or the plan names changed.';
comment on column entitlements.change_log.revision is
    'The subject''s revision after the change. A replica with this revision or a later one need not load the '
    'subject again.';
comment on column entitlements.change_log.tx is 'The transaction that made the change.';
comment on column entitlements.change_log.logged_at is
    'The time at which the row was written. Rows older than 24 hours are deleted.';

-- The contents of the file and of Clerk are stored separately, so that either can change without the other.
create table entitlements.catalog_version (
    number bigint generated always as identity primary key,
    file_content text,
    clerk_content text,
    source text not null,
    applied_by text not null default '',
    reason text not null default '',
    applied_at timestamptz not null default pg_catalog.clock_timestamp(),
    check (file_content is not null or clerk_content is not null)
);
comment on table entitlements.catalog_version is
    'The versions of the catalog, which lists the features of each plan. A version never changes.';
comment on column entitlements.catalog_version.number is 'The number of the version. The highest is in force.';
comment on column entitlements.catalog_version.file_content is
    'The plans of the catalog file, as JSON. A plan in both contents is taken from this one. Null: no file was '
    'applied.';
comment on column entitlements.catalog_version.clerk_content is
    'The plans of Clerk''s Backend API, as JSON. Null: none were fetched.';
comment on column entitlements.catalog_version.source is 'The origin of the version, such as the name of a file.';
comment on column entitlements.catalog_version.applied_by is
    'The person or deployment that applied the version; empty for a version of the service itself.';
comment on column entitlements.catalog_version.reason is 'The reason to apply the version, as given; may be empty.';
comment on column entitlements.catalog_version.applied_at is 'The time at which the version came into force.';

create table entitlements.plan_name (
    kind text not null check (kind in ('user', 'organization')),
    plan_id text collate "C" not null,
    slug text not null,
    seen_at timestamptz not null,
    known_at timestamptz not null default pg_catalog.clock_timestamp(),
    number bigint not null generated always as identity unique,
    primary key (kind, plan_id, slug)
);
comment on table entitlements.plan_name is
    'Every pair of plan id and slug that Clerk has used. The id of a plan never changes; its slug can.';
comment on column entitlements.plan_name.kind is 'The kind of subject that can hold the plan: user or organization.';
comment on column entitlements.plan_name.plan_id is 'Clerk''s id of the plan.';
comment on column entitlements.plan_name.slug is 'A slug that the plan has or had.';
comment on column entitlements.plan_name.seen_at is 'The time at which Clerk first used this pair.';
comment on column entitlements.plan_name.known_at is 'When this service first recorded the pair.';
comment on column entitlements.plan_name.number is
    'The order in which the pairs were committed: a lock serializes the transactions that add pairs.';

create table entitlements.backfill (
    singleton boolean primary key default true check (singleton),
    claimed_until timestamptz not null,
    done_at timestamptz
);
comment on table entitlements.backfill is
    'The import of all subscriptions from Clerk, which happens once: one row as soon as a replica has begun it.';
comment on column entitlements.backfill.singleton is 'Always true. It allows only one row.';
comment on column entitlements.backfill.claimed_until is
    'Until this time, only the replica that claimed the import works on it. That replica extends the time as it works.';
comment on column entitlements.backfill.done_at is 'The time at which the import was complete. Null: not complete.';

-- Any role can take an advisory lock, but only a role with rights on a table can lock its rows.
create table entitlements.deletion_lock (
    slot bigint primary key check (slot between 0 and 1023)
);
comment on table entitlements.deletion_lock is
    '1,024 rows used as locks. A delivery that is not applied locks the row of its subject in share mode; a deletion '
    'locks it for update.';
comment on column entitlements.deletion_lock.slot is 'The hash of the subject''s id, modulo 1,024.';

insert into entitlements.deletion_lock (slot) select slot from pg_catalog.generate_series(0, 1023) as slot;

-- Names in a function are resolved by the search_path of its caller, unless the function sets its own.
create function entitlements.history() returns text language plpgsql stable
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
comment on function entitlements.history() is
    'An identifier of this history of the database: the cluster and its timeline, which changes with every '
    'promotion. If Postgres hides them, the address and the start time of the server. Raises an error on a '
    'standby.';
