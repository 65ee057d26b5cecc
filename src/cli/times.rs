//! Parses times of the command line, as people write them.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use prost_types::Timestamp;

const EXPECTED: &str = "needs a date, as 2026-12-31, a time, as 2026-12-31T18:00:00Z, `now`, `today`, `yesterday`, \
                        `tomorrow`, or a duration, as 3h";

/// Parses a time, in UTC; a duration such as `3h` is that long ago, `in 3h` is in the future.
pub(super) fn parse_past(text: &str) -> Result<DateTime<Utc>, &'static str> {
    parse(text, Utc::now(), |now, duration| now - duration)
}

/// Parses a time, in UTC; a duration such as `3h` is that long from now, `3h ago` is in the past.
pub(super) fn parse_future(text: &str) -> Result<DateTime<Utc>, &'static str> {
    parse(text, Utc::now(), |now, duration| now + duration)
}

fn parse(
    text: &str,
    now: DateTime<Utc>,
    by: fn(DateTime<Utc>, TimeDelta) -> DateTime<Utc>,
) -> Result<DateTime<Utc>, &'static str> {
    let text = text.trim();
    let today = now.date_naive();
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
    match text {
        "now" => return Ok(now),
        "today" => return Ok(midnight(today)),
        "yesterday" => return Ok(midnight(today - Days::new(1))),
        "tomorrow" => return Ok(midnight(today + Days::new(1))),
        _ => {}
    }
    if let Some(past) = text.strip_suffix(" ago") {
        return duration(past).map(|past| now - past);
    }
    if let Some(future) = text.strip_prefix("in ") {
        return duration(future).map(|future| now + future);
    }
    let local = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let local = || local.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let date = || text.parse::<NaiveDate>().ok().map(midnight);
    let instant = text.parse::<DateTime<Utc>>().ok();
    match instant.or_else(date).or_else(|| local().map(|time| time.and_utc())) {
        Some(time) => Ok(time),
        None => duration(text).map(|duration| by(now, duration)),
    }
}

/// A duration of at most 100 years, so that no time leaves the calendar.
fn duration(text: &str) -> Result<TimeDelta, &'static str> {
    let duration = humantime::parse_duration(text).map_err(|_| EXPECTED)?;
    let duration = TimeDelta::from_std(duration).ok();
    duration.filter(|duration| duration.num_days() <= 36_525).ok_or("is more than 100 years away")
}

/// The instant in a request.
pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: at.timestamp(), nanos }
}

#[cfg(test)]
mod tests;
