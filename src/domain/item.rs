//! A Clerk subscription item, and the access that its status and dates grant at an instant.

use super::{Denial, Grant};
use chrono::{DateTime, Datelike, Duration, Utc};
use std::{fmt, sync::Arc};

/// The end of a grant or an override; `Forever` is later than every instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// Up to this instant, which is not included.
    Instant(DateTime<Utc>),
    /// Without an end, until an update changes it.
    Forever,
}

impl Until {
    /// The instant; `None` for `Forever`.
    #[must_use]
    pub fn instant(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Instant(end) => Some(end),
            Self::Forever => None,
        }
    }
}

/// How long access lasts beyond a date; `None`: until Clerk sends an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Time after a payment failed.
    pub past_due: Option<Duration>,
    /// Time after the end of a period whose renewal Clerk has not announced.
    pub renewal: Option<Duration>,
    /// Time after the end of a free trial whose conversion Clerk has not announced. It is bounded, as nothing was paid.
    pub trial: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { past_due: None, renewal: None, trial: Duration::days(3) }
    }
}

/// The status that Clerk gives an item.
///
/// Source: `BillingSubscriptionItemEventPayload` in Clerk's webhook schemas, and `expired` from its
/// Backend API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<T = Arc<str>> {
    /// The item is paid for, free, or in its trial.
    Active,
    /// The last payment failed.
    PastDue,
    /// The item was canceled; access lasts to the end of the paid period.
    Canceled,
    /// The item has ended.
    Ended,
    /// The item has ended; only the Backend API uses this status.
    Expired,
    /// The item was abandoned before it began.
    Abandoned,
    /// The item begins after the current period.
    Upcoming,
    /// The checkout was started, and the payment was not completed.
    Incomplete,
    /// The newest snapshot no longer lists the item. This status is ours, not Clerk's.
    Withdrawn,
    /// A status that this service does not know; it grants nothing.
    Unknown(T),
}

impl<T: AsRef<str>> Status<T> {
    /// The status as Clerk writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Canceled => "canceled",
            Self::Ended => "ended",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
            Self::Upcoming => "upcoming",
            Self::Incomplete => "incomplete",
            Self::Withdrawn => "withdrawn",
            Self::Unknown(word) => word.as_ref(),
        }
    }
}

impl<'w, T: From<&'w str>> From<&'w str> for Status<T> {
    fn from(word: &'w str) -> Self {
        match word {
            "active" => Self::Active,
            "past_due" => Self::PastDue,
            "canceled" => Self::Canceled,
            "ended" => Self::Ended,
            "expired" => Self::Expired,
            "abandoned" => Self::Abandoned,
            "upcoming" => Self::Upcoming,
            "incomplete" => Self::Incomplete,
            _ => Self::Unknown(word.into()),
        }
    }
}

impl<T: AsRef<str>> fmt::Display for Status<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The seats of an organization's plan; `None`: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats(pub Option<u64>);

/// A plan that a subject holds over a period. Its texts are owned, or borrowed from a packed account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<T = Arc<str>> {
    /// Clerk's id of the item, `csub_item_…`.
    pub id: T,
    /// The plan's slug, which can be changed; `None`: Clerk sent none.
    pub plan: Option<T>,
    /// The plan's id, `cplan_…`, which stays; `None`: Clerk sent none.
    pub plan_id: Option<T>,
    /// The status of the item.
    pub status: Status<T>,
    /// Whether the period is a free trial.
    pub free_trial: bool,
    /// When the period began.
    pub period_start: Option<DateTime<Utc>>,
    /// When the period ends.
    pub period_end: Option<DateTime<Utc>>,
    /// When the item was canceled, if Clerk sent that.
    pub canceled_at: Option<DateTime<Utc>>,
    /// When the payment first failed, if that is known and no payment succeeded since.
    pub past_due_at: Option<DateTime<Utc>>,
    /// Whether the item was ever observed as active. If not, its first payment never succeeded.
    pub was_active: bool,
    /// The seats, for an organization's plan that has them.
    pub seats: Option<Seats>,
    /// When Clerk last changed the item.
    pub updated_at: DateTime<Utc>,
}

/// The access that an item grants at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The item grants its plan until then, for this reason.
    Granted(Grant, Until),
    /// The item grants nothing, for this reason.
    Refused(Denial),
}

impl<T> Item<T> {
    /// Completes the newest observation of an item: with its withdrawal or cancellation by a snapshot, and with the end of
    /// its period by an older observation.
    #[must_use]
    pub fn completed(
        self,
        is_withdrawn: bool,
        is_canceled: bool,
        last_period_end: Option<DateTime<Utc>>,
    ) -> Self {
        let status = match self.status {
            _ if is_withdrawn => Status::Withdrawn,
            Status::Active if is_canceled => Status::Canceled,
            status => status,
        };
        // A canceled item and a trial end with their period, so the end that an older observation had still holds.
        let is_canceled = matches!(status, Status::Canceled) || self.canceled_at.is_some();
        let ends = is_canceled || self.free_trial;
        let period_end = self.period_end.or(last_period_end.filter(|_| ends));
        Self { status, period_end, ..self }
    }

    /// The instant at which time alone ends the access; `None`: never, or the item grants nothing.
    #[must_use]
    pub fn end(&self, grace: Grace) -> Option<DateTime<Utc>> {
        match self.claim(grace) {
            Claim::Granted { until, .. } => until.instant(),
            Claim::Refused(_) => None,
        }
    }

