//! What cannot be made of a real server: a clock that is off, and an old version.

use super::*;
use crate::cli::doctor::Verdict;

fn check(finding: &Finding, verdict: Verdict, words: &str) {
    assert!(finding.verdict == verdict && finding.seen.contains(words), "{finding:?}");
    assert_eq!(finding.way_out.is_some(), verdict != Verdict::Ok, "{finding:?}");
}

#[test]
fn a_clock_that_is_off_is_told_with_its_direction() {
    check(&clock(650.0), Verdict::Fail, "Postgres's is 650.000 s ahead of");
    check(&clock(-30.0), Verdict::Warn, "Postgres's is 30.000 s behind");
    check(&clock(0.01), Verdict::Ok, "0.010 s");
}

#[test]
fn a_server_that_is_too_old_or_a_standby_is_told() {
    let of = |version, is_standby| {
        super::version(&Inspection {
            version,
            role: "service".into(),
            is_standby,
            tls: None,
            skew: 0.0,
            missing_rights: Vec::new(),
            missing_functions: Vec::new(),
            open_schemas: Vec::new(),
        })
    };
    check(&of(13_00_11, false), Verdict::Fail, "PostgreSQL 13.11 is too old");
    check(&of(14_00_00, false), Verdict::Ok, "PostgreSQL 14.0");
    check(&of(17_00_02, true), Verdict::Fail, "a standby");
}
