//! Loads the current account of a subject.

use super::{Store, StoreError, override_rows::OverrideRow, pool::retry_once, reconciliation};
use crate::domain::{Account, Item, Override, PackedItems, Seats, Status, Subject, TooLong};
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};

impl Store {
    /// Loads everything that is stored about a subject.
    pub async fn account(&self, subject: &Subject) -> Result<Account, StoreError> {
        retry_once(|| self.checks.run(async |db| load(db, subject).await)).await
    }

    /// The next accounts that were not deleted, ordered by subject, after a given id.
    pub async fn accounts(&self, after: &str, count: i64) -> Result<Vec<Account>, StoreError> {
        let load = async |db: &mut PgConnection| {
            let subjects = reconciliation::subjects(db, after, count).await?;
            load_all(db, &subjects).await
        };
        self.background.run(load).await
    }
}

/// Selects everything that is stored about the subjects of a condition.
///
/// Grace starts at the first failed payment since the last successful one. An item is withdrawn if the newest snapshot
/// with items does not list it and is not older than the item. It counts as canceled if the newest of all snapshots
/// came without items and said that the subscription is canceled.
macro_rules! account_rows {
    ($condition:literal, $parameter:expr) => {
        sqlx::query_as!(
            AccountRow,
            r#"
        select
            s.id as subject,
            s.revision,
            s.deleted_at,
            -- On one row of the subject only.
            case when s.overrides is not null and i.id is not distinct from
                (select pg_catalog.min(first.id) from entitlements.item first where first.subject = s.id)
                then s.overrides end as "overrides: Json<Vec<OverrideRow>>",
            i.id as "id?",
            i.plan,
            i.plan_id,
            i.status as "status?",
            i.free_trial as "free_trial?",
            i.period_start,
            i.period_end,
            i.last_period_end,
            i.canceled_at,
            coalesce(
                (
                    -- A date from before the last payment is of an older failure.
                    select pg_catalog.min(case when f.failed_at >= coalesce(i.paid_at, '-infinity')
                        then f.failed_at else f.updated_at end)
                    from entitlements.failed_payment f
                    where i.status in ('active', 'past_due') and f.subject = i.subject and f.item = i.id
                        and f.updated_at >= coalesce(i.paid_at, '-infinity')
                ),
                case when i.status = 'past_due' then i.past_due_at end
            ) as past_due_at,
            i.was_active as "was_active?",
            i.has_seats as "has_seats?",
            i.seats,
            i.updated_at as "updated_at?",
            coalesce(
                not i.id = any (listing.item_ids)
                    and (i.updated_at, i.sent_at) <= (listing.updated_at, listing.sent_at),
                false
            ) as "withdrawn!",
            coalesce(
                whole.canceled
                    and (i.updated_at, i.sent_at) <= (whole.updated_at, whole.sent_at)
                    and (listing.subject is null
                        or (listing.updated_at, listing.sent_at)
                            <= (whole.updated_at, whole.sent_at)),
                false
            ) as "canceled!"
        from (
            select id, revision, deleted_at, (
                -- Those that expired long ago are left out, whatever the clock of the replica says.
                select pg_catalog.json_agg(o) from (
                    select id, feature, plan, effect, "limit", starts_at, expires_at, set_at
                    from entitlements.override
                    where override.subject = subject.id and ended_at is null
                        and (expires_at is null or expires_at > pg_catalog.now() - interval '1 day')
                    order by set_at, id -- of two equal candidates, the first is given
                ) o
            ) as overrides
            from entitlements.subject
            where "#
                + $condition
                + r#"
            offset 0 -- or the overrides would be collected for each item
        ) s
        left join entitlements.item i on i.subject = s.id
        left join entitlements.snapshot listing on listing.subject = s.id and listing.has_items
        left join entitlements.snapshot whole on whole.subject = s.id and not whole.has_items
        order by s.id, i.period_start desc nulls last, i.id
        "#,
            $parameter,
        )
    };
}

/// Loads everything that is stored about a subject in one query.
async fn load(db: &mut PgConnection, subject: &Subject) -> Result<Account, StoreError> {
    let rows = account_rows!("id = $1", subject.as_str()).fetch_all(db).await?;
    if rows.is_empty() {
        return Ok(Account::unknown(subject.clone()));
    }
    account(&rows)
}

/// Loads everything that is stored about some subjects in one query. The accounts are ordered by subject.
pub(super) async fn load_all(
    db: &mut PgConnection,
    subjects: &[String],
) -> Result<Vec<Account>, StoreError> {
    let rows = account_rows!("id = any ($1)", subjects).fetch_all(db).await?;
    rows.chunk_by(|row, next| row.subject == next.subject).map(account).collect()
}

/// The account of the rows of one subject.
fn account(rows: &[AccountRow]) -> Result<Account, StoreError> {
    let first = rows.first().ok_or_else(|| corrupt("account"))?;
    let subject: Subject = first.subject.parse().map_err(|_| corrupt("subject"))?;
    let revision = u64::try_from(first.revision).map_err(|_| corrupt("revision"))?;
    let deleted_at = first.deleted_at;
    let overrides = rows.iter().flat_map(|row| &row.overrides).flat_map(|Json(all)| all);
    let overrides = overrides.map(Override::try_from);
    let overrides = overrides.collect::<Result<_, _>>()?;
    let mut items = rows.iter().filter_map(AccountRow::item).collect();
    PackedItems::bound(&mut items);
    if items.len() > PackedItems::MAX_ITEMS {
        tracing::warn!(
            subject = subject.as_str(),
            items = items.len(),
            "an account has more than 1,000 items that may still grant"
        );
    }
    let items = PackedItems::pack(items);
    let items = items.map_err(|TooLong(column)| corrupt(column))?;
    Ok(Account { subject, revision, deleted_at, items, overrides })
}

struct AccountRow {
    subject: String,
    revision: i64,
    deleted_at: Option<DateTime<Utc>>,
    overrides: Option<Json<Vec<OverrideRow>>>,
    id: Option<String>,
    plan: Option<String>,
    plan_id: Option<String>,
    status: Option<String>,
    free_trial: Option<bool>,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    last_period_end: Option<DateTime<Utc>>,
    canceled_at: Option<DateTime<Utc>>,
    past_due_at: Option<DateTime<Utc>>,
    was_active: Option<bool>,
    has_seats: Option<bool>,
    seats: Option<i64>,
    updated_at: Option<DateTime<Utc>>,
    withdrawn: bool,
    canceled: bool,
}

impl AccountRow {
    /// The item of this row; a subject without items still has one row.
    fn item(&self) -> Option<Item<&str>> {
        let quantity = self.seats.and_then(|n| u64::try_from(n).ok());
        let item = Item {
            id: self.id.as_deref()?,
            plan: self.plan.as_deref(),
            plan_id: self.plan_id.as_deref(),
            was_active: self.was_active?,
            status: Status::from(self.status.as_deref()?),
            free_trial: self.free_trial?,
            period_start: self.period_start,
            period_end: self.period_end,
            canceled_at: self.canceled_at,
            past_due_at: self.past_due_at,
            seats: self.has_seats?.then_some(Seats(quantity)),
            updated_at: self.updated_at?,
        };
        Some(item.completed(self.withdrawn, self.canceled, self.last_period_end))
    }
}

fn corrupt(column: &str) -> StoreError {
    StoreError::Corrupt(column.into())
}
