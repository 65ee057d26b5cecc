//! `override export` and `override import`.

use crate::{
    cli::{
        output::{Format, print_line, say_json},
        render::counted,
    },
    domain::Subject,
    storage::{Imported, Store, StoreError},
};
use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Datelike, Utc};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Prints all overrides, the oldest first.
pub(super) async fn export(store: &Store) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = store.export_overrides(after).await?;
        for (_, row) in &page {
            print_line(&row.to_string());
        }
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
    }
}

/// Adds the overrides that are missing, subject by subject. A second run adds nothing.
pub(super) async fn import(store: &Store, file: &Path, format: Format) -> anyhow::Result<()> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let subjects = parse(&text, file)?;
    let mut all = Imported::default();
    for (subject, rows) in &subjects {
        let done = store.import_overrides(subject, rows).await;
        let done = done.map_err(|error| match &error {
            // Its text would name a line of Postgres's own code.
            StoreError::Rejected(sqlx::Error::Database(answer)) => anyhow!("{}", answer.message()),
            _ => error.into(),
        });
        let done = done.with_context(|| format!("cannot import the overrides of {subject}"))?;
        all.added += done.added;
        all.ended += done.ended;
        all.known += done.known;
        all.conflicting.extend(done.conflicting);
    }
    report(&all, subjects.len(), format);
    Ok(())
}

fn report(all: &Imported, subjects: usize, format: Format) {
    let Imported { added, ended, known, conflicting } = all;
    if format == Format::Json {
        return say_json(&json!({
            "added": added,
            "ended": ended,
            "known": known,
            "conflicting": conflicting.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "subjects": subjects,
        }));
    }
    for id in conflicting {
        say!(
            "override {id} was not added: its subject was deleted, the database has it with another content, a later \
             request has its key, another override replaces the same one, or the replaced one is missing"
        );
    }
    say!(
        "{} added, {} noted, {known} there already, {}, of {}",
        counted(*added, "override"),
        counted(*ended, "end"),
        counted(conflicting.len(), "conflict"),
        counted(subjects, "subject")
    );
}

/// The fields with dates.
const DATES: [&str; 4] = ["starts_at", "expires_at", "set_at", "ended_at"];

/// Whether a field is a date or absent. Postgres would accept more, such as `infinity`.
fn is_date(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(value) => {
            let date = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
            date.is_some_and(|date| (1..=9999).contains(&date.year()))
        }
    }
}

/// The rows of each subject, in the order of their setting. Nothing is imported if a line is wrong.
fn parse(text: &str, file: &Path) -> anyhow::Result<BTreeMap<Subject, Vec<Value>>> {
    let mut subjects = BTreeMap::<Subject, Vec<Value>>::new();
    for (nth, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", file.display(), nth + 1);
        let row = serde_json::from_str::<Value>(line).with_context(place)?;
        let Some(subject) = row.get("subject").and_then(Value::as_str) else {
            bail!("{}: it has no `subject`: give the output of `override export`", place());
        };
        let subject = subject.parse::<Subject>().with_context(place)?;
        if let Some(date) = DATES.iter().find(|date| !is_date(row.get(**date))) {
            bail!("{}: `{date}` must be a date of the years 1 to 9999, as in the export", place());
        }
        subjects.entry(subject).or_default().push(row);
    }
    // A replaced override comes first.
    for rows in subjects.values_mut() {
        rows.sort_by_key(|row| row.get("revision").and_then(Value::as_i64));
    }
    Ok(subjects)
}
