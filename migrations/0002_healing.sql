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
