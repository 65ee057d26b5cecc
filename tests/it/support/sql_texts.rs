//! The text of the service's SQL, from `.sqlx`.

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

/// The queries in `.sqlx`, with the types of their parameters.
pub fn queries() -> Vec<(String, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let known = fs::read_to_string(entry.unwrap().path()).unwrap();
        let known: Value = serde_json::from_str(&known).unwrap();
        let types = known["describe"]["parameters"]["Left"].as_array().unwrap();
        let types = types.iter().map(|name| match name.as_str().unwrap().split_once("Array") {
            Some((of, "")) => format!("{of}[]"),
            _ => name.as_str().unwrap().to_owned(),
        });
        (known["query"].as_str().unwrap().to_owned(), types.collect())
    };
    let all: Vec<_> = fs::read_dir(folder).unwrap().map(read).collect();
    assert!(all.len() > 40, "{}", all.len());
    all
}

/// SQL without comments and string literals.
pub fn bare(sql: &str) -> String {
    let code: Vec<_> = sql.lines().map(|line| line.split("--").next().unwrap()).collect();
    code.join("\n").split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

/// The names in a piece of SQL that are followed at once by an opening parenthesis.
pub fn calls(sql: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let before = |(at, _)| sql[..at].rsplit(|c| !is_name(c)).next().unwrap().to_owned();
    sql.match_indices('(').map(before).filter(|name| !name.is_empty()).collect()
}
