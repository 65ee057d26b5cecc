//! Checks beyond the compiler: allowed imports, lengths of files and functions, and leftovers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of `src/` and the modules that each may import, from top to bottom. All may use `telemetry`.
const ALLOWED_IMPORTS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &[
            "check", "api", "app", "clerk", "config", "domain", "ingest", "replica", "server",
            "storage",
        ],
    ),
    (
        "app",
        &["api", "check", "clerk", "config", "domain", "ingest", "replica", "server", "storage"],
    ),
    ("api", &["check", "clerk", "domain", "ingest", "replica", "server", "storage"]),
    ("check", &["domain", "replica", "storage"]),
    ("ingest", &["clerk", "domain", "replica", "storage"]),
    ("replica", &["domain", "storage"]),
    ("storage", &["domain"]),
    ("config", &["clerk", "domain"]),
    ("clerk", &["domain"]),
    ("server", &["domain"]),
    ("domain", &[]),
    ("telemetry", &[]),
];

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 40;
const LONGEST_MAIN: usize = 40;

/// Reads every source file below a folder.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// The top-level module of a file: `storage` for `src/storage/pool.rs`.
fn part(path: &Path) -> String {
    let first = path.components().nth(1).unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether this is a file of unit tests in `src/`, in which functions may be longer and may unwrap.
fn is_unit_test(path: &Path) -> bool {
    path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

/// The modules that a text names as `crate::part` or in `use crate::{part, …}`.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, found) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names(group)),
            None => names.extend(identifier(rest)),
        }
    }
    names
}

/// The first name of each entry of a `{…}` group, whose text begins after the brace.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut expecting, mut names) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            c if expecting && c.is_alphabetic() => {
                names.extend(identifier(&group[at..]));
                expecting = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(char::is_lowercase).then_some(name)
}

#[test]
fn a_module_imports_only_allowed_modules() {
    let allowed_imports: BTreeMap<_, _> = ALLOWED_IMPORTS.iter().copied().collect();
    let mut forbidden = Vec::new();
    for (path, text) in sources("src") {
        let part = part(&path);
        let allowed = allowed_imports.get(&*part).copied().unwrap_or_default();
        for name in named(&text) {
            let is_allowed = allowed.contains(&&*name) || (name == "telemetry" && part != "domain");
            if name != part && !is_allowed {
                forbidden.push(format!("{}: {part} imports {name}", path.display()));
            }
        }
    }
    assert!(forbidden.is_empty(), "imports that are not allowed:\n{}", forbidden.join("\n"));
}

#[test]
fn a_test_module_imports_only_from_support() {
    for (path, text) in sources("tests/it") {
        for name in named(&text) {
            assert_eq!(
                name,
                "support",
                "{}: move what two modules need to support/",
                path.display()
            );
        }
        assert!(!text.contains("super::super"), "{}", path.display());
    }
}

