//! A plan is identified by its id; its slug can change.

use super::{item, user};
use crate::domain::{Catalog, Item, Kind, PlanName, PlanNames, Question, decide};

const FILE: &str =
    "[user.plans.basic]\nfeatures = [\"reports\"]\n[user.plans.basic.limits]\nseats = 5\n";
const CLERK: &str = "[user]\ndefault_plan = \"basic\"\n[user.plans.basic]\nid = \"cplan_b\"\nfeatures = [\"clerk\"]";
const RENAMED: &str = "[user]\ndefault_plan = \"starter\"\n[user.plans.starter]\nid = \"cplan_b\"\nfeatures = [\"clerk\"]";

fn catalog(file: &str, clerk: &str, names: &[(&str, &str)]) -> Catalog {
    let mut seen = PlanNames::default();
    for (id, slug) in names {
        seen.add(Kind::User, PlanName { id: (*id).into(), slug: (*slug).into() });
    }
    let read = |text| Catalog::from_toml(text).unwrap();
    read(file).overlaid_on(read(clerk), &seen)
}

fn held(id: Option<&str>, slug: Option<&str>) -> Item {
    Item { plan_id: id.map(Into::into), plan: slug.map(Into::into), ..item("basic") }
}

#[track_caller]
fn check(catalog: &Catalog, held: &Item, feature: &str) {
    let ada = user([held.clone()]);
    let question = Question::feature(feature).unwrap();
    let now = super::at("2026-01-15");
    let decision = decide(&[&ada], catalog, &question, now);
    assert!(super::line_of(&decision).starts_with("allowed Plan"), "{held:?}: {decision:?}");
}

#[test]
fn after_a_slug_change_all_holders_keep_their_features() {
    let names = [("cplan_b", "basic"), ("cplan_b", "starter")];
    let holders = [
        held(Some("cplan_b"), Some("basic")),
        held(Some("cplan_b"), Some("starter")),
        held(Some("cplan_b"), None),
        held(None, Some("basic")),
        held(None, Some("starter")),
    ];
    for holder in &holders {
        check(&catalog("", RENAMED, &names), holder, "clerk");
        check(&catalog(FILE, RENAMED, &names), holder, "reports");
        check(&catalog(FILE, "", &names), holder, "reports");
    }
    let by_id = FILE.replace("features", "id = \"cplan_b\"\nfeatures");
    for holder in &holders[..4] {
        check(&catalog(&by_id, "", &[]), holder, "reports");
    }
    assert_eq!(
        catalog(FILE, RENAMED, &names).plan_set(Kind::User).default_plan.as_ref().unwrap().as_str(),
        "basic"
    );
}

#[test]
fn a_plan_may_be_asked_for_by_the_slug_that_it_had() {
    let catalog = catalog("", RENAMED, &[("cplan_b", "basic")]);
    for asked in ["basic", "starter"] {
        let ada = user([held(Some("cplan_b"), Some("basic"))]);
        let question = Question::plan(asked).unwrap();
        let now = super::at("2026-01-15");
        let decision = decide(&[&ada], &catalog, &question, now);
        assert!(super::line_of(&decision).starts_with("allowed"), "{asked}: {decision:?}");
    }
}

#[test]
fn a_new_plan_that_reuses_a_slug_is_another_plan() {
    let both = format!("{RENAMED}\n[user.plans.basic]\nid = \"cplan_n\"\nfeatures = [\"new\"]");
    let names = [("cplan_b", "basic"), ("cplan_b", "starter"), ("cplan_n", "basic")];
    let catalog = catalog("", &both, &names);
    check(&catalog, &held(Some("cplan_b"), Some("basic")), "clerk");
    check(&catalog, &held(Some("cplan_n"), Some("basic")), "new");
    check(&catalog, &held(None, Some("basic")), "new");
}

#[test]
fn a_plan_that_clerk_no_longer_lists_stays_unless_it_was_renamed() {
    let read = |text| Catalog::from_toml(text).unwrap();
    let mut without = read("[user.plans.other]\nid = \"cplan_o\"");
    without.keep_retired(&read(CLERK));
    let plan_set = without.plan_set(Kind::User);
    assert!(plan_set.plans["basic"].retired && !plan_set.plans["other"].retired);
    assert_eq!(plan_set.default_plan.as_ref().unwrap().as_str(), "basic");
    let mut renamed = read(RENAMED);
    renamed.keep_retired(&read(CLERK));
    assert_eq!(renamed, read(RENAMED));
}

#[test]
fn an_id_belongs_to_one_plan_and_has_clerks_format() {
    for (text, why) in [
        (
            "[user.plans.a]\nid = \"cplan_1\"\n[user.plans.b]\nid = \"cplan_1\"",
            "user.plans.a already",
        ),
        ("[user.plans.a]\nid = \"\"", "user.plans.a.id must be"),
        ("[user.plans.a]\nid = \"c plan\"", "user.plans.a.id must be"),
    ] {
        let error = Catalog::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}
