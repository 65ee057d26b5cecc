//! Parses which deliveries a request selects.

use crate::{
    api::{
        faults::{Faults, instant},
        pb,
    },
    storage::{DeliveryFilter, DeliveryPosition},
};
use chrono::DateTime;

/// Parses the filter of a list of deliveries.
pub(super) fn filter(filter: Option<pb::DeliveryFilter>, faults: &mut Faults) -> DeliveryFilter {
    let filter = filter.unwrap_or_default();
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let subject = given(filter.subject)
        .and_then(|id| id.parse().map_err(|invalid| faults.add("filter.subject", invalid)).ok());
    let result = given(filter.result);
    if let Some(result) = &result
        && !["applied", "superseded", "ignored", "parked"].contains(&&**result)
    {
        faults.add("filter.result", "must be applied, superseded, ignored or parked");
    }
    let from = instant("filter.received_from", filter.received_from, faults);
    let until = instant("filter.received_until", filter.received_until, faults);
    DeliveryFilter { svix_id: given(filter.svix_id), subject, result, from, until }
}

/// Parses the page size: at most 1000 entries, 100 by default.
pub(in crate::api) fn page_size(size: u32, faults: &mut Faults) -> u32 {
    if size > 1000 {
        faults.add("page_size", "must be at most 1000");
    }
    if size == 0 { 100 } else { size }
}

/// Parses a page token: the position after which the page begins.
pub(super) fn position(token: &str, faults: &mut Faults) -> Option<DeliveryPosition> {
    if token.is_empty() {
        return None;
    }
    let parsed = token.split_once('.').and_then(|(micros, svix_id)| {
        let received_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some(DeliveryPosition { received_at, svix_id: svix_id.into() })
    });
    if parsed.is_none() {
        faults.add("page_token", "is not a valid page token: send a `next_page_token` unchanged");
    }
    parsed
}
