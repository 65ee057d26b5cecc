//! Numbers in slugs become limits by the patterns of the catalog file.

use crate::domain::{Catalog, Kind, Numbers, PlanNames};
use proptest::{
    collection::{btree_map, btree_set},
    prelude::*,
};
use std::collections::{BTreeMap, BTreeSet};

/// The features of the plan `pro` with their limits, as text.
#[track_caller]
fn check(numbers: &str, plan: &str, expected: &str) {
    let file = format!("[numbers]\n{numbers}\n[user.plans.pro]\n{plan}");
    let catalog = Catalog::from_toml(&file).unwrap();
    let plan = &catalog.plan_set(Kind::User).plans["pro"];
    let feature = |(slug, limit): (_, &Option<u64>)| match limit {
        Some(limit) => format!("{slug}={limit}"),
        None => format!("{slug}"),
    };
    assert_eq!(plan.features.iter().map(feature).collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn a_slug_states_a_limit_only_if_a_pattern_of_the_file_matches_it() {
    const PROJECTS: &str = "projects = 'projects_{n}'";
    check(PROJECTS, "features = ['projects_25']", "projects=25 projects_25");
    check("", "features = ['projects_25']", "projects_25");
    check(
        "runs = 'runs_{n}_a_month'",
        "features = ['runs_10000_a_month']",
        "runs=10000 runs_10000_a_month",
    );
    check("seats = '{n}_seats'", "features = ['2_seats']", "2_seats seats=2");
    for other in [
        "projects",
        "projects_",
        "projects_x",
        "projects_2x",
        "projects_-1",
        "projects_+1",
        "my_projects_1",
    ] {
        check(PROJECTS, &format!("features = ['{other}']"), other);
    }
    check(PROJECTS, "features = ['projects_2_5']", "projects_2_5");
    check(
        PROJECTS,
        "features = ['projects_99999999999999999999']",
        "projects_99999999999999999999",
    );
    check(PROJECTS, "features = ['projects_9223372036854775808']", "projects_9223372036854775808");
    check(PROJECTS, "features = ['projects_0']", "projects=0 projects_0");
}

#[test]
fn the_largest_number_counts_and_a_limit_of_the_file_outranks_it() {
    const PROJECTS: &str = "projects = 'projects_{n}'";
    check(
        PROJECTS,
        "features = ['projects_25', 'projects_100']",
        "projects=100 projects_100 projects_25",
    );
    check(PROJECTS, "features = ['projects', 'projects_25']", "projects=25 projects_25");
    check(
        PROJECTS,
        "features = ['projects_25']\nlimits = { projects = 3 }",
        "projects=3 projects_25",
    );
}

#[test]
fn an_invalid_pattern_is_an_error_that_names_its_key_and_the_fix() {
    for (numbers, error) in [
        (
            "projects = 'projects'",
            "numbers.projects: `projects` has no {n}; write it in place of the number, as projects_{n}",
        ),
        ("projects = ''", "numbers.projects: `` has no {n}"),
        ("projects = 'projects_{N}'", "`projects_{N}` has no {n}"),
        (
            "projects = 'a_{n}_{n}'",
            "numbers.projects: `a_{n}_{n}` has {n} twice; a slug has one number",
        ),
        ("projects = \"a\\n{n}\"", "numbers.projects: `a\n{n}` cannot be a slug"),
        ("projects = 'org:projects_{n}'", "cannot be a slug, as `org:projects_1`"),
        ("'org:projects' = 'projects_{n}'", "numbers.org:projects: the feature contains a colon"),
        ("'' = 'projects_{n}'", "numbers.: the feature must be a slug"),
        ("projects = 25", "invalid type: integer `25`, expected a string"),
        (
            "a_1 = 'b_{n}'\nc = 'a_{n}'",
            "numbers.c: the pattern `a_{n}` matches `a_1`, which is a key of [numbers]; rename the key",
        ),
    ] {
        let found =
            Catalog::from_toml(&format!("[numbers]\n{numbers}\n[user.plans.pro]")).unwrap_err();
        assert!(found.to_string().contains(error), "{numbers}: {found}");
    }
}

#[test]
fn notes_name_what_a_reader_of_the_file_would_not_expect() {
    let file = "
        [numbers]
        projects = 'projects_{n}'
        runs = 'runs_{n}'
        [user.plans.max]
        features = ['projects_100', 'projects_25']
        [user.plans.pro]
        features = ['projects_25']
        [organization.plans.team]
        features = ['projects_5']
        limits = { projects = 7 }";
    assert_eq!(
        Catalog::from_toml(file).unwrap().number_notes(),
        [
            "numbers.runs: no feature of a plan matches `runs_{n}`",
            "user.plans.max: `projects_100`, `projects_25` state a limit of `projects`; the largest counts, 100",
            "organization.plans.team: `limits` states projects = 7, which outranks the number in `projects_5`",
        ]
    );
}

/// A catalog file with these patterns and one plan.
fn file(
    numbers: &BTreeMap<String, String>,
    plan: (&BTreeSet<String>, &BTreeMap<String, u32>),
) -> String {
    toml::to_string(&serde_json::json!({
        "numbers": numbers,
        "user": { "plans": { "pro": { "features": plan.0, "limits": plan.1 } } },
    }))
    .unwrap()
}

proptest! {
    #[test]
    fn a_catalog_with_numbers_reads_back_and_clerks_plans_get_the_same_limits(
        numbers in btree_map("[a-c]", "(a|b|x)?_?\\{n\\}(_m)?", 0..3),
        features in btree_set("(a|b|x)?_?[0-9]{0,2}(_m)?[a-c]?".prop_filter("a slug", |slug| !slug.is_empty()), 0..8),
        limits in btree_map("[a-c]", any::<u32>(), 0..2),
    ) {
        let whole = Catalog::from_toml(&file(&numbers, (&features, &limits)));
        prop_assume!(whole.is_ok());
        let whole = whole.unwrap();
        for again in [Catalog::from_toml(&whole.to_toml()), Catalog::from_json(&whole.to_json())] {
            prop_assert_eq!(again.as_ref(), Ok(&whole));
        }
        let names = PlanNames::default();
        prop_assert_eq!(&whole.clone().overlaid_on(Catalog::default(), &names), &whole);
        // A file with nothing but patterns, over plans of Clerk.
        let plans = Catalog::from_toml(&file(&BTreeMap::new(), (&features, &limits))).unwrap();
        let patterns = Catalog::from_toml(&file(&numbers, (&BTreeSet::new(), &BTreeMap::new()))).unwrap();
        let patterns = Catalog::default().with_numbers(patterns.numbers().clone());
        let merged = patterns.overlaid_on(plans, &names);
        prop_assert_eq!(merged.plan_set(Kind::User), whole.plan_set(Kind::User));
        prop_assert!(merged.says_the_same_as(&whole));
    }
}

#[test]
fn a_derived_limit_is_not_written_and_so_follows_its_slug() {
    let file = "[numbers]\nprojects = 'projects_{n}'\n[user.plans.pro]\nfeatures = ['projects_25']";
    let written = Catalog::from_toml(file).unwrap().to_toml();
    assert!(!written.contains("limits"), "{written}");
    let edited = Catalog::from_toml(&written.replace("_25", "_5")).unwrap();
    assert_eq!(edited.plan_set(Kind::User).plans["pro"].features["projects"], Some(5));
}

#[test]
fn without_patterns_nothing_is_written() {
    let catalog = Catalog::from_toml("[user.plans.pro]\nfeatures = ['projects_25']").unwrap();
    assert!(!catalog.to_toml().contains("numbers") && !catalog.to_json().contains("numbers"));
    assert!(catalog.numbers().is_empty() && Numbers::parse([]).is_ok());
}
