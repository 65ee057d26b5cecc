//! Parsing of catalogs, subjects and revisions.

use super::catalog;
use crate::domain::*;
use chrono::Duration;

#[test]
fn an_invalid_catalog_is_rejected_with_the_position() {
    for (text, reason) in [
        ("[user]\ndefault_plan = \"pro\"", "user.default_plan: user.plans has no plan `pro`"),
        ("[user.plans.\"a:b\"]", "user.plans.a:b: `a:b` contains a colon"),
        ("[user.plans.pro]\nfeatures = [\"\"]", "user.plans.pro: `` must be a slug"),
        ("[user.plans.pro]\nfeature = [\"x\"]", "unknown field `feature`"),
        ("[org.plans.pro]", "unknown field `org`"),
        ("[user.plans.pro]\nlimits = { projects = -1 }", "projects"),
        ("[grace]\ntrial = \"soon\"", "grace.trial: `soon` must be a duration"),
        ("[grace]\npast_due = \"-3days\"", "grace.past_due: `-3days` must be a duration"),
        (
            "[grace]\nrenewal = \"1us\"",
            "grace.renewal: `1us` must be a duration in whole milliseconds",
        ),
        ("[grace]\nrenewal = \"300000000000years\"", "grace.renewal: `300000000000years` must be"),
        ("[grace]\npast_due = 3", "past_due"),
        ("[grace]\npastdue = \"3days\"", "unknown field `pastdue`"),
        ("[user", "expected"),
    ] {
        let error = Catalog::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn the_canonical_text_of_a_catalog_reads_back_as_the_same() {
    assert_eq!(Catalog::from_json(&catalog().to_json()).unwrap(), *catalog());
    assert_eq!(Catalog::from_toml(&catalog().to_toml()).unwrap(), *catalog());
    let odd = "strict = [\"a.b\"]\n[user.plans.\"x.y \\\" z\"]\nfeatures = [\"a.b\"]\n\
        limits = { \"é c\" = 0, d = 9223372036854775807 }\n[grace]\npast_due = \"36h\"";
    let odd = Catalog::from_toml(odd).unwrap();
    assert_eq!(Catalog::from_toml(&odd.to_toml()).unwrap(), odd);
    let huge = "[user.plans.pro]\nlimits = { seats = 9223372036854775808 }";
    assert!(Catalog::from_toml(huge).is_err());
}

#[test]
fn the_grace_of_a_catalog_reads_back_and_its_default_is_not_written() {
    let days = |days| Some(Duration::days(days));
    for (name, text, grace) in [
        ("none", "", Grace::default()),
        ("the default", "[grace]\ntrial = \"3days\"", Grace::default()),
        ("empty", "[grace]", Grace::default()),
        (
            "past due",
            "[grace]\npast_due = \"7days\"",
            Grace { past_due: days(7), ..Grace::default() },
        ),
        ("renewal", "[grace]\nrenewal = \"0s\"", Grace { renewal: days(0), ..Grace::default() }),
        (
            "all",
            "[grace]\npast_due = \"1day\"\nrenewal = \"2days 1ms\"\ntrial = \"1month\"",
            Grace {
                past_due: days(1),
                renewal: days(2).map(|days| days + Duration::milliseconds(1)),
                trial: Duration::seconds(2_630_016),
            },
        ),
    ] {
        let catalog = Catalog::from_toml(text).unwrap();
        assert_eq!(catalog.grace, grace, "{name}");
        let canonical = catalog.to_json();
        assert_eq!(Catalog::from_json(&canonical).unwrap(), catalog, "{name}: {canonical}");
        let is_default = grace == Grace::default();
        assert_eq!(canonical.contains("grace"), !is_default, "{name}: {canonical}");
        let clerks = Catalog::from_toml("[user.plans.pro]").unwrap();
        let merged = catalog.overlaid_on(clerks, &PlanNames::default());
        assert_eq!(merged.grace, grace, "{name}: the file decides");
    }
}

#[test]
fn only_clerk_ids_are_subjects() {
    for id in ["user_3jKR", "org_3jKR-x_y"] {
        assert_eq!(id.parse::<Subject>().unwrap().to_string(), id);
    }
    let long = format!("user_{}", "x".repeat(10_000));
    for id in
        ["", "user_", "org_", "team_1", "user_ 1", "user_\u{202e}1", "user_\0", "USER_1", &long]
    {
        id.parse::<Subject>().unwrap_err();
    }
    Subject::of(Kind::User, "org_1").unwrap_err();
}

#[test]
fn a_revision_reads_back_and_does_not_apply_to_other_subjects() {
    let (ada, acme): (Subject, Subject) =
        ("user_ada".parse().unwrap(), "org_acme".parse().unwrap());
    let catalog = CatalogState { number: 3, names: 5 };
    let read: Revision = Revision::token(catalog, [(&ada, 12)]).parse().unwrap();
    assert_eq!((read.catalog, read.of(ada.id()), read.of(acme.id())), (catalog, Some(12), None));
    for text in ["", "x", "3", "3.5_", "3.5_zz.1", "3.5_1.x", "-1.0", "3.", "3.5.1"] {
        text.parse::<Revision>().unwrap_err();
    }
}

#[test]
fn the_example_catalog_equals_the_sample_plans_of_clerks_backend_api() {
    let example = Catalog::from_toml(include_str!("../../../catalog.example.toml")).unwrap();
    let said = include_str!("../../../tests/payloads/bapi/plans.json");
    let said: serde_json::Value = serde_json::from_str(said).unwrap();
    for plan in said["data"].as_array().unwrap() {
        let kind = if plan["for_payer_type"] == "user" { Kind::User } else { Kind::Organization };
        let slug = plan["slug"].as_str().unwrap();
        let features = plan["features"].as_array().unwrap().iter();
        let features: Vec<_> = features.map(|f| f["slug"].as_str().unwrap()).collect();
        let plan_set = example.plan_set(kind);
        let mut ours: Vec<_> = plan_set.plans[slug].features.keys().map(Slug::as_str).collect();
        ours.sort_by_key(|feature| features.iter().position(|f| f == feature));
        assert_eq!(ours, features, "{slug}");
        let is_default = plan_set.default_plan.as_ref().is_some_and(|d| d.as_str() == slug);
        assert_eq!(plan["is_default"], is_default, "{slug}");
    }
    assert_eq!(example.plans(), said["data"].as_array().unwrap().len());
}
