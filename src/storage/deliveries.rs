//! The ledger: every authentic delivery, once, and what became of it.

use super::{
    StoreError, apply_update, deletions,
    pool::{End, Lane},
    reconciliation,
};
use crate::domain::{Message, News, PlanName, Reading, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

/// One authentic webhook request.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The `svix-id`: the same for every attempt and replay of one message.
    pub svix_id: String,
    /// The bytes that were signed.
    pub body: Bytes,
    /// The time that was signed with them; nobody signed what Clerk's Backend API says.
    pub signed_at: Option<DateTime<Utc>>,
    /// What they say.
    pub message: Message,
    /// The names of plans in them.
    pub names: Names,
}

/// The names of plans in a delivery that were not seen before.
#[derive(Debug, Clone)]
pub struct Names {
    /// Pairs of id and slug.
    pub new: Vec<PlanName>,
    /// When Clerk said them.
    pub seen_at: DateTime<Utc>,
}

impl Delivery {
    /// Whom it is about, as far as that can be told.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.message.subject.as_ref()
    }
}

/// An item that another subject holds as well: one of the two is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The item's id.
    pub item: String,
    /// The other subject.
    pub other: Subject,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It changed what is known of the subject.
    Applied {
        /// Who changed.
        subject: Subject,
        /// The subject's revision since.
        revision: u64,
        /// What was odd or left out, and did not stand in the way.
        remark: Option<String>,
        /// Items that another subject holds as well.
        shared: Vec<Shared>,
    },
    /// All of it was known already, or newer news is.
    Superseded {
        /// Whom it was about.
        subject: Subject,
        /// The subject's new revision, if the history became fuller.
        revision: Option<u64>,
        /// By what.
        detail: String,
    },
    /// This message was taken before. `same_body` is false if it then had another body.
    Duplicate {
        /// Whether the bytes are the same as before.
        same_body: bool,
    },
    /// It is not about what anybody may use.
    Ignored(String),
    /// It is kept until this service understands it.
    Parked(String),
}

impl Outcome {
    /// The one word for it, in answers, logs, metrics and the ledger.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Superseded { .. } => "superseded",
            Self::Duplicate { .. } => "duplicate",
            Self::Ignored(_) => "ignored",
            Self::Parked(_) => "parked",
        }
    }

    /// Why, in words, where there is more to say than the word.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Applied { remark, .. } => remark.as_deref(),
            Self::Duplicate { same_body: true } => None,
            Self::Duplicate { same_body: false } => {
                Some("this id was used before with another body; the first one stands")
            }
            Self::Superseded { detail, .. } | Self::Ignored(detail) | Self::Parked(detail) => {
                Some(detail)
            }
        }
    }

    /// Who changed, and the revision since.
    #[must_use]
    pub fn changed(&self) -> Option<(&Subject, u64)> {
        match self {
            Self::Applied { subject, revision, .. } => Some((subject, *revision)),
            Self::Superseded { subject, revision, .. } => revision.map(|r| (subject, r)),
            Self::Duplicate { .. } | Self::Ignored(_) | Self::Parked(_) => None,
        }
    }
}

/// Writes a delivery. Data that Postgres refuses is parked instead of being retried for ever.
pub(super) async fn record(lane: &Lane, delivery: &Delivery) -> Result<Outcome, StoreError> {
    let done = match &delivery.message.reading {
        Reading::News(news) => lane.transact(async |db| write(db, delivery, news).await).await,
        Reading::Ignored(why) => keep(lane, delivery, Outcome::Ignored(why.clone())).await,
        Reading::Parked(why) | Reading::Foreign(why) => {
            keep(lane, delivery, Outcome::Parked(why.clone())).await
        }
    };
    match done {
        Err(StoreError::Refused(error)) => {
            keep(lane, delivery, Outcome::Parked(format!("Postgres refused it: {error}"))).await
        }
        done => done,
    }
}

