//! Queries on the ledger, and removal of old bodies.

use super::{Store, StoreError};
use crate::domain::Subject;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Selects deliveries. A field that is `None` does not restrict the selection.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
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

/// A position in the list of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPosition {
    /// When the delivery at this position was received.
    pub received_at: DateTime<Utc>,
    /// The `svix-id` of the delivery at this position.
    pub svix_id: String,
}

/// The ledger row of a delivery, without the body.
#[derive(Debug, Clone)]
pub struct DeliveryEntry {
    /// The `svix-id`.
    pub svix_id: String,
    /// When the delivery was first received.
    pub received_at: DateTime<Utc>,
    /// Clerk's name of the event.
    pub event: Option<String>,
    /// When Clerk sent the event.
    pub sent_at: Option<DateTime<Utc>>,
    /// The subject of the event.
    pub subject: Option<String>,
    /// The name of the outcome, as [`super::Outcome::name`] has it.
    pub result: String,
    /// A sentence that explains the result.
    pub detail: Option<String>,
    /// The subject's revision after the delivery.
    pub revision: Option<i64>,
    /// Whether the body is still stored.
    pub has_body: bool,
    /// The SHA-256 of the body.
    pub body_sha256: Vec<u8>,
    /// When the delivery was last replayed.
    pub replayed_at: Option<DateTime<Utc>>,
    /// The signed time.
    pub signed_at: Option<DateTime<Utc>>,
}

impl DeliveryEntry {
    /// The position of this entry in the list.
    #[must_use]
    pub fn position(&self) -> DeliveryPosition {
        DeliveryPosition { received_at: self.received_at, svix_id: self.svix_id.clone() }
    }
}

impl Store {
    /// Lists deliveries that match a filter, newest first, after a position in the list.
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<&DeliveryPosition>,
        limit: u32,
    ) -> Result<Vec<DeliveryEntry>, StoreError> {
        self.background.run(async |db| list(db, filter, after, limit).await).await
    }

    /// The body of a delivery, if it is still stored.
    pub async fn body(&self, svix_id: &str) -> Result<Option<Bytes>, StoreError> {
        self.background.run(async |db| body(db, svix_id).await).await
    }

    /// The number of parked deliveries of the served Clerk instance, at most 10,000.
    pub async fn parked(&self) -> Result<i64, StoreError> {
        self.background.run(parked).await
    }

    /// Removes up to 1,000 bodies received before an instant; returns the number removed. A parked delivery keeps its
    /// body for replay, unless it is of another Clerk instance.
    pub async fn redact_bodies(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.background.run(async |db| redact_bodies(db, before).await).await
    }
}

async fn list(
    db: &mut PgConnection,
    filter: &DeliveryFilter,
    after: Option<&DeliveryPosition>,
    limit: u32,
) -> Result<Vec<DeliveryEntry>, StoreError> {
    let entries = sqlx::query_as!(
        DeliveryEntry,
        r#"
        select svix_id, received_at, event, sent_at, subject, result, detail, revision,
            body is not null as "has_body!", body_sha256, replayed_at, signed_at
        from entitlements.delivery
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

async fn body(db: &mut PgConnection, svix_id: &str) -> Result<Option<Bytes>, StoreError> {
    let body =
        sqlx::query_scalar!("select body from entitlements.delivery where svix_id = $1", svix_id)
            .fetch_optional(db)
            .await?;
    Ok(body.flatten().map(Bytes::from))
}

/// Replicas that do this at the same time skip each other's locked rows.
async fn redact_bodies(db: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let redacted = sqlx::query!(
        "
        update entitlements.delivery set body = null where svix_id in (
            select svix_id from entitlements.delivery
            where body is not null and received_at < $1 and (result <> 'parked' or is_foreign)
            order by received_at limit 1000 for update skip locked
        )
        ",
        before
    )
    .execute(db)
    .await?;
    Ok(redacted.rows_affected())
}

/// The number of parked deliveries of the served Clerk instance, at most 10,000.
pub(super) async fn parked(db: &mut PgConnection) -> Result<i64, StoreError> {
    let parked = sqlx::query_scalar!(
        r#"
        select pg_catalog.count(*) as "count!"
        from (
            select from entitlements.delivery where result = 'parked' and not is_foreign limit 10000
        ) as parked
        "#
    );
    Ok(parked.fetch_one(db).await?)
}
