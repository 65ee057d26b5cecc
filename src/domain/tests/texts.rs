//! What is read from text, and what is refused.

use super::catalog;
use crate::domain::*;

#[test]
fn a_catalog_that_cannot_be_meant_is_refused_with_its_place() {
    for (text, reason) in [
        ("[user]\ndefault_plan = \"pro\"", "user.default_plan names `pro`, which user.plans lacks"),
        ("[user.plans.\"a:b\"]", "user.plans.a:b: `a:b` has a colon, which marks a scope"),
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
fn a_revision_reads_back_and_says_nothing_of_other_subjects() {
    let (ada, acme): (Subject, Subject) =
        ("user_ada".parse().unwrap(), "org_acme".parse().unwrap());
    let read: Revision = Revision::token(3, [(&ada, 12)]).parse().unwrap();
    assert_eq!((read.catalog, read.of(ada.id()), read.of(acme.id())), (3, 12, 0));
    for text in ["", "x", "3_", "3_zz.1", "3_1.x", "-1"] {
        text.parse::<Revision>().unwrap_err();
    }
}
