//! One subscription item of a body.

use super::json::{Misfit, Object, Read};
use crate::domain::{Item, Observation, Payment, Seats, Slug, Status};
use chrono::{DateTime, Duration, Utc};

/// 2015-01-01: no date of Clerk's can be older.
const EARLIEST: i64 = 1_420_070_400_000;
/// The last millisecond of the year 9999, the last one that protobuf and RFC 3339 can write.
const LATEST: i64 = 253_402_300_799_999;
/// How far ahead of our clock a version may be. A single one dated 2099 would outrank all that follows.
const AHEAD: Duration = Duration::hours(24);

/// What the subscription around an item says about it.
pub(super) struct Subscription {
    updated_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    /// Since when it is past due, if it says that it is.
    past_due: Option<DateTime<Utc>>,
    /// Whether it is over, and all its items with it, whatever they say.
    is_over: bool,
}

impl Subscription {
    /// What is known of it where an item comes alone: when the item was last changed.
    pub(super) fn none(updated_at: DateTime<Utc>, sent_at: Option<DateTime<Utc>>) -> Self {
        Self { updated_at, sent_at, past_due: None, is_over: false }
    }

    pub(super) fn read(
        data: &Object<'_>,
        updated_at: DateTime<Utc>,
        sent_at: Option<DateTime<Utc>>,
        status: Option<&str>,
    ) -> Self {
        let since = date(data, "past_due_at").ok().flatten().unwrap_or(updated_at);
        let past_due = (status == Some("past_due")).then_some(since);
        let is_over = matches!(status, Some("ended" | "expired"));
        Self { updated_at, sent_at, past_due, is_over }
    }
}

/// Reads an item. Parts that cannot be read and that it can do without are added to `left_out`; an error is why
/// nothing of it can be used.
pub(super) fn observe(
    data: &Object<'_>,
    of: &Subscription,
    now: DateTime<Utc>,
    left_out: &mut Vec<String>,
) -> Result<Observation, String> {
    let id = data.word("id").map_err(|e| format!("an item's {e}"))?.ok_or("an item has no id")?;
    let named = |misfit: &dyn std::fmt::Display| format!("item {id}: {misfit}");
    let status = data.word("status").map_err(|e| named(&e))?;
    let status = Status::from(&*status.ok_or_else(|| named(&"an item has no status"))?);
    let updated_at = data.whole("updated_at").ok().flatten();
    let updated_at = instant("updated_at", updated_at, now).map_err(|e| named(&e))?;
    let updated_at = updated_at.unwrap_or(of.updated_at);
    let mut optional = Optional { item: &id, left_out };

    let (slug, plan_id) = optional.plan(data);
    let [period_end, canceled_at] = optional.ends(data, &status).map_err(|e| named(&e))?;
    let past_due_at = date(data, "past_due_at").unwrap_or_default();
    let inherited = of.past_due.filter(|_| matches!(status, Status::PastDue));
    let item = Item {
        plan: slug.map(|slug| slug.as_str().into()),
        plan_id: plan_id.map(Into::into),
        free_trial: optional.take(data.truth("is_free_trial")).unwrap_or(false),
        period_start: date(data, "period_start").unwrap_or_default(),
        period_end,
        canceled_at,
        past_due_at: past_due_at.or(inherited),
        was_active: matches!(status, Status::Active),
        seats: optional.seats(data),
        id: id.as_str().into(),
        status: if of.is_over { Status::Ended } else { status },
        updated_at,
    };
    let payment = payment(&item, of);
    Ok(Observation { item, payment, sent_at: of.sent_at.unwrap_or(updated_at) })
}

/// What an item says of its payment, or the subscription around it.
fn payment(item: &Item, of: &Subscription) -> Payment {
    let last_change = item.updated_at.max(of.updated_at);
    let over = item.period_end.filter(|end| *end <= last_change);
    match (&item.status, over, of.past_due) {
        // It had failed by the time that says so.
        (Status::PastDue, _, _) => {
            Payment::FailedBy(item.past_due_at.unwrap_or(item.updated_at).min(item.updated_at))
        }
        // Its own change was the last renewal: what failed is what was due at the end of that period.
        (Status::Active, Some(end), Some(since)) => Payment::FailedBy(since.max(end)),
        (Status::Active, None, _) => Payment::UpToDate,
        _ => Payment::Unknown,
    }
}

/// Parts of an item that it can do without.
struct Optional<'o> {
    item: &'o str,
    left_out: &'o mut Vec<String>,
}

impl Optional<'_> {
    fn take<T>(&mut self, read: Read<T>) -> Option<T> {
        read.unwrap_or_else(|misfit| self.leave_out(&misfit))
    }

    fn leave_out<T>(&mut self, misfit: &Misfit) -> Option<T> {
        self.left_out.push(format!("item {}: {misfit}", self.item));
        None
    }

    /// The slug and the id of the plan.
    fn plan(&mut self, data: &Object<'_>) -> (Option<Slug>, Option<String>) {
        let plan = self.take(data.object("plan")).unwrap_or_default();
        let slug = self.take(plan.text("slug")).and_then(|slug| {
            let rule = "of the plan is no slug: 1 to 128 bytes without control characters";
            slug.parse().ok().or_else(|| self.leave_out(&Misfit { key: "slug", rule }))
        });
        let id = self.take(plan.word("id"));
        (slug, id.or_else(|| self.take(data.word("plan_id"))))
    }

    /// When the period ends, and when it was canceled. What a canceled item was paid for cannot do without its end;
    /// of other items that are not active, nothing is decided from these dates.
    fn ends(
        &mut self,
        data: &Object<'_>,
        status: &Status,
    ) -> Result<[Option<DateTime<Utc>>; 2], Misfit> {
        let (end, canceled) = (date(data, "period_end"), date(data, "canceled_at"));
        Ok(match status {
            Status::Active => [self.take(end), self.take(canceled)],
            Status::Canceled => [end?, canceled.unwrap_or_default()],
            _ => [end.unwrap_or_default(), canceled.unwrap_or_default()],
        })
    }

    /// The seats; without a number they are unlimited, and a negative number is none.
    fn seats(&mut self, data: &Object<'_>) -> Option<Seats> {
        let (key, rule) = ("seats", "are no number of seats");
        let seats = self.take(data.object(key))?;
        match seats.whole("quantity") {
            Ok(None) => Some(Seats(None)),
            Ok(Some(..0)) => None,
            Ok(Some(i64::MAX)) | Err(_) => self.leave_out(&Misfit { key, rule }),
            Ok(Some(quantity)) => Some(Seats(Some(quantity.unsigned_abs()))),
        }
    }
}

/// A date of an item, in milliseconds. Clerk writes "none" also as 0, and once wrote it as a negative number; what
/// lies further ahead than can be written is the last instant that can.
fn date(data: &Object<'_>, key: &'static str) -> Read<DateTime<Utc>> {
    match data.whole(key)? {
        None | Some(..=0) => Ok(None),
        Some(1..EARLIEST) => Err(Misfit { key, rule: "is, in milliseconds, before 2015" }),
        Some(ms) => Ok(DateTime::from_timestamp_millis(ms.min(LATEST))),
    }
}

/// An instant that orders observations. One that cannot be counts as absent; one in the future is an error.
pub(super) fn instant(
    key: &str,
    ms: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    match ms {
        Some(ms) if ms > (now + AHEAD).timestamp_millis() => {
            Err(format!("`{key}` is {ms}, which in milliseconds is more than 24 h from now"))
        }
        Some(ms) if ms >= EARLIEST => Ok(DateTime::from_timestamp_millis(ms)),
        _ => Ok(None),
    }
}
