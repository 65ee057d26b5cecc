//! Times as people write them.

use super::*;

#[test]
fn times_are_written_as_people_write_them() {
    let now = "2026-11-28T14:03:00Z".parse().unwrap();
    for (text, expected) in [
        ("2026-11-03T14:03:00Z", "2026-11-03T14:03:00Z"),
        ("2026-11-03T14:03:00+01:00", "2026-11-03T13:03:00Z"),
        ("2026-11-03", "2026-11-03T00:00:00Z"),
        ("2026-11-03 14:03", "2026-11-03T14:03:00Z"),
        ("now", "2026-11-28T14:03:00Z"),
        ("today", "2026-11-28T00:00:00Z"),
        ("yesterday", "2026-11-27T00:00:00Z"),
        ("tomorrow", "2026-11-29T00:00:00Z"),
        ("3h", "2026-11-28T11:03:00Z"),
        ("2days 3h", "2026-11-26T11:03:00Z"),
        ("3h ago", "2026-11-28T11:03:00Z"),
        ("in 3h", "2026-11-28T17:03:00Z"),
    ] {
        let expected: DateTime<Utc> = expected.parse().unwrap();
        assert_eq!(parse(text, now, |now, past| now - past), Ok(expected), "{text}");
    }
    for wrong in ["", "last week", "2026-13-01", "14:03", "3", "-3h"] {
        assert_eq!(parse(wrong, now, |now, past| now - past), Err(EXPECTED), "{wrong}");
    }
    let far = parse("200years", now, |now, past| now - past);
    assert_eq!(far, Err("is more than 100 years away"));
}