    /// Whether the item is canceled. Clerk has two forms: the status `canceled`, or `active` with `canceled_at`.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        match self.status {
            Status::Canceled => true,
            Status::Active => self.canceled_at.is_some(),
            _ => false,
        }
    }

    /// The instant until which a paid item lasted; `None`: it was never active, or it has no end. An item without an
    /// end is a free plan, whose holder may have paid for another one meanwhile.
    pub(super) fn lasted(&self) -> Option<DateTime<Utc>> {
        match self.status {
            _ if !self.was_active => None,
            Status::Active | Status::Canceled | Status::Withdrawn => self.period_end,
            _ => Some(self.updated_at),
        }
    }

    /// Whether an item with this status can grant, now or at another time.
    #[must_use]
    pub fn may_grant(&self) -> bool {
        matches!(self.status, Status::Active | Status::PastDue | Status::Canceled)
    }

    /// Orders two observations with equal times: the higher rank is the later state.
    #[must_use]
    pub fn rank(&self) -> i16 {
        match self.status {
            Status::Ended | Status::Withdrawn => 8,
            Status::Expired => 7,
            Status::Abandoned => 6,
            Status::Active if self.is_canceled() => 5,
            Status::Canceled => 5,
            Status::PastDue => 4,
            Status::Active => 3,
            Status::Unknown(_) => 2,
            Status::Incomplete | Status::Upcoming => 1,
        }
    }

    /// The grant of the item, independent of the time.
    pub(super) fn claim(&self, grace: Grace) -> Claim {
        match self.status {
            _ if self.is_canceled() => match self.period_end {
                Some(end) => {
                    let until = Until::Instant(end);
                    Claim::until(until, Grant::CanceledButPaid, Denial::PeriodOver)
                }
                None => Claim::Refused(Denial::PeriodOver),
            },
            Status::Active => self.active_claim(grace),
            Status::PastDue => {
                let since = self.past_due_at.unwrap_or(self.updated_at);
                let until = outlive(Some(since), grace.past_due);
                Claim::until(until, Grant::PastDueInGrace, Denial::PastDue)
            }
            Status::Canceled => Claim::Refused(Denial::PeriodOver),
            Status::Ended | Status::Expired | Status::Withdrawn => Claim::Refused(Denial::Ended),
            Status::Abandoned => Claim::Refused(Denial::Abandoned),
            Status::Upcoming => Claim::Refused(Denial::NotStarted),
            Status::Incomplete => Claim::Refused(Denial::CheckoutIncomplete),
            Status::Unknown(_) => Claim::Refused(Denial::UnknownStatus),
        }
    }

    /// An active item still grants after the end of its period, because Clerk announces a renewal only afterwards: for
    /// the renewal or trial grace. After a failed payment, it grants at most to the end of that grace or of the period.
    fn active_claim(&self, grace: Grace) -> Claim {
        let unannounced = if self.free_trial {
            (outlive(self.period_end, Some(grace.trial)), Denial::TrialOver)
        } else {
            (outlive(self.period_end, grace.renewal), Denial::PeriodOver)
        };
        let unpaid = self.past_due_at.zip(self.period_end).map(|(since, end)| {
            (outlive(Some(since), grace.past_due).max(Until::Instant(end)), Denial::PastDue)
        });
        let (until, after) =
            unpaid.into_iter().fold(unannounced, |a, b| if b.0 < a.0 { b } else { a });
        let overdue = match self.past_due_at {
            Some(_) => Grant::PastDueInGrace,
            None => Grant::RenewalOverdue,
        };
        let reason = if self.free_trial { Grant::Trial } else { Grant::Plan };
        let overdue = self.period_end.map(|end| (end, overdue));
        Claim::Granted { until, reason, overdue, after }
    }
}

/// The grant that follows from the status and dates of an item, independent of the time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Claim {
    Granted {
        until: Until,
        reason: Grant,
        /// The instant at which the item should have been renewed, and the reason from then on.
        overdue: Option<(DateTime<Utc>, Grant)>,
        /// The reason to deny after the end.
        after: Denial,
    },
    Refused(Denial),
}

impl Claim {
    fn until(until: Until, reason: Grant, after: Denial) -> Self {
        Self::Granted { until, reason, overdue: None, after }
    }

    /// The access at `now`. Intervals are half open: at the end instant, access is over.
    pub(super) fn at(self, now: DateTime<Utc>) -> Access {
        match self {
            Self::Granted { until, reason, overdue, .. } if until > Until::Instant(now) => {
                let overdue = overdue.filter(|(since, _)| *since <= now);
                Access::Granted(overdue.map_or(reason, |(_, reason)| reason), until)
            }
            Self::Granted { after: denial, .. } | Self::Refused(denial) => Access::Refused(denial),
        }
    }

    /// Until when the access is granted for the reason that applies at `now`.
    pub(super) fn reason_until(self, now: DateTime<Utc>) -> Until {
        match self {
            Self::Granted { until, overdue: Some((since, _)), .. } if since > now => {
                until.min(Until::Instant(since))
            }
            Self::Granted { until, .. } => until,
            Self::Refused(_) => Until::Forever,
        }
    }
}

/// `grace` after `date`; `Forever` without either, or after the year 9999, which answers cannot express.
fn outlive(date: Option<DateTime<Utc>>, grace: Option<Duration>) -> Until {
    let end = date.zip(grace).and_then(|(date, grace)| date.checked_add_signed(grace));
    end.filter(|end| end.year() <= 9999).map_or(Until::Forever, Until::Instant)
}
