//! The ledger: every authentic delivery, once, with its result.

use super::{Store, StoreError, apply_update, deletions, pool::TxOutcome, reconciliation};
use crate::domain::{Parsed, PlanName, Subject, WebhookEvent};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

/// One authentic webhook request.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The `svix-id`, which is the same for every attempt and replay of one message.
    pub svix_id: String,
    /// The signed bytes.
    pub body: Bytes,
    /// The signed time; `None` for an answer of Clerk's Backend API, which is not signed.
    pub signed_at: Option<DateTime<Utc>>,
    /// The parsed body.
    pub event: WebhookEvent,
    /// The plan names in the body that are new.
    pub names: Names,
}

/// Plan names in a delivery that were not seen before.
#[derive(Debug, Clone)]
pub struct Names {
    /// Pairs of id and slug.
    pub new: Vec<PlanName>,
    /// When Clerk sent them.
    pub seen_at: DateTime<Utc>,
}

impl Delivery {
    /// The subject of the delivery, if the body names one.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.event.subject.as_ref()
    }

    /// The SHA-256 of the body, which remains in the ledger after the body is deleted.
    fn body_sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.body).into()
    }

    /// Whether the delivery is from another Clerk instance than the served one.
    fn is_foreign(&self) -> bool {
        matches!(self.event.parsed, Parsed::Foreign(_))
    }
}

/// An item that another subject holds as well, which cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedItem {
    /// The id of the item.
    pub item: String,
    /// The other subject that holds the item.
    pub other: Subject,
}

/// The result of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The delivery changed the account.
    Applied {
        /// The subject of the account.
        subject: Subject,
        /// The account's new revision.
        revision: u64,
        /// Parts of the body that were unusual or left out; the rest was applied.
        remark: Option<String>,
        /// Items that another subject holds as well.
        shared: Vec<SharedItem>,
    },
    /// The same or a newer state was stored already.
    Superseded {
        /// The subject of the delivery.
        subject: Subject,
        /// The account's new revision, if the delivery added details of earlier states.
        revision: Option<u64>,
        /// Why the delivery was superseded.
        detail: String,
    },
    /// A delivery with this `svix-id` was recorded before.
    Duplicate {
        /// Whether the recorded delivery has the same body.
        same_body: bool,
    },
    /// The event does not affect entitlements; the text says why.
    Ignored(String),
    /// The delivery could not be parsed or stored and is kept for replay; the text says why.
    Parked(String),
}

impl Outcome {
    /// The outcome's name in answers, logs, metrics and the ledger.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Superseded { .. } => "superseded",
            Self::Duplicate { .. } => "duplicate",
            Self::Ignored(_) => "ignored",
            Self::Parked(_) => "parked",
        }
    }

    /// A sentence that explains the outcome, if there is more to say than its name.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Applied { remark, .. } => remark.as_deref(),
            Self::Duplicate { same_body: true } => None,
            Self::Duplicate { same_body: false } => {
                Some("this svix-id was recorded before with another body; the first body is kept")
            }
            Self::Superseded { detail, .. } | Self::Ignored(detail) | Self::Parked(detail) => {
                Some(detail)
            }
        }
    }

    /// The new revision as the ledger stores it.
    pub(super) fn stored_revision(&self) -> Option<i64> {
        self.changed().map(|(_, revision)| i64::try_from(revision).unwrap_or(i64::MAX))
    }

    /// The subject whose account changed, and its new revision.
    #[must_use]
    pub fn changed(&self) -> Option<(&Subject, u64)> {
        match self {
            Self::Applied { subject, revision, .. } => Some((subject, *revision)),
            Self::Superseded { subject, revision, .. } => revision.map(|r| (subject, r)),
            Self::Duplicate { .. } | Self::Ignored(_) | Self::Parked(_) => None,
        }
    }
}

/// How a delivery is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// A webhook. If the ledger has the message already, nothing changes.
    Record,
    /// An answer of Clerk's Backend API. It gets a ledger row only if it changes something.
    Import {
        /// Whether everything is rolled back.
        dry_run: bool,
    },
    /// A delivery from the ledger, applied again with the rules of this release.
    Replay {
        /// Whether everything is rolled back.
        dry_run: bool,
    },
}

/// A delivery and its outcome, as a row of the ledger.
#[derive(Clone, Copy)]
pub(super) struct LedgerRow<'a> {
    pub delivery: &'a Delivery,
    pub outcome: &'a Outcome,
    pub body_sha256: [u8; 32],
}

impl<'a> LedgerRow<'a> {
    pub(super) fn new(delivery: &'a Delivery, outcome: &'a Outcome) -> Self {
        Self { delivery, outcome, body_sha256: delivery.body_sha256() }
    }
}

/// Whether the ledger row of a delivery was inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LedgerEntry {
    Inserted,
    /// The ledger has the `svix-id` already.
    Duplicate,
    NotTried,
}

impl LedgerEntry {
    pub(super) fn of(is_inserted: bool) -> Self {
        if is_inserted { Self::Inserted } else { Self::Duplicate }
    }
}

impl WriteMode {
    fn is_dry_run(self) -> bool {
        matches!(self, Self::Import { dry_run: true } | Self::Replay { dry_run: true })
    }
}

impl Store {
    /// Writes a delivery in one transaction, which is durable when this returns. A webhook whose data Postgres rejects
    /// is parked, because Svix would retry it without success.
    pub async fn write(&self, delivery: &Delivery, mode: WriteMode) -> Result<Outcome, StoreError> {
        let outcome = match self.write_as(delivery, &delivery.event.parsed, mode).await {
            Err(StoreError::Rejected(error)) if mode == WriteMode::Record => {
                let parked = Parsed::Parked(format!("Postgres rejected the data: {error}"));
                self.write_as(delivery, &parked, mode).await?
            }
            written => written?,
        };
        if !mode.is_dry_run() {
            self.queue_notification(&outcome, &delivery.names);
        }
        Ok(outcome)
    }

