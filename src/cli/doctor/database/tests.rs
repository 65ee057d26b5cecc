//! Cases that a real server cannot produce: a wrong clock, and an old version.

use super::*;
use crate::cli::doctor::Severity;

fn check(finding: &Finding, verdict: Severity, words: &str) {
    assert!(finding.verdict == verdict && finding.detail.contains(words), "{finding:?}");
    assert_eq!(finding.fix.is_some(), verdict != Severity::Ok, "{finding:?}");
}

#[test]
fn a_wrong_clock_is_reported_with_its_direction() {
    check(&clock(650.0), Severity::Fail, "the clock of Postgres is 650.000 s ahead of");
    check(&clock(-30.0), Severity::Warn, "the clock of Postgres is 30.000 s behind");
    check(&clock(0.01), Severity::Ok, "0.010 s");
}

#[test]
fn a_server_that_is_too_old_or_a_standby_is_reported() {
    let of = |version, is_standby| {
        super::version(&Inspection {
            version,
            role: "service".into(),
            is_standby,
            tls: None,
            skew: 0.0,
            missing_functions: Vec::new(),
        })
    };
    check(&of(13_00_11, false), Severity::Fail, "PostgreSQL 13.11 is too old");
    check(&of(14_00_00, false), Severity::Ok, "PostgreSQL 14.0");
    check(&of(17_00_02, true), Severity::Fail, "a standby");
}
