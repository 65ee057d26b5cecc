//! One Clerk subscription item, and what its status and dates grant at an instant.

use super::{Denial, Grant};
use chrono::{DateTime, Datelike, Duration, Utc};
use std::{fmt, sync::Arc};

/// Until when something holds; `Forever` outlasts every instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// Up to, and not including, this instant.
    Instant(DateTime<Utc>),
    /// Until news says otherwise.
    Forever,
}

impl Until {
    /// The instant, if there is one.
    #[must_use]
    pub fn instant(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Instant(end) => Some(end),
            Self::Forever => None,
        }
    }
}

/// How long access outlives a date; `None`: until news from Clerk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// After a payment failed.
    pub past_due: Option<Duration>,
    /// After a period whose renewal was never announced.
    pub renewal: Option<Duration>,
    /// After a free trial whose conversion was never announced: nobody has paid for it.
    pub trial: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { past_due: None, renewal: None, trial: Duration::days(3) }
    }
}

/// Clerk's word for an item's state.
///
/// Source: `BillingSubscriptionItemEventPayload` in Clerk's webhook schemas, and `expired` from its
/// Backend API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<T = Arc<str>> {
    /// Paid for, free, or in its trial.
    Active,
    /// Its last payment failed.
    PastDue,
    /// Canceled; what was paid for remains.
    Canceled,
    /// Over.
    Ended,
    /// Over, in the words of the Backend API.
    Expired,
    /// Given up before it began.
    Abandoned,
    /// Queued after the current period.
    Upcoming,
    /// Checkout started, payment not completed.
    Incomplete,
    /// Listed no longer by the newest snapshot.
    Withdrawn,
    /// A word that this service does not know; it grants nothing.
    Unknown(T),
}

impl<T: AsRef<str>> Status<T> {
    /// The word, as Clerk writes it.
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

/// The seats bought with an organization's plan; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats(pub Option<u64>);

/// One plan held by a subject over a period. Its text is owned, or borrowed from the account that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<T = Arc<str>> {
    /// Clerk's id, `csub_item_…`.
    pub id: T,
    /// The plan's slug, which can be changed; `None`: Clerk did not say.
    pub plan: Option<T>,
    /// The plan's id, `cplan_…`, which stays; `None`: Clerk did not say.
    pub plan_id: Option<T>,
    /// Clerk's status.
    pub status: Status<T>,
    /// Whether the period is a free trial.
    pub free_trial: bool,
    /// When the period began.
    pub period_start: Option<DateTime<Utc>>,
    /// When the period ends.
    pub period_end: Option<DateTime<Utc>>,
    /// When it was canceled, if Clerk says so.
    pub canceled_at: Option<DateTime<Utc>>,
    /// When its payment first failed, if that is known and nothing was paid since.
    pub past_due_at: Option<DateTime<Utc>>,
    /// Whether it was ever observed as active: otherwise its first payment never succeeded.
    pub was_active: bool,
    /// Seats, for an organization's plan that has them.
    pub seats: Option<Seats>,
    /// When Clerk last changed the item.
    pub updated_at: DateTime<Utc>,
}

/// What an item grants at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its plan, until then.
    Granted(Grant, Until),
    /// Nothing.
    Refused(Denial),
}

impl<T> Item<T> {
    /// The instant at which time alone ends what the item grants.
    #[must_use]
    pub fn end(&self, grace: Grace) -> Option<DateTime<Utc>> {
        match self.claim(grace) {
            Claim::Granted { until, .. } => until.instant(),
            Claim::Refused(_) => None,
        }
    }

    /// Whether the item is canceled, in either of Clerk's two spellings.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        match self.status {
            Status::Canceled => true,
            Status::Active => self.canceled_at.is_some(),
            _ => false,
        }
    }

    /// Until when it lasted, if it was paid for. What has no end is free: whoever holds it may well have paid for
    /// something else meanwhile.
    pub(super) fn lasted(&self) -> Option<DateTime<Utc>> {
        match self.status {
            _ if !self.was_active => None,
            Status::Active | Status::Canceled | Status::Withdrawn => self.period_end,
            _ => Some(self.updated_at),
        }
    }

    /// Whether its status is one that can grant, now or at another time.
    #[must_use]
    pub fn may_grant(&self) -> bool {
        matches!(self.status, Status::Active | Status::PastDue | Status::Canceled)
    }

    /// Which of two observations tells the later state, where their times are the same.
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

    /// What the item grants, whatever the time is.
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

    /// An active item is not cut at its period's end, because a renewal is announced only afterwards: unless it was
    /// a trial, or its subscription has said that the payment failed.
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

/// What an item's status and dates claim, whatever the time is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Claim {
    Granted {
        until: Until,
        reason: Grant,
        /// The reason from an instant on at which the item should have been renewed.
        overdue: Option<(DateTime<Utc>, Grant)>,
        /// Why it grants nothing from its end on.
        after: Denial,
    },
    Refused(Denial),
}

impl Claim {
    fn until(until: Until, reason: Grant, after: Denial) -> Self {
        Self::Granted { until, reason, overdue: None, after }
    }

    /// What is granted at `now`. The windows are half open: at its end, access is over.
    pub(super) fn at(self, now: DateTime<Utc>) -> Access {
        match self {
            Self::Granted { until, reason, overdue, .. } if until > Until::Instant(now) => {
                let overdue = overdue.filter(|(since, _)| *since <= now);
                Access::Granted(overdue.map_or(reason, |(_, reason)| reason), until)
            }
            Self::Granted { after: denial, .. } | Self::Refused(denial) => Access::Refused(denial),
        }
    }

    /// Until when what is granted at `now` is granted for the same reason.
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

/// `grace` after `date`; for ever without either, or where no calendar that answers are written in goes that far.
fn outlive(date: Option<DateTime<Utc>>, grace: Option<Duration>) -> Until {
    let end = date.zip(grace).and_then(|(date, grace)| date.checked_add_signed(grace));
    end.filter(|end| end.year() <= 9999).map_or(Until::Forever, Until::Instant)
}
