//! `catalog types`: the keys of a catalog as types of a programming language.

mod keys;
mod languages;

use super::{DirectDatabase, found};
use crate::{
    cli::output::{BAD, Format, GOOD, paint, print_text, say_json},
    config::read_catalog,
    domain::Catalog,
};
use anyhow::Context;
use clap::Args;
use keys::{Keys, NamedKey};
use languages::Language;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The catalog, the language, and the use of the code.
#[derive(Debug, Args)]
pub(super) struct TypesArgs {
    /// Programming language
    #[arg(long, short)]
    language: Language,

    /// Catalog file [default: the catalog in force, in the database]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Write this file instead of printing the code
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Compare this file with the code instead of printing it: exit code 1, and the differing keys, if they differ
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    check: Option<PathBuf>,

    /// Name of the Go package
    #[arg(long, value_name = "NAME", default_value = "entitlements", value_parser = languages::go_package)]
    package: String,
}

impl TypesArgs {
    pub(super) async fn run(
        &self,
        direct: &DirectDatabase,
        format: Format,
    ) -> anyhow::Result<ExitCode> {
        let (catalog, source) = self.catalog(direct).await?;
        let code = self.language.code(&Keys::of(&catalog), &self.package);
        if let Some(file) = &self.check {
            return self.check(file, &code, &source, format);
        }
        let mut json = json!({ "language": self.language.name() });
        match &self.output {
            None if format == Format::Text => print_text(&code),
            None => json["code"] = json!(code),
            Some(file) => {
                let result = if write(file, &code)? { "written" } else { "unchanged" };
                if format == Format::Text {
                    say!("{}  {}", paint(GOOD, result), file.display());
                }
                (json["file"], json["result"]) = (json!(name(file)), json!(result));
            }
        }
        if format == Format::Json {
            say_json(&json);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The catalog, and its name in messages.
    async fn catalog(&self, direct: &DirectDatabase) -> anyhow::Result<(Catalog, String)> {
        if let Some(file) = &self.file {
            return read_catalog(file);
        }
        let version = found(&*direct.store().await?, None).await?;
        Ok((version.catalog, format!("catalog {}", version.number)))
    }

    /// Compares a file with the code that would be written.
    fn check(
        &self,
        file: &Path,
        code: &str,
        source: &str,
        format: Format,
    ) -> anyhow::Result<ExitCode> {
        let text = fs::read_to_string(file).with_context(|| {
            format!("cannot read {}: write it first, with --output", file.display())
        })?;
        let text = text.replace("\r\n", "\n"); // as some checkouts on Windows have it
        let (found, wanted) = (self.language.keys_in(&text), self.language.keys_in(code));
        let missing: Vec<_> = wanted.difference(&found).collect();
        let extra: Vec<_> = found.difference(&wanted).collect();
        let is_same = text == code;
        if format == Format::Json {
            let of = |keys: &[&NamedKey]| keys.iter().map(|key| key.json()).collect::<Value>();
            say_json(&json!({
                "language": self.language.name(),
                "file": name(file),
                "result": if is_same { "same" } else { "differs" },
                "missing": of(&missing),
                "extra": of(&extra),
            }));
        } else if is_same {
            say!("{} has the keys of {source}", file.display());
        } else {
            self.print_differences(file, source, &missing, &extra);
        }
        Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print_differences(
        &self,
        file: &Path,
        source: &str,
        missing: &[&NamedKey],
        extra: &[&NamedKey],
    ) {
        let (file, language) = (file.display(), self.language.name());
        for key in missing {
            say!("{}", paint(GOOD, &format!("+ {key}: {source} has it, {file} lacks it")));
        }
        for key in extra {
            say!("{}", paint(BAD, &format!("- {key}: {file} has it, {source} lacks it")));
        }
        let reason = if missing.is_empty() && extra.is_empty() {
            "has the same keys, in another text: it was edited, or another release wrote it"
        } else {
            "does not have the same keys"
        };
        let from = match &self.file {
            Some(catalog) => format!(" --file {}", catalog.display()),
            None => String::new(),
        };
        say!("{file} differs from {source}: it {reason}. Write it again:");
        say!("  entitlements catalog types --language {language}{from} --output {file}");
    }
}

/// Writes a file; returns false if it has this text already, so that nothing is built again because of its date.
fn write(file: &Path, text: &str) -> anyhow::Result<bool> {
    if fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

fn name(file: &Path) -> String {
    file.display().to_string()
}