/// The news and its ledger row.
async fn write(
    tx: &mut PgConnection,
    delivery: &Delivery,
    news: &News,
) -> Result<End<Outcome>, StoreError> {
    let outcome = apply_update::apply(tx, &delivery.svix_id, news, &delivery.names).await?;
    if enter(tx, delivery, &outcome).await? {
        Ok(End::Commit(outcome))
    } else {
        duplicate(tx, delivery).await.map(End::RollBack)
    }
}

/// News that nobody delivered. It is entered only if it changes something.
pub(super) async fn observe(
    tx: &mut PgConnection,
    delivery: &Delivery,
    dry_run: bool,
) -> Result<End<Outcome>, StoreError> {
    let outcome = follow(tx, delivery).await?;
    if dry_run || outcome.changed().is_none() {
        return Ok(End::RollBack(outcome));
    }
    enter(tx, delivery, &outcome).await?; // the same may have been entered by a release that read less of it
    Ok(End::Commit(outcome))
}

/// Writes what a delivery says, without entering it.
pub(super) async fn follow(
    tx: &mut PgConnection,
    delivery: &Delivery,
) -> Result<Outcome, StoreError> {
    match &delivery.message.reading {
        Reading::News(news) => {
            apply_update::apply(tx, &delivery.svix_id, news, &delivery.names).await
        }
        Reading::Ignored(why) => Ok(Outcome::Ignored(why.clone())),
        Reading::Parked(why) | Reading::Foreign(why) => Ok(Outcome::Parked(why.clone())),
    }
}

/// The ledger row alone. The subject of what was not understood is to be compared with Clerk; that locks its row, and
/// keeps it from being deleted meanwhile as [`deletions::put_off_deletion`] does.
async fn keep(lane: &Lane, delivery: &Delivery, outcome: Outcome) -> Result<Outcome, StoreError> {
    lane.transact(async |tx| {
        match (delivery.subject(), &delivery.message.reading) {
            (Some(subject), Reading::Ignored(_) | Reading::Foreign(_)) => {
                deletions::put_off_deletion(tx, subject).await?;
            }
            (Some(subject), Reading::News(_) | Reading::Parked(_)) => {
                reconciliation::want(tx, subject, "a delivery is parked").await?;
            }
            (None, _) => {}
        }
        if enter(tx, delivery, &outcome).await? {
            Ok(End::Commit(outcome))
        } else {
            duplicate(tx, delivery).await.map(End::RollBack)
        }
    })
    .await
}

/// Enters a delivery in the ledger; false if it is there already. Of two at the same moment, the second
/// waits here for the first. Of what is about somebody who was deleted, the body is not kept.
async fn enter(
    db: &mut PgConnection,
    delivery: &Delivery,
    outcome: &Outcome,
) -> Result<bool, StoreError> {
    let entered = sqlx::query!(
        "
        insert into delivery
            (svix_id, event, sent_at, subject, result, detail, revision, body, body_sha256, instance,
             signed_at, is_foreign)
        select $1, $2, $3, $4, $5, $6, $7,
            case when exists (select from subject where subject = $4 and deleted_at is not null)
                then null else $8::bytea end,
            $9, $10, $11, $12
        on conflict (svix_id) do nothing
        ",
        delivery.svix_id,
        delivery.message.event,
        delivery.message.sent_at,
        delivery.subject().map(Subject::as_str),
        outcome.word(),
        outcome.detail(),
        outcome.changed().map(|(_, revision)| i64::try_from(revision).unwrap_or(i64::MAX)),
        &*delivery.body,
        &*Sha256::digest(&delivery.body),
        delivery.message.instance,
        delivery.signed_at,
        matches!(delivery.message.reading, Reading::Foreign(_)),
    )
    .execute(db)
    .await?;
    Ok(entered.rows_affected() == 1)
}

async fn duplicate(db: &mut PgConnection, delivery: &Delivery) -> Result<Outcome, StoreError> {
    let known = sqlx::query_scalar!(
        "select body_sha256 from delivery where svix_id = $1",
        delivery.svix_id
    )
    .fetch_one(db)
    .await?;
    Ok(Outcome::Duplicate { same_body: *known == *Sha256::digest(&delivery.body) })
}
