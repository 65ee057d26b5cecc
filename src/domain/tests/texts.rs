//! Parsing of catalogs, subjects and revisions.

use super::catalog;
use crate::domain::*;

#[test]
fn an_invalid_catalog_is_rejected_with_the_position() {
    for (text, reason) in [
        ("[user]\ndefault_plan = \"pro\"", "user.default_plan: user.plans has no plan `pro`"),
        ("[user.plans.\"a:b\"]", "user.plans.a:b: `a:b` contains a colon"),
        ("[user.plans.pro]\nfeatures = [\"\"]", "user.plans.pro: `` must be a slug"),
        ("[user.plans.pro]\nfeature = [\"x\"]", "unknown field `feature`"),
        ("[org.plans.pro]", "unknown field `org`"),
        ("[user.plans.pro]\nlimits = { projects = -1 }", "projects"),
        ("[user", "expected"),
    ] {
        let error = Catalog::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn the_canonical_text_of_a_catalog_reads_back_as_the_same() {
    assert_eq!(Catalog::from_json(&catalog().to_json()).unwrap(), *catalog());
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
    let read: Revision = Revision::token(3, [(&ada, 12)]).parse().unwrap();
    assert_eq!((read.catalog, read.of(ada.id()), read.of(acme.id())), (3, 12, 0));
    for text in ["", "x", "3_", "3_zz.1", "3_1.x", "-1"] {
        text.parse::<Revision>().unwrap_err();
    }
}
