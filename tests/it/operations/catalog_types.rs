//! `catalog types`: the keys of a catalog as types, checked by the compilers of their languages.

use crate::support::{database::Db, overrides::CATALOG, shell::Shell, skip::skip};
use insta::assert_snapshot;
use proptest::{
    collection::btree_set,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

/// Slugs that are no identifiers, that would have the same identifier, or that are reserved words.
const AWKWARD: &str = r#"
    [user.plans."pro+"]
    features = ["api-access", "api_access", "apiAccess", "2_endpoints", "self", "Self", "ALL", "a_l_l", "none", "!!", "größe"]
    limits = { "v1.2" = 1, v12 = 2, "api-access" = 3, 'back\slash "quote"' = 4, "right\u202eleft" = 5 }
    [organization.plans."2026"]
"#;

/// The report of `--check` about a file of another catalog.
const DIFFERENCES: &str = "\
+ feature \"saml\": next.toml has it, keys lacks it
+ user plan \"plus\": next.toml has it, keys lacks it
- feature \"sso\": keys has it, next.toml lacks it
- user plan \"max\": keys has it, next.toml lacks it
keys differs from next.toml: it does not have the same keys. Write it again:
  entitlements catalog types --language LANGUAGE --file next.toml --output keys
";

/// Runs a program; `None` if it is not installed.
fn run(program: &str, arguments: &[&str], folder: &Path) -> Option<Output> {
    Command::new(program).args(arguments).current_dir(folder).output().ok()
}

/// The code for a catalog file, from a folder without a database.
fn code(catalog: &str, language: &str) -> String {
    let shell = Shell::new(&[]);
    shell.write("catalog.toml", catalog);
    let arguments = ["catalog", "types", "--language", language, "--file", "catalog.toml"];
    let Output { status, stdout, stderr } = shell.command(&arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The lists of a Rust program with this code: a line for each key, of its type and its bytes.
fn listed_by_rust(code: &str) -> Option<Vec<String>> {
    const MAIN: &str = r#"
        #[allow(unreachable_code)]
        fn main() {
            for key in Feature::ALL { println!("Feature {:?}", key.as_str().as_bytes()) }
            for key in LimitedFeature::ALL {
                assert_eq!(Feature::from(*key).as_str(), key.as_str());
                println!("LimitedFeature {:?}", key.as_str().as_bytes())
            }
            for key in UserPlan::ALL { println!("UserPlan {:?}", key.as_str().as_bytes()) }
            for key in OrganizationPlan::ALL { println!("OrganizationPlan {:?}", key.as_str().as_bytes()) }
        }"#;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("main.rs"), format!("{code}{MAIN}")).unwrap();
    let arguments = ["--edition", "2024", "-D", "warnings", "main.rs"];
    let built = run("rustc", &arguments, folder.path())?;
    assert!(built.status.success(), "{}\n{code}", String::from_utf8_lossy(&built.stderr));
    Some(lines(&run("./main", &[], folder.path()).unwrap(), code))
}

/// The lists of a Python program with this code, as those of Rust.
fn listed_by_python(code: &str) -> Option<Vec<String>> {
    const MAIN: &str = "
for name, keys in [('Feature', FEATURES), ('LimitedFeature', LIMITED_FEATURES), ('UserPlan', USER_PLANS),
                   ('OrganizationPlan', ORGANIZATION_PLANS)]:
    for key in keys:
        print(name, list(key.encode()))
";
    let folder = TempDir::new().unwrap();
    let is_new = "import sys; sys.exit(sys.version_info < (3, 10))";
    run("python3", &["-c", is_new], folder.path()).filter(|output| output.status.success())?;
    fs::write(folder.path().join("main.py"), format!("{code}{MAIN}")).unwrap();
    Some(lines(&run("python3", &["main.py"], folder.path()).unwrap(), code))
}

fn lines(output: &Output, code: &str) -> Vec<String> {
    assert!(output.status.success(), "{}\n{code}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The constants of Go code.
fn go_constants(code: &str) -> Vec<&str> {
    let constants = code.lines().filter(|line| line.starts_with('\t') && line.contains(" = \""));
    constants.map(|line| line.split_whitespace().next().unwrap()).collect()
}

/// A catalog with these features and limits, and a plan for each kind.
fn catalog(features: &BTreeSet<String>, limits: &BTreeSet<String>, plans: [&str; 2]) -> String {
    let text = |slug: &str| serde_json::to_string(slug).unwrap(); // a basic string of TOML, too
    let mut file = format!("[user.plans.{}]\nfeatures = [", text(plans[0]));
    for slug in features {
        write!(file, "{},", text(slug)).unwrap();
    }
    write!(file, "]\n[organization.plans.{}.limits]\n", text(plans[1])).unwrap();
    for slug in limits {
        writeln!(file, "{} = 1", text(slug)).unwrap();
    }
    file
}

/// Checks that the code has the keys of this catalog, in each language that can be run here.
fn check(features: &BTreeSet<String>, limits: &BTreeSet<String>, plans: [&str; 2]) {
    let file = catalog(features, limits, plans);
    let bytes = |kind: &str, slug: &str| format!("{kind} {:?}", slug.as_bytes());
    let all: BTreeSet<_> = features.union(limits).collect();
    let mut expected: Vec<_> = all.iter().map(|slug| bytes("Feature", slug)).collect();
    expected.extend(limits.iter().map(|slug| bytes("LimitedFeature", slug)));
    expected.extend([bytes("UserPlan", plans[0]), bytes("OrganizationPlan", plans[1])]);
    let rust = listed_by_rust(&code(&file, "rust")).expect("cargo runs this test, so rustc exists");
    assert_eq!(rust, expected, "{file}");
    match listed_by_python(&code(&file, "python")) {
        Some(found) => assert_eq!(found, expected, "{file}"),
        None => skip("there is no python3 of version 3.10 or newer"),
    }
    let go = code(&file, "go");
    let constants = go_constants(&go);
    assert_eq!(constants.len(), expected.len(), "{go}");
    assert_eq!(constants.iter().collect::<BTreeSet<_>>().len(), expected.len(), "{go}");
    let is_identifier = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    assert!(constants.iter().all(is_identifier), "{go}");
}

/// Any valid slug, with many that are awkward.
fn slug() -> impl Strategy<Value = String> {
    const WORDS: [&str; 14] =
        ["self", "Self", "ALL", "class", "None", "type", "fn", "a", "A", "b", "x2", "2", "25", "é"];
    let separators = ["_", "-", ".", "__", " ", "", "/", "\u{202e}", "\"", "\\", "`", "${x}", "'"];
    let joined = (select(&WORDS[..]).prop_map(str::to_owned).boxed(), select(separators.to_vec()))
        .prop_flat_map(move |(first, separator)| {
            let rest = select(&WORDS[..]);
            rest.prop_map(move |rest| format!("{first}{separator}{rest}"))
        });
    let is_slug = |slug: &String| {
        !slug.is_empty()
            && slug.len() <= 128
            && !slug.contains(|c: char| c.is_control() || c == ':')
    };
    prop_oneof![joined, "\\PC{1,12}", "[a-z][a-z0-9_]{0,15}"].prop_filter("a slug", is_slug)
}

#[test]
fn code_for_any_slugs_compiles_and_has_exactly_the_keys_of_the_catalog() {
    let (features, limits) = (btree_set(slug(), 0..200), btree_set(slug(), 0..50));
    let mut runner = TestRunner::new(Config { cases: 6, ..Config::default() });
    let cases = (features, limits, slug(), slug());
    runner
        .run(&cases, |(features, limits, user, organization)| {
            check(&features, &limits, [&user, &organization]);
            Ok(())
        })
        .unwrap();
    check(&BTreeSet::new(), &BTreeSet::new(), ["pro", "team"]);
}

#[test]
fn two_slugs_with_the_same_identifier_both_get_another_one() {
    let rust = code(AWKWARD, "rust");
    for name in ["    N2Endpoints,", "    SelfX73656c66,", "    None,", "    GrUf6UdfE,"] {
        assert!(rust.lines().any(|line| line == name), "{name}: {rust}");
    }
    // Code that used `ApiAccess` when there was one such slug must not get the other one.
    assert!(!rust.contains(" ApiAccess,") && rust.contains(" ApiAccessX6170692d616363657373,"));
    assert!(listed_by_rust(&rust).is_some());
    let lone = code("[user.plans.pro]\nfeatures = [\"api_access\"]", "rust");
    assert!(lone.contains(" ApiAccess,"), "{lone}");
}

#[test]
fn typescript_is_unions_and_arrays() {
    assert_snapshot!(code(CATALOG, "ts"), @r#"
    // @generated by `entitlements catalog types --language ts`. Do not edit.

    /** A feature of the catalog. */
    export type Feature =
      | "assistant"
      | "export"
      | "projects"
      | "reports"
      | "sso";

    export const FEATURES: readonly Feature[] = [
      "assistant",
      "export",
      "projects",
      "reports",
      "sso",
    ];

    /** A feature that has a limit in at least one plan. */
    export type LimitedFeature =
      | "projects";

    export const LIMITED_FEATURES: readonly LimitedFeature[] = [
      "projects",
    ];

    /** A plan for users. */
    export type UserPlan =
      | "free"
      | "max"
      | "pro";

    export const USER_PLANS: readonly UserPlan[] = [
      "free",
      "max",
      "pro",
    ];

    /** A plan for organizations. */
    export type OrganizationPlan =
      | "team";

    export const ORGANIZATION_PLANS: readonly OrganizationPlan[] = [
      "team",
    ];
    "#);
    let escaped = code(AWKWARD, "typescript");
    for literal in
        [r#"  | "back\\slash \"quote\"""#, r#"  | "right\u{202e}left""#, r#"  | "größe""#]
    {
        assert!(escaped.lines().any(|line| line == literal), "{literal}: {escaped}");
    }
}

#[test]
fn go_is_string_types_with_constants() {
    assert_snapshot!(code("[user.plans.pro]\nfeatures = [\"sso\"]\nlimits = { projects = 25 }", "go"), @r#"
    // Code generated by `entitlements catalog types --language go`. DO NOT EDIT.

    package entitlements

    // Feature is a feature of the catalog.
    type Feature string

    // All values of Feature.
    const (
    	FeatureProjects Feature = "projects"
    	FeatureSso      Feature = "sso"
    )

    // AllFeatures returns all values of Feature, sorted by slug.
    func AllFeatures() []Feature {
    	return []Feature{
    		FeatureProjects,
    		FeatureSso,
    	}
    }

    // LimitedFeature is a feature that has a limit in at least one plan.
    type LimitedFeature string

    // All values of LimitedFeature.
    const (
    	LimitedFeatureProjects LimitedFeature = "projects"
    )

    // AllLimitedFeatures returns all values of LimitedFeature, sorted by slug.
    func AllLimitedFeatures() []LimitedFeature {
    	return []LimitedFeature{
    		LimitedFeatureProjects,
    	}
    }

    // Feature returns the feature without the fact that it has a limit.
    func (limited LimitedFeature) Feature() Feature {
    	return Feature(limited)
    }

    // UserPlan is a plan for users.
    type UserPlan string

    // All values of UserPlan.
    const (
    	UserPlanPro UserPlan = "pro"
    )

    // AllUserPlans returns all values of UserPlan, sorted by slug.
    func AllUserPlans() []UserPlan {
    	return []UserPlan{
    		UserPlanPro,
    	}
    }

    // OrganizationPlan is a plan for organizations.
    type OrganizationPlan string

    // AllOrganizationPlans returns all values of OrganizationPlan, sorted by slug.
    func AllOrganizationPlans() []OrganizationPlan {
    	return []OrganizationPlan{}
    }
    "#);
}

#[tokio::test]
async fn the_default_is_the_catalog_in_force_and_a_mistyped_key_does_not_compile() {
    let db = Db::new().await;
    let shell = Shell::new(&[("DATABASE_URL", &db.url)]);
    let none = shell.run(&["catalog", "types", "--language", "rust"]).await;
    assert!(none.0 == 2 && none.2.contains("there is no catalog yet"), "{none:?}");
    shell.write("catalog.toml", CATALOG);
    assert_eq!(shell.run(&["catalog", "apply", "catalog.toml"]).await.0, 0);
    let (exit, in_force, stderr) = shell.run(&["catalog", "types", "--language", "rust"]).await;
    assert_eq!((exit, &in_force), (0, &code(CATALOG, "rust")), "{stderr}");
    let folder = TempDir::new().unwrap();
    for (key, compiles) in [("Sso", true), ("Ssso", false)] {
        let asks = format!("pub const KEY: Feature = Feature::{key};");
        fs::write(folder.path().join("lib.rs"), format!("{in_force}{asks}")).unwrap();
        let arguments = ["--crate-type", "lib", "--emit", "metadata", "lib.rs"];
        let built = run("rustc", &arguments, folder.path()).unwrap();
        assert_eq!(built.status.success(), compiles, "{key}");
    }
}

#[tokio::test]
async fn a_check_names_the_keys_that_differ_and_exits_with_1() {
    let shell = Shell::new(&[]);
    shell.write("catalog.toml", CATALOG);
    shell.write(
        "next.toml",
        &CATALOG.replace("\"sso\"", "\"saml\"").replace("plans.max", "plans.plus"),
    );
    for language in ["ts", "rust", "python", "go"] {
        let types = ["catalog", "types", "--language", language, "--file"];
        let with = |more: &[&'static str]| [&types[..], more].concat();
        let missing = shell.run(&with(&["catalog.toml", "--check", "keys"])).await;
        assert!(
            missing.0 == 2 && missing.2.contains("cannot read keys: write it first"),
            "{missing:?}"
        );
        let written = shell.run(&with(&["catalog.toml", "--output", "keys"])).await;
        assert_eq!((written.0, &*written.1), (0, "written  keys\n"));
        let again = shell.run(&with(&["catalog.toml", "--output", "keys"])).await;
        assert_eq!((again.0, &*again.1), (0, "unchanged  keys\n"));
        let same = shell.run(&with(&["catalog.toml", "--check", "keys"])).await;
        assert_eq!((same.0, &*same.1), (0, "keys has the keys of catalog.toml\n"));
        let (code, differs, _) = shell.run(&with(&["next.toml", "--check", "keys"])).await;
        assert_eq!(code, 1);
        let differs = differs.replace(&format!("--language {language} "), "--language LANGUAGE ");
        assert_eq!(differs, DIFFERENCES);
        let (code, json, _) = shell.run(&with(&["next.toml", "--check", "keys", "--json"])).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let plus = serde_json::json!({ "kind": "user plan", "key": "plus" });
        assert_eq!((code, &json["result"], &json["missing"][1]), (1, &"differs".into(), &plus));
        fs::remove_file(shell.path("keys")).unwrap();
    }
}

#[tokio::test]
async fn a_check_reports_an_edited_file_and_accepts_the_line_ends_of_windows() {
    let shell = Shell::new(&[]);
    shell.write("catalog.toml", CATALOG);
    let code = code(CATALOG, "python");
    let check =
        ["catalog", "types", "-l", "python", "--file", "catalog.toml", "--check", "keys.py"];
    for (text, exit, says) in [
        (code.replace('\n', "\r\n"), 0, "has the keys of"),
        (format!("{code}\n# a note\n"), 1, "it has the same keys, in another text: it was edited"),
        (String::new(), 1, "+ feature \"export\": catalog.toml has it, keys.py lacks it"),
    ] {
        shell.write("keys.py", &text);
        let (found, stdout, stderr) = shell.run(&check).await;
        assert!(found == exit && stdout.contains(says), "{found}: {stdout}{stderr}");
    }
}
