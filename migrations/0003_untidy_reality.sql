-- What reading leniently needs: plans by id, payments that failed, parts that were left out, what to compare with Clerk.

-- In the order in which a delivery locks them.
lock table subject, item, delivery;

alter table delivery
    -- The time that was signed with the first attempt that arrived: it dates a body that has no date of its own.
    add column signed_at timestamptz,
    -- Whether it is of another Clerk instance than the one that is served.
    add column is_foreign boolean not null default false;

alter table item
    -- The version of the newest observation that named the plan; null: none did. An observation that does not name the
    -- plan leaves it as it is.
    add column plan_updated_at timestamptz,
    add column plan_sent_at timestamptz,
    -- The end of the period by the newest observation that had one: a cancellation need not say it again.
    add column known_end timestamptz,
    add column known_end_at timestamptz,
    -- Whether any observation said that it is active.
    add column was_active boolean not null default false,
    -- The newest observation that said that nothing is owed.
    add column paid_at timestamptz;

update item set
    plan_updated_at = case when plan is not null or plan_id is not null then updated_at end,
    plan_sent_at = case when plan is not null or plan_id is not null then sent_at end,
    known_end = period_end,
    known_end_at = case when period_end is not null then updated_at end,
    was_active = status in ('active', 'past_due', 'canceled'),
    paid_at = case when status = 'active' then updated_at end;

-- Every observation that said that a payment had failed. Grace counts from the earliest since the last payment.
create table failed_payment (
    subject text collate "C" not null references subject,
    item text collate "C" not null,
    -- The time of the change that the observation is about.
    updated_at timestamptz not null,
    -- When the payment failed, as far as the observation says.
    failed_at timestamptz not null,
    primary key (subject, item, updated_at)
);

insert into failed_payment (subject, item, updated_at, failed_at)
select subject, id, updated_at, least(coalesce(past_due_at, updated_at), updated_at)
from item where status = 'past_due';

-- Every pair of id and slug that a plan was ever seen with. The id stays, the slug can be changed.
create table plan_name (
    kind text not null check (kind in ('user', 'organization')),
    plan_id text collate "C" not null,
    slug text not null,
    -- When Clerk said them together, at first.
    seen_at timestamptz not null,
    primary key (kind, plan_id, slug)
);

insert into plan_name (kind, plan_id, slug, seen_at)
select case when subject like 'user\_%' then 'user' else 'organization' end as kind, plan_id, plan, min(sent_at)
from item where plan is not null and plan_id is not null
group by 1, 2, 3;

alter table subject
    -- Why it should be compared with Clerk, beside what its items tell; null: no reason.
    add column reconcile_for text,
    -- Not to be compared again before this instant.
    add column reconcile_at timestamptz,
    -- How often in a row comparing it brought nothing.
    add column reconcile_tries integer not null default 0,
    -- The revision it had when it was last compared.
    add column reconciled_revision bigint;

-- A subject that is known only by a delivery that was not understood is known, too.
insert into subject (subject, revision)
select distinct subject, 0 from delivery where result = 'parked' and subject is not null
on conflict do nothing;

update subject set reconcile_for = 'a delivery is parked'
where deleted_at is null
    and subject in (select subject from delivery where result = 'parked' and subject is not null);

create index subject_reconcile on subject (reconcile_at) where reconcile_for is not null;

-- The plans held, whatever the status of who holds them: those that no catalog knows are found from one to the next.
drop index item_plan;
create index item_plan on item ((coalesce(plan_id, '')), (coalesce(plan, '')), subject);
-- Whose item this is: an item belongs to one subject.
create index item_id on item (id);
