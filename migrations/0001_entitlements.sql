-- The state of every subject that Clerk Billing ever told of, and how it came about.

-- The ledger: every authentic delivery, once, whatever became of it.
create table delivery (
    svix_id text collate "C" primary key,
    received_at timestamptz not null default clock_timestamp(),
    -- Clerk's name of the event and the time in the body, where the body could be read.
    event text,
    sent_at timestamptz,
    subject text,
    result text not null check (result in ('applied', 'superseded', 'ignored', 'parked')),
    -- Why, in words.
    detail text,
    -- The subject's revision after this delivery, where it changed something.
    revision bigint,
    -- The bytes as they were signed; null once the retention is over.
    body bytea,
    body_sha256 bytea not null,
    -- When it was last read anew, by an operator.
    replayed_at timestamptz
);

create index delivery_received_at on delivery (received_at);
create index delivery_subject on delivery (subject, received_at);
create index delivery_parked on delivery (received_at) where result = 'parked';
create index delivery_with_body on delivery (received_at) where body is not null;

-- Who pays: a Clerk user or organization.
create table subject (
    subject text collate "C" primary key,
    -- Grows by one with every change of anything below.
    revision bigint not null check (revision >= 0),
    -- Final: Clerk never uses an id again.
    deleted_at timestamptz
);

-- One Clerk subscription item: the newest observation of it. The version is
-- (updated_at, sent_at, rank, svix_id): a total order that does not depend on arrival.
create table item (
    subject text collate "C" not null references subject,
    id text collate "C" not null,
    plan text,
    plan_id text,
    status text not null,
    free_trial boolean not null,
    period_start timestamptz,
    period_end timestamptz,
    canceled_at timestamptz,
    past_due_at timestamptz,
    -- Whether the plan has seats, and how many; null is unlimited.
    has_seats boolean not null,
    seats bigint,
    updated_at timestamptz not null,
    sent_at timestamptz not null,
    rank smallint not null,
    svix_id text collate "C" not null,
    primary key (subject, id)
);

-- What the newest subscription as a whole said of a subject, apart from the state of its items: one row
-- for the newest that listed its items, one for the newest that came without them.
create table snapshot (
    subject text collate "C" not null references subject,
    with_items boolean not null,
    -- The items it listed: older ones that are not among them are withdrawn.
    listed text[] not null,
    -- Whether it said that the subscription is canceled; counts only without items.
    canceled boolean not null,
    updated_at timestamptz not null,
    sent_at timestamptz not null,
    svix_id text collate "C" not null,
    primary key (subject, with_items)
);

-- What an operator granted or denied, beside all plans.
create table override (
    subject text collate "C" not null references subject,
    feature text not null,
    granted boolean not null,
    -- The number that comes with a grant; null: none.
    "limit" bigint check ("limit" >= 0),
    expires_at timestamptz,
    reason text not null,
    set_by text not null,
    set_at timestamptz not null default clock_timestamp(),
    primary key (subject, feature)
);

-- The change log: which subject changed in which transaction; without a subject, the catalog did.
-- Replicas read it by transaction and not by id: a lower id can become visible after a higher one.
create table change (
    id bigint generated always as identity primary key,
    subject text,
    tx xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp()
);

create index change_tx on change (tx, id);
create index change_at on change (at);

-- The catalog: which plan has which features; the highest number is in force.
create table catalog (
    number bigint generated always as identity primary key,
    content text not null,
    content_sha256 bytea not null,
    -- Where the content came from, such as a file's name.
    source text not null,
    applied_at timestamptz not null default clock_timestamp()
);

create index catalog_content on catalog (content_sha256);
