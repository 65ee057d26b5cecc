//! Runs the committed fuzz corpus and Clerk's payloads through the properties of `fuzz/`.

#[path = "../../../fuzz/properties.rs"]
mod properties;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn replay(target: &str, property: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = files(&root.join("fuzz/corpus").join(target));
    assert!(!found.is_empty(), "there is no corpus of {target}");
    found.extend(files(&root.join("tests/payloads")));
    found.push(root.join("catalog.example.toml"));
    for path in found {
        let bytes = fs::read(&path).unwrap();
        let held = catch_unwind(AssertUnwindSafe(|| property(&bytes)));
        assert!(held.is_ok(), "{} does not hold", path.display());
    }
}

#[test]
fn webhooks_are_read_within_their_limits() {
    replay("webhook", properties::webhook);
}

#[test]
fn only_signed_and_well_formed_deliveries_verify() {
    replay("headers", properties::headers);
}

#[test]
fn requests_are_valid_or_rejected_with_the_offending_field() {
    replay("request", properties::request);
}

#[test]
fn catalogs_read_back_as_they_were_written() {
    replay("catalog", properties::catalog);
}

#[test]
fn revisions_read_back_as_they_were_written() {
    replay("revision", properties::revision);
}
