//! Overrides of an operator take precedence over plans.

use super::{at, check, item, org, overriding, user};
use crate::domain::*;

#[test]
fn a_denying_override_outranks_a_granting_one_and_that_outranks_plans() {
    let granted = |until| overriding(user([]), "assistant", Effect::Grant(Some(5)), until);
    let forever = granted(Until::Forever);
    check(&[&forever], "assistant", "2026-01-15", "allowed OverrideGrants - of user_ada limit 5");
    let ending = granted(Until::Instant(at("2026-02-01")));
    let until = "allowed OverrideGrants - of user_ada limit 5 until 2026-02-01";
    check(&[&ending], "assistant", "2026-01-15", until);
    check(&[&ending], "assistant", "2026-02-01", "denied NotInPlan");

    let until = Until::Instant(at("2026-02-01"));
    let denied = overriding(user([item("pro")]), "export", Effect::Deny, until);
    let acme = org([item("team")]);
    check(&[&denied, &acme], "export", "2026-01-15", "denied OverrideDenies until 2026-02-01");
    check(&[&denied, &acme], "org:export", "2026-01-15", "allowed Plan team of org_acme");
    check(&[&denied], "export", "2026-02-01", "allowed RenewalOverdue pro of user_ada");
}
