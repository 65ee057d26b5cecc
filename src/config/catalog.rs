//! The catalog file: read, parsed, and never empty.

use super::Settings;
use crate::domain::Catalog;
use anyhow::{Context, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

impl Settings {
    pub(super) fn catalog_path(&self) -> Option<&PathBuf> {
        self.catalog.as_ref().filter(|path| !path.as_os_str().is_empty())
    }

    /// Parses the catalog file, if one is set; returns the catalog and the name of the file.
    pub fn catalog_file(&self) -> anyhow::Result<Option<(Catalog, String)>> {
        self.catalog_path()
            .map(|path| read_catalog(path).context("ENTITLEMENTS_CATALOG"))
            .transpose()
    }
}

/// Reads and parses a catalog file; returns the catalog and the name of the file.
pub fn read_catalog(path: &Path) -> anyhow::Result<(Catalog, String)> {
    let name = path.display().to_string();
    let is_file = fs::metadata(path).with_context(|| format!("cannot read {name}"))?.is_file();
    ensure!(is_file, "cannot read {name}: not a regular file"); // reading a pipe could block forever
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok((parse_catalog(&text, &name)?, name))
}

/// Parses the text of a catalog file with this name. It must list a plan, unless its patterns of numbers are for Clerk's
/// plans.
pub fn parse_catalog(text: &str, name: &str) -> anyhow::Result<Catalog> {
    let catalog = Catalog::from_toml(text).with_context(|| name.to_owned())?;
    ensure!(
        catalog.plans() > 0 || !catalog.numbers().is_empty(),
        "{name} lists no plan, so it would end the access of everybody: add plans, or name another file"
    );
    Ok(catalog)
}
