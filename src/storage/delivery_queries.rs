//! Looking into the ledger, replaying what is in it, and letting go of bodies.

use super::{Delivery, Outcome, StoreError, deletions, deliveries, pool::End};
use crate::domain::{Reading, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Which deliveries; what is `None` does not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this id.
    pub svix_id: Option<String>,
    /// About this subject.
    pub subject: Option<Subject>,
    /// With this result.
    pub result: Option<String>,
    /// Received at or after this instant.
    pub from: Option<DateTime<Utc>>,
    /// Received before this instant.
    pub until: Option<DateTime<Utc>>,
}

/// A place in the list of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// When the delivery there was received.
    pub received_at: DateTime<Utc>,
    /// Its id.
    pub svix_id: String,
}

/// What the ledger says of a delivery, apart from its body.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub svix_id: String,
    /// When it was first received.
    pub received_at: DateTime<Utc>,
    /// Clerk's name of the event.
    pub event: Option<String>,
    /// When Clerk sent it.
    pub sent_at: Option<DateTime<Utc>>,
    /// Whom it told of.
    pub subject: Option<String>,
    /// What became of it.
    pub result: String,
    /// Why.
    pub detail: Option<String>,
    /// The subject's revision after it.
    pub revision: Option<i64>,
    /// Whether the body is still there.
    pub has_body: bool,
    /// The SHA-256 of the body.
    pub body_sha256: Vec<u8>,
    /// When it was last replayed.
    pub replayed_at: Option<DateTime<Utc>>,
    /// The time that was signed with it.
    pub signed_at: Option<DateTime<Utc>>,
}

impl Entry {
    /// Where it stands in the list.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { received_at: self.received_at, svix_id: self.svix_id.clone() }
    }
}

/// The deliveries that fit, newest first, after a place in the list.
pub(super) async fn list(
    db: &mut PgConnection,
    filter: &Filter,
    after: Option<&Position>,
    limit: u32,
) -> Result<Vec<Entry>, StoreError> {
    let entries = sqlx::query_as!(
        Entry,
        r#"
        select svix_id, received_at, event, sent_at, subject, result, detail, revision,
            body is not null as "has_body!", body_sha256, replayed_at, signed_at
        from delivery
        where ($1::text is null or svix_id = $1)
            and ($2::text is null or subject = $2)
            and ($3::text is null or result = $3)
            and ($4::timestamptz is null or received_at >= $4)
            and ($5::timestamptz is null or received_at < $5)
            and ($6::timestamptz is null or (received_at, svix_id) < ($6, $7))
        order by received_at desc, svix_id desc
        limit $8
        "#,
        filter.svix_id,
        filter.subject.as_ref().map(Subject::as_str),
        filter.result,
        filter.from,
        filter.until,
        after.map(|position| position.received_at),
        after.map(|position| position.svix_id.as_str()),
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    Ok(entries)
}

/// The bytes of a delivery, if they are still there.
pub(super) async fn body(
    db: &mut PgConnection,
    svix_id: &str,
) -> Result<Option<Bytes>, StoreError> {
    let body = sqlx::query_scalar!("select body from delivery where svix_id = $1", svix_id)
        .fetch_optional(db)
        .await?;
    Ok(body.flatten().map(Bytes::from))
}

/// Applies a delivery that is in the ledger, as it is read now. The ledger keeps `applied` as it was: it tells
/// what the delivery once did. If it is about somebody who was deleted, its body is not kept any longer.
pub(super) async fn replay(
    tx: &mut PgConnection,
    delivery: &Delivery,
    dry_run: bool,
) -> Result<End<Outcome>, StoreError> {
    if let (Some(subject), Reading::Ignored(_) | Reading::Parked(_) | Reading::Foreign(_)) =
        (delivery.subject(), &delivery.message.reading)
    {
        deletions::put_off_deletion(tx, subject).await?; // news locks its subject anyway
    }
    let outcome = deliveries::follow(tx, delivery).await?;
    sqlx::query!(
        "
        update delivery set
            replayed_at = pg_catalog.clock_timestamp(),
            event = $2, sent_at = $3, subject = $4,
            result = case when result = 'applied' then result else $5 end,
            detail = case when result = 'applied' then detail else $6 end,
            revision = coalesce($7, revision),
            is_foreign = $8,
            body = case when exists (select from subject where subject = $4 and deleted_at is not null)
                then null else body end
        where svix_id = $1
        ",
        delivery.svix_id,
        delivery.message.event,
        delivery.message.sent_at,
        delivery.subject().map(Subject::as_str),
        outcome.word(),
        outcome.detail(),
        outcome.changed().map(|(_, revision)| i64::try_from(revision).unwrap_or(i64::MAX)),
        matches!(delivery.message.reading, Reading::Foreign(_)),
    )
    .execute(tx)
    .await?;
    Ok(if dry_run { End::RollBack(outcome) } else { End::Commit(outcome) })
}

/// Lets go of bodies received before an instant; returns how many. What is parked keeps its body until it is
/// understood, unless it is of another Clerk instance. Replicas that do this at the same time pass each other by.
pub(super) async fn drop_bodies(
    db: &mut PgConnection,
    before: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let dropped = sqlx::query!(
        "
        update delivery set body = null where svix_id in (
            select svix_id from delivery
            where body is not null and received_at < $1 and (result <> 'parked' or is_foreign)
            order by received_at limit 1000 for update skip locked
        )
        ",
        before
    )
    .execute(db)
    .await?;
    Ok(dropped.rows_affected())
}

/// How many deliveries are parked that are of the instance that is served; beyond the most that are counted, that many.
pub(super) async fn parked(db: &mut PgConnection) -> Result<i64, StoreError> {
    let parked = sqlx::query_scalar!(
        r#"
        select pg_catalog.count(*) as "count!"
        from (select from delivery where result = 'parked' and not is_foreign limit 10000) as parked
        "#
    );
    Ok(parked.fetch_one(db).await?)
}
