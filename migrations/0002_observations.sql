-- All observations of a subject, appended and never changed, from which any past answer can be derived again.

alter table entitlements.subject
    add column key bigint generated always as identity unique,
    add column history_removed_at timestamptz;
comment on column entitlements.subject.key is 'A short key, which observations use instead of the id.';
comment on column entitlements.subject.history_removed_at is
    'When the observations of the deleted subject were removed; null: they were not.';

create index subject_deleted on entitlements.subject (deleted_at)
    where deleted_at is not null and history_removed_at is null;

alter table entitlements.plan_name
    add column known_at timestamptz not null default pg_catalog.clock_timestamp();
comment on column entitlements.plan_name.known_at is 'When this service first recorded them together.';

-- The columns of 8 bytes come first, so that no row has padding. There is no primary key: an index on `id` would cost more
-- than the index on the subject, and no query looks for one row.
create table entitlements.observation (
    id bigint generated always as identity,
    subject_key bigint not null references entitlements.subject (key),
    known_at timestamptz not null default pg_catalog.clock_timestamp(),
    revision bigint not null check (revision >= 0),
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
    kind text not null check (kind in ('item', 'snapshot', 'deletion', 'undeletion')),
    message text collate "C" not null,
    item text collate "C",
    plan text,
    plan_id text,
    status text,
    item_ids text[],
    check ((kind = 'item') = (item is not null and status is not null)),
    check (kind in ('deletion', 'undeletion') or sent_at is not null)
);
comment on table entitlements.observation is
    'Every statement about a subject, also those that a newer one had superseded. A row is never changed.';
comment on column entitlements.observation.id is 'Orders the observations of a subject by their recording.';
comment on column entitlements.observation.subject_key is 'The key of the subject.';
comment on column entitlements.observation.known_at is 'When this service recorded it.';
comment on column entitlements.observation.revision is 'The revision of the subject after the recording.';
comment on column entitlements.observation.updated_at is
    'When Clerk changed the state, or deleted the subject; of an undeletion, when it was recorded.';
comment on column entitlements.observation.sent_at is 'When Clerk sent it; null: it was not sent.';
comment on column entitlements.observation.period_start is 'Of an item: the beginning of its period.';
comment on column entitlements.observation.period_end is 'Of an item: the end of its period.';
comment on column entitlements.observation.canceled_at is 'Of an item: when it was canceled.';
comment on column entitlements.observation.past_due_at is 'Of an item: when it became past due, as Clerk dates it.';
comment on column entitlements.observation.failed_at is 'Of an item: when a payment had failed, at this time or earlier.';
comment on column entitlements.observation.seats is 'Of an item: the number of seats; null with has_seats: unlimited.';
comment on column entitlements.observation.is_replay is 'Whether a replay of the ledger recorded it.';
comment on column entitlements.observation.free_trial is 'Of an item: whether its period is a free trial.';
comment on column entitlements.observation.was_active is 'Of an item: whether it was active.';
comment on column entitlements.observation.has_seats is 'Of an item: whether its plan has seats.';
comment on column entitlements.observation.is_paid is 'Of an item: whether nothing was owed.';
comment on column entitlements.observation.canceled is 'Of a snapshot: whether the subscription was canceled.';
comment on column entitlements.observation.kind is 'item, snapshot (a whole subscription), deletion or undeletion.';
comment on column entitlements.observation.message is
    'The id of the delivery, msg_…, or of the answer of Clerk''s Backend API, api_…; of an undeletion: empty.';
comment on column entitlements.observation.item is 'Of an item: its id, csub_item_….';
comment on column entitlements.observation.plan is 'Of an item: the slug of its plan; null: it was not named.';
comment on column entitlements.observation.plan_id is 'Of an item: the id of its plan, cplan_…; null: it was not named.';
comment on column entitlements.observation.status is 'Of an item: its status in Clerk''s words.';
comment on column entitlements.observation.item_ids is 'Of a snapshot: the items that it listed; null: it listed none.';

create index observation_subject on entitlements.observation (subject_key);
-- Rows are appended in the order of time, so a summary of each range of pages finds those of a period.
create index observation_known_at on entitlements.observation using brin (known_at) with (autosummarize = on);

create table entitlements.history_retention (
    singleton boolean primary key default true check (singleton),
    thinned_to timestamptz not null,
    after_key bigint not null default 0,
    complete_from timestamptz not null
);
comment on table entitlements.history_retention is
    'One row: how far observations older than HISTORY_RETENTION are removed. Those that a later account depends on stay.';
comment on column entitlements.history_retention.singleton is 'Allows one row only.';
comment on column entitlements.history_retention.thinned_to is
    'Every subject with an observation that was recorded before this time was visited since.';
comment on column entitlements.history_retention.after_key is
    'In the period that follows, subjects up to this key were visited.';
comment on column entitlements.history_retention.complete_from is
    'Accounts as they were known from this time on can be derived; earlier ones cannot.';

insert into entitlements.history_retention (thinned_to, complete_from)
values (pg_catalog.now(), '-infinity');
