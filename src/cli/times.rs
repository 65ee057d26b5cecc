//! Parses times of the command line.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use prost_types::Timestamp;

/// Parses an instant.
pub(super) fn parse_instant(text: &str) -> Result<DateTime<Utc>, &'static str> {
    text.parse().map_err(|_| "needs a date, a time and a zone, as 2026-11-03T14:03:00Z")
}

/// Parses a date, which is its beginning in UTC, or an instant.
pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, &'static str> {
    match text.parse::<NaiveDate>() {
        Ok(date) => Ok(date.and_time(NaiveTime::MIN).and_utc()),
        Err(_) => text.parse().map_err(|_| {
            "needs a date, as 2026-12-31, or a date with a time and a zone, as 2026-12-31T18:00:00Z"
        }),
    }
}

/// The instant in a request.
pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: at.timestamp(), nanos }
}