#[test]
fn the_domain_uses_no_sql_proto_json_clock_or_async() {
    let forbidden = ["sqlx", "tonic", "prost", "tokio", "Utc::now", "SystemTime", "async fn"];
    for (path, text) in sources("src/domain") {
        for word in forbidden {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let lines: Vec<_> = text.lines().collect();
        let is_main = path == Path::new("src/main.rs");
        let most = if is_main { LONGEST_MAIN } else { LONGEST_FILE };
        if lines.len() > most {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (name, length) in functions(&lines) {
            if length > LONGEST_FUNCTION && path.starts_with("src") && !is_unit_test(&path) {
                long.push(format!("{}: {name} has {length} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

/// Each function with its number of lines. rustfmt puts its closing brace at the indentation of its first line.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some((before, after)) = code.split_once("fn ") else { continue };
        let words = ["", "pub", "pub(super)", "pub(crate)", "async", "const"];
        if !before.split(' ').all(|word| words.contains(&word)) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[at..].iter().position(|line| **line == end).map_or(1, |n| n + 1);
        let length = length - sql(&lines[at..at + length]);
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        found.push((name, length));
    }
    found
}

/// The number of SQL lines, which do not count, because SQL stands in the function that runs it.
fn sql(lines: &[&str]) -> usize {
    let (mut inside, mut count) = (false, 0);
    for line in lines.iter().map(|line| line.trim()) {
        if inside {
            count += 1;
            inside = !matches!(line, "\"," | "\"#,");
        } else {
            inside = matches!(line, "\"" | "r#\"");
        }
    }
    count
}

#[test]
fn every_query_names_the_schema_of_its_tables() {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut tables = BTreeSet::from(["_sqlx_migrations".to_owned()]);
    for migration in fs::read_dir(migrations).unwrap() {
        let text = fs::read_to_string(migration.unwrap().path()).unwrap();
        let names = text.split("create table entitlements.").skip(1);
        tables.extend(names.filter_map(identifier));
        assert!(!text.contains("create table public"), "{text}");
    }
    assert!(tables.len() > 10, "{tables:?}");
    for (path, text) in ["src", "benches"].map(sources).concat() {
        let code: Vec<_> = text.lines().filter(|line| !line.trim().starts_with("//")).collect();
        let words: Vec<_> = code.iter().flat_map(|line| line.split_whitespace()).collect();
        for pair in words.windows(2) {
            let is_named = ["from", "join", "into", "update", "table"].contains(&pair[0]);
            let name = pair[1].trim_end_matches(|c: char| !c.is_alphanumeric());
            let place = path.display();
            assert!(!(is_named && tables.contains(name)), "{place}: {} {}", pair[0], pair[1]);
        }
    }
}

#[test]
fn no_leftovers_are_committed() {
    let leftovers = ["TODO", "FIXME", "XXX", "#[ignore"]; // clippy refuses `todo!` and `dbg!`
    for (path, text) in sources("src").into_iter().chain(sources("tests/it")) {
        for word in leftovers {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
        if path.starts_with("src") && !is_unit_test(&path) {
            assert!(!text.contains(".unwrap()"), "{} unwraps", path.display());
        }
    }
}

#[test]
fn every_file_has_a_module_comment() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
    }
}

#[test]
fn a_type_name_means_one_type() {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for (path, text) in sources("src").into_iter().chain(sources("crates")) {
        for line in text.lines() {
            let words = line.split_whitespace();
            let mut words = words.skip_while(|word| word.starts_with("pub") || word.ends_with(')'));
            if let (Some("struct" | "enum" | "trait"), Some(name)) = (words.next(), words.next()) {
                let name = name.split(['<', '(', ';']).next().unwrap();
                places.entry(name.into()).or_default().push(path.display().to_string());
            }
        }
    }
    assert!(places.len() > 200, "only {} were found", places.len());
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "defined more than once: {places:#?}");
}

#[test]
fn the_page_of_guarantees_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let all = ["src", "tests", "crates"].map(sources).concat();
    let mut count = 0;
    for name in page.split('`').skip(1).step_by(2).filter(|code| is_test_name(code)) {
        let last = name.rsplit("::").next().unwrap();
        let function = match last.strip_suffix('*') {
            Some(start) => format!("fn {start}"),
            None => format!("fn {last}("),
        };
        let module = format!("mod {last};");
        let is_there =
            all.iter().any(|(_, text)| text.contains(&function) || text.contains(&module));
        assert!(is_there, "docs/guarantees.md names {name}");
        count += 1;
    }
    assert!(count > 100, "only {count} were found");
}

/// Whether this is the path of a test, such as `ingest::ledger::a_delivery_is_recorded_once`.
fn is_test_name(code: &str) -> bool {
    let is_part =
        |part: &str| part.chars().all(|c| c.is_lowercase() || c.is_numeric() || "_*".contains(c));
    code.contains("::") && code.split("::").all(is_part)
}

#[test]
fn the_operations_manual_explains_each_warning_and_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let (_, table) = manual.split_once("### What the log says").unwrap();
    let table = words(table.split("\n## ").next().unwrap());
    let mut count = 0;
    for (path, text) in sources("src") {
        for (at, _) in
            text.match_indices("tracing::warn!(").chain(text.match_indices("tracing::error!("))
        {
            let message = longest_literal(&text[at..]);
            // The first fixed part of the text; the table contains its first words.
            let mut fixed = message.split(['{', '}']).step_by(2).map(words);
            let fixed = fixed.find(|piece| piece.split(' ').count() > 2).unwrap_or_default();
            let fixed: Vec<_> = fixed.split(' ').take(5).collect();
            assert!(table.contains(&fixed.join(" ")), "{}: {message}", path.display());
            count += 1;
        }
    }
    assert!(count > 20, "only {count} were found");
}

/// The words of a text, without punctuation.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The longest string literal in a call that begins here.
fn longest_literal(call: &str) -> String {
    let (mut depth, mut literals) = (0, Vec::new());
    for (at, piece) in call.split('"').enumerate() {
        if at % 2 == 1 {
            literals.push(piece.replace("\\\n", " "));
            continue;
        }
        for c in piece.chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if depth == 0 && c == ')' {
                return literals.into_iter().max_by_key(String::len).unwrap_or_default();
            }
        }
    }
    panic!("a call without an end")
}
