//! `override export` and `override import`.

use crate::{domain::Subject, storage::Store};
use anyhow::{Context, bail};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// Prints all overrides, the oldest first.
pub(super) async fn export(store: &Store) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = store.export_overrides(after).await?;
        for (_, row) in &page {
            say!("{row}");
        }
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
    }
}

/// Adds the overrides that are missing, subject by subject. A second run adds nothing.
pub(super) async fn import(store: &Store, file: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let subjects = parse(&text, file)?;
    let (mut added, mut ended, mut known) = (0, 0, 0);
    for (subject, rows) in &subjects {
        let done = store.import_overrides(subject, rows).await;
        let done = done.with_context(|| format!("cannot import the overrides of {subject}"))?;
        added += done.added;
        ended += done.ended;
        known += rows.len() - done.added;
    }
    say!(
        "{added} overrides added, {ended} ends noted, {known} overrides were there already, of {} subjects",
        subjects.len()
    );
    Ok(())
}

/// The rows of each subject, in the order of the file. Nothing is imported if a line is wrong.
fn parse(text: &str, file: &Path) -> anyhow::Result<BTreeMap<Subject, Vec<Value>>> {
    let mut subjects = BTreeMap::<Subject, Vec<Value>>::new();
    for (nth, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", file.display(), nth + 1);
        let row = serde_json::from_str::<Value>(line).with_context(place)?;
        let Some(subject) = row.get("subject").and_then(Value::as_str) else {
            bail!("{}: it has no `subject`: give the output of `override export`", place());
        };
        let subject = subject.parse::<Subject>().with_context(place)?;
        subjects.entry(subject).or_default().push(row);
    }
    Ok(subjects)
}