    fn queue_notification(&self, outcome: &Outcome, names: &Names) {
        if !names.new.is_empty() {
            self.notifier.read_log();
        }
        if let Some((subject, revision)) = outcome.changed() {
            self.notifier.changed(subject, revision);
        }
    }

    async fn write_as(
        &self,
        delivery: &Delivery,
        parsed: &Parsed,
        mode: WriteMode,
    ) -> Result<Outcome, StoreError> {
        self.webhooks.transact(async |tx| write(tx, delivery, parsed, mode).await).await
    }
}

/// Writes the change and its ledger row.
async fn write(
    tx: &mut PgConnection,
    delivery: &Delivery,
    parsed: &Parsed,
    mode: WriteMode,
) -> Result<TxOutcome<Outcome>, StoreError> {
    let (outcome, mut entry) = apply(tx, delivery, parsed, mode).await?;
    match mode {
        WriteMode::Import { .. } if outcome.changed().is_none() => {
            return Ok(TxOutcome::RollBack(outcome));
        }
        WriteMode::Record | WriteMode::Import { .. } => {
            if entry == LedgerEntry::NotTried {
                entry = insert(tx, delivery, &outcome).await?;
            }
            // An import goes on: an older release that applied less of it may have inserted its row.
            if entry == LedgerEntry::Duplicate && mode == WriteMode::Record {
                return duplicate(tx, delivery).await.map(TxOutcome::RollBack);
            }
        }
        WriteMode::Replay { .. } => mark_replayed(tx, delivery, &outcome).await?,
    }
    Ok(if mode.is_dry_run() { TxOutcome::RollBack(outcome) } else { TxOutcome::Commit(outcome) })
}

/// Applies an update, and may insert the ledger row with it. The subject of a parked webhook becomes a reconciliation
/// candidate, which locks its row against deletion, as [`deletions::lock_against_deletion`] does for other deliveries.
async fn apply(
    tx: &mut PgConnection,
    delivery: &Delivery,
    parsed: &Parsed,
    mode: WriteMode,
) -> Result<(Outcome, LedgerEntry), StoreError> {
    let outcome = match parsed {
        Parsed::Update(update) => {
            let is_replay = matches!(mode, WriteMode::Replay { .. });
            return apply_update::apply(tx, delivery, update, is_replay).await;
        }
        Parsed::Ignored(why) => Outcome::Ignored(why.clone()),
        Parsed::Parked(why) | Parsed::Foreign(why) => Outcome::Parked(why.clone()),
    };
    match (parsed, delivery.subject()) {
        (Parsed::Parked(_), Some(subject)) if mode == WriteMode::Record => {
            reconciliation::want(tx, subject, "a delivery is parked").await?;
        }
        (_, Some(subject)) => deletions::lock_against_deletion(tx, subject).await?,
        (_, None) => {}
    }
    Ok((outcome, LedgerEntry::NotTried))
}

/// Records a replay in the ledger. A row with the result `applied` keeps it, because the delivery did change the
/// account once. The body of a delivery about a deleted subject is removed.
async fn mark_replayed(
    tx: &mut PgConnection,
    delivery: &Delivery,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    sqlx::query!(
        "
        update entitlements.delivery set
            replayed_at = pg_catalog.clock_timestamp(),
            event = $2, sent_at = $3, subject = $4,
            result = case when result = 'applied' then result else $5 end,
            detail = case when result = 'applied' then detail else $6 end,
            revision = coalesce($7, revision),
            is_foreign = $8,
            body = case when exists (select from entitlements.subject where id = $4 and deleted_at is not null)
                then null else body end
        where svix_id = $1
        ",
        delivery.svix_id,
        delivery.event.event,
        delivery.event.sent_at,
        delivery.subject().map(Subject::as_str),
        outcome.name(),
        outcome.detail(),
        outcome.stored_revision(),
        delivery.is_foreign(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts the ledger row of a delivery without observations; the statement that appends observations inserts the other
/// rows. A concurrent insert of the same delivery waits here for the first one to end. The body of a delivery about a
/// deleted subject is not stored.
async fn insert(
    db: &mut PgConnection,
    delivery: &Delivery,
    outcome: &Outcome,
) -> Result<LedgerEntry, StoreError> {
    let entered = sqlx::query!(
        "
        insert into entitlements.delivery
            (svix_id, event, sent_at, subject, result, detail, revision, body, body_sha256, instance,
             signed_at, is_foreign)
        select $1, $2, $3, $4, $5, $6, $7,
            case when exists (select from entitlements.subject where id = $4 and deleted_at is not null)
                then null else $8::bytea end,
            $9, $10, $11, $12
        on conflict (svix_id) do nothing
        ",
        delivery.svix_id,
        delivery.event.event,
        delivery.event.sent_at,
        delivery.subject().map(Subject::as_str),
        outcome.name(),
        outcome.detail(),
        outcome.stored_revision(),
        &*delivery.body,
        &delivery.body_sha256(),
        delivery.event.instance,
        delivery.signed_at,
        delivery.is_foreign(),
    )
    .execute(db)
    .await?;
    Ok(LedgerEntry::of(entered.rows_affected() == 1))
}

async fn duplicate(db: &mut PgConnection, delivery: &Delivery) -> Result<Outcome, StoreError> {
    let known = sqlx::query_scalar!(
        "select body_sha256 from entitlements.delivery where svix_id = $1",
        delivery.svix_id
    )
    .fetch_one(db)
    .await?;
    Ok(Outcome::Duplicate { same_body: *known == delivery.body_sha256() })
}
