//! Parses one subscription item of a webhook body.

use super::json::{Misfit, Object, ReadField};
use crate::domain::{Item, ObservedItem, Payment, Seats, Slug, Status};
use chrono::{DateTime, Duration, Utc};

/// 2015-01-01, in milliseconds since 1970. No date of Clerk can be earlier.
const MIN_TIMESTAMP_MS: i64 = 1_420_070_400_000;
/// The last millisecond of the year 9999, the latest that protobuf and RFC 3339 can represent.
const MAX_TIMESTAMP_MS: i64 = 253_402_300_799_999;
/// How far ahead of this machine's clock a version may be. One version dated 2099 would outrank all later ones.
const MAX_VERSION_LEAD: Duration = Duration::hours(24);

/// The fields of a subscription that its items inherit.
pub(super) struct Subscription {
    updated_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    /// Since when the subscription is past due, if its status is `past_due`.
    past_due: Option<DateTime<Utc>>,
    /// Whether the subscription has ended, and all its items with it, whatever their status.
    is_over: bool,
}

impl Subscription {
    /// Stands in for the subscription of an item that comes alone; `updated_at` is that of the item.
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

/// Parses an item. Optional parts that cannot be parsed are named in `left_out`. An error says why the item cannot be
/// used at all.
pub(super) fn observe(
    data: &Object<'_>,
    of: &Subscription,
    now: DateTime<Utc>,
    left_out: &mut Vec<String>,
) -> Result<ObservedItem, String> {
    let id =
        data.identifier("id").map_err(|e| format!("an item's {e}"))?.ok_or("an item has no id")?;
    let with_id = |why: &dyn std::fmt::Display| format!("item {id}: {why}");
    let status = data.identifier("status").map_err(|e| with_id(&e))?;
    let status = Status::from(&*status.ok_or_else(|| with_id(&"it has no status"))?);
    let updated_at = data.whole("updated_at").ok().flatten();
    let updated_at = instant("updated_at", updated_at, now).map_err(|e| with_id(&e))?;
    let updated_at = updated_at.unwrap_or(of.updated_at);
    let mut optional = Optional { item: &id, left_out };

    let (slug, plan_id) = optional.plan(data);
    let [period_end, canceled_at] = optional.ends(data, &status).map_err(|e| with_id(&e))?;
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
    Ok(ObservedItem { item, payment, sent_at: of.sent_at.unwrap_or(updated_at) })
}

/// The state of payment, from the item or its subscription.
fn payment(item: &Item, of: &Subscription) -> Payment {
    let last_change = item.updated_at.max(of.updated_at);
    let over = item.period_end.filter(|end| *end <= last_change);
    match (&item.status, over, of.past_due) {
        // The payment had failed when the item was last changed, at the latest.
        (Status::PastDue, _, _) => {
            Payment::FailedBy(item.past_due_at.unwrap_or(item.updated_at).min(item.updated_at))
        }
        // The item changed last at its renewal: the payment due at the end of that period failed.
        (Status::Active, Some(end), Some(since)) => Payment::FailedBy(since.max(end)),
        (Status::Active, None, _) => Payment::UpToDate,
        _ => Payment::Unknown,
    }
}

/// Parses the optional parts of an item.
struct Optional<'o> {
    item: &'o str,
    left_out: &'o mut Vec<String>,
}

impl Optional<'_> {
    fn take<T>(&mut self, read: ReadField<T>) -> Option<T> {
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
            let rule = "of the plan must have 1 to 128 bytes without control characters";
            slug.parse().ok().or_else(|| self.leave_out(&Misfit { key: "slug", rule }))
        });
        let id = self.take(plan.identifier("id"));
        (slug, id.or_else(|| self.take(data.identifier("plan_id"))))
    }

    /// When the period ends, and when the item was canceled. A canceled item is unusable if its end cannot be parsed.
    /// For other items that are not active, no decision depends on these dates.
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

    /// The seats. Without a number they are unlimited; a negative number means that the item has no seats.
    fn seats(&mut self, data: &Object<'_>) -> Option<Seats> {
        let (key, rule) = ("seats", "has no valid `quantity`");
        let seats = self.take(data.object(key))?;
        match seats.whole("quantity") {
            Ok(None) => Some(Seats(None)),
            Ok(Some(..0)) => None,
            Ok(Some(i64::MAX)) | Err(_) => self.leave_out(&Misfit { key, rule }),
            Ok(Some(quantity)) => Some(Seats(Some(quantity.unsigned_abs()))),
        }
    }
}

/// A date of an item, in milliseconds since 1970. Clerk also writes a missing date as 0, and once wrote it as a
/// negative number. A date after [`MAX_TIMESTAMP_MS`] is clamped.
fn date(data: &Object<'_>, key: &'static str) -> ReadField<DateTime<Utc>> {
    match data.whole(key)? {
        None | Some(..=0) => Ok(None),
        Some(1..MIN_TIMESTAMP_MS) => Err(Misfit { key, rule: "is before 2015 (in milliseconds)" }),
        Some(ms) => Ok(DateTime::from_timestamp_millis(ms.min(MAX_TIMESTAMP_MS))),
    }
}

/// An instant that orders observations, in milliseconds since 1970. One before [`MIN_TIMESTAMP_MS`] counts as missing; one
/// more than [`MAX_VERSION_LEAD`] in the future is an error.
pub(super) fn instant(
    key: &str,
    ms: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    match ms {
        Some(ms) if ms > (now + MAX_VERSION_LEAD).timestamp_millis() => {
            Err(format!("`{key}` is {ms} ms, which is more than 24 h in the future"))
        }
        Some(ms) if ms >= MIN_TIMESTAMP_MS => Ok(DateTime::from_timestamp_millis(ms)),
        _ => Ok(None),
    }
}
