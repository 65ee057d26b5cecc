//! `catalog import`: the file of Clerk's command line as a catalog file.

use crate::{
    clerk::{ConfiguredPlans, read_configuration},
    cli::{
        init::create,
        output::{Format, GOOD, complain, paint, print_text, say_json},
        render::counted,
    },
    domain::{Catalog, Numbers},
};
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The file of Clerk's command line, and the catalog file.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// File that `clerk config pull --keys billing` wrote; `/dev/stdin` for its output
    file: PathBuf,

    /// Catalog file to create instead of printing it; a file that exists is never changed
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Pattern of the slugs that state a limit of a feature, in the form of the table `[numbers]`; give it
    /// once for each feature
    #[arg(long = "number", value_name = "FEATURE=PATTERN", value_parser = parse_number)]
    numbers: Vec<(String, String)>,
}

fn parse_number(text: &str) -> Result<(String, String), &'static str> {
    let parsed = text.split_once('=').map(|(feature, pattern)| (feature.into(), pattern.into()));
    parsed.ok_or("needs a feature and a pattern, as projects=projects_{n}")
}

impl ImportArgs {
    pub(super) fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let file = self.file.display().to_string();
        let bytes = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let mut found = read_configuration(&bytes).with_context(|| file.clone())?;
        let numbers = Numbers::parse(self.numbers.iter().cloned()).context("--number")?;
        found.catalog = found.catalog.with_numbers(numbers);
        found.notes.extend(found.catalog.number_notes());
        let toml = catalog_file(&found.catalog, &file)?;
        let created = self.output.as_deref().map(|output| save(output, &toml)).transpose()?;
        if format == Format::Json {
            say_json(&json!({
                "file": created,
                "toml": toml,
                "plans": found.catalog.plans(),
                "leftOut": found.left_out,
                "notes": found.notes,
            }));
        } else {
            warn(&found, &file);
            match created {
                Some(created) => {
                    let plans = counted(found.catalog.plans(), "plan");
                    say!("{}  {created}, with {plans}", paint(GOOD, "created"));
                }
                None => print_text(&toml),
            }
        }
        Ok(if found.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The text of the catalog file, which `catalog apply` takes.
fn catalog_file(catalog: &Catalog, file: &str) -> anyhow::Result<String> {
    let toml = catalog.to_toml();
    Catalog::from_toml(&toml).with_context(|| file.to_owned())?;
    // The name of a file may have any character; a line break would end the comment.
    let file = file.escape_debug();
    Ok(format!(
        "# Imported from {file}. Clerk has no limits and no grace: add them here.\n\n{toml}"
    ))
}

/// Creates the catalog file; returns its name.
fn save(output: &Path, toml: &str) -> anyhow::Result<String> {
    let name = output.display().to_string();
    let is_new = create(output, 0o644, toml)?;
    ensure!(is_new, "{name} exists, and may have limits that Clerk has not: name another file");
    Ok(name)
}

fn warn(found: &ConfiguredPlans, file: &str) {
    for why in &found.left_out {
        complain(&format!("warning: {file}: left out {why}"));
    }
    for note in &found.notes {
        complain(&format!("note: {note}"));
    }
}
