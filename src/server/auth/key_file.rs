//! The file of callers: parsed as TOML, and edited as text so that comments and formatting stay.

use super::{
    Scope,
    api_key::{CallerName, KeyHash, make},
};
use crate::server::tls::CertificateName;
use anyhow::{Context, bail};
use chrono::{SecondsFormat, Utc};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};
use toml_edit::{Array, Datetime, DocumentMut, Item, RawString, Table, value};

/// The mode of a new file: readable by all users, because it holds only hashes and the service often runs as another
/// user.
const NEW_FILE: u32 = 0o644;

/// The comment at the start of a new file.
const HEAD: &str = "\
# Callers. `entitlements serve` reloads this file when it changes; `entitlements keys` edits the keys.
#
# A client certificate that ENTITLEMENTS_API_CLIENT_CA trusts has the scope `check`. To give it other scopes, list a name in it: a
# URI, a DNS name in lower case, or a common name as `cn:NAME`. With `scopes = []` the certificate is rejected.
#
#   [certificates.\"spiffe://example.org/billing\"]
#   scopes = [\"check\", \"admin\"]
";

/// The content of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFileDocument {
    #[serde(default)]
    pub(super) keys: BTreeMap<CallerName, Key>,
    #[serde(default)]
    pub(super) certificates: BTreeMap<CertificateName, Certificate>,
}

/// A key in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) sha256: KeyHash,
    pub(super) scopes: Vec<Scope>,
    created: Option<toml::value::Datetime>,
}

/// A client certificate in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) scopes: Vec<Scope>,
}

/// Parses the text of the file; two keys must not have the same hash.
pub(super) fn document(text: &str) -> anyhow::Result<KeyFileDocument> {
    let document: KeyFileDocument = toml::from_str(text)?;
    let mut hashes: Vec<_> = document.keys.iter().collect();
    hashes.sort_by_key(|(_, key)| key.sha256.0);
    if let Some([(a, _), (b, _)]) = hashes.array_windows().find(|[a, b]| a.1.sha256 == b.1.sha256) {
        bail!("the keys {} and {} have the same sha256: remove one", a.as_str(), b.as_str());
    }
    Ok(document)
}

/// A key, as `keys list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// The name of the key.
    pub name: String,
    /// The scopes of the key.
    pub scopes: Vec<Scope>,
    /// The instant at which the key was created, as the file has it.
    pub created: Option<String>,
}

/// The file of callers, opened and locked for an edit.
pub struct KeyFile {
    path: PathBuf,
    /// The locked folder: the lock serializes concurrent edits, so that none is lost.
    folder: fs::File,
    text: String,
}

impl KeyFile {
    /// Opens and locks the file; an absent file counts as an empty one.
    ///
    /// # Errors
    ///
    /// If the file or its folder cannot be opened, or the content is invalid.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        // A symbolic link stays: its target is replaced.
        let path = if path.is_symlink() {
            fs::canonicalize(path).with_context(named)?
        } else {
            path.into()
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::File::open(folder.unwrap_or(Path::new("."))).with_context(named)?;
        folder.lock().with_context(named)?;
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => HEAD.into(),
            text => text.with_context(named)?,
        };
        document(&text).with_context(named)?;
        Ok(Self { path, folder, text })
    }

    /// Lists all keys.
    ///
    /// # Errors
    ///
    /// If the content is invalid.
    pub fn list(&self) -> anyhow::Result<Vec<KeyEntry>> {
        let keys = document(&self.text)?.keys.into_iter();
        Ok(keys
            .map(|(name, key)| KeyEntry {
                name: name.as_str().into(),
                scopes: key.scopes,
                created: key.created.map(|created| created.to_string()),
            })
            .collect())
    }

    /// Creates a key, stores its hash and returns the key, which cannot be recovered later.
    ///
    /// # Errors
    ///
    /// If the name is invalid or taken, or the file cannot be written.
    pub fn create(self, name: &str, scopes: &[Scope]) -> anyhow::Result<String> {
        let name: CallerName = name.parse()?;
        let key = make(&name)?;
        let known = document(&self.text)?;
        let name = name.as_str();
        if known.keys.contains_key(name) {
            bail!(
                "there is a key `{name}` already: revoke it first, or choose another name, such as {name}-2"
            );
        }
        self.write(&with(&self.text, name, KeyHash::of(key.as_bytes()), scopes)?)?;
        Ok(key)
    }

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// If there is no such key, it cannot be removed automatically, or the file cannot be written.
    pub fn revoke(self, name: &str) -> anyhow::Result<()> {
        let keys = document(&self.text)?.keys;
        if !keys.contains_key(name) {
            let others: Vec<_> = keys.keys().map(CallerName::as_str).collect();
            bail!("there is no key `{name}`; there are: {}", others.join(", "));
        }
        let left =
            without(&self.text, name).context("a key in the file cannot be removed from it")?;
        self.write(&left)
    }

    /// Replaces the file atomically: a reader sees the old content or the new one. Keeps the owner and mode, so that a
    /// service that could read the old content can read the new one.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        document(text).context("the edited file would be invalid: the file was not changed")?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let replace = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
            file.write_all(text.as_bytes())?;
            let mut mode = NEW_FILE;
            if let Ok(old) = fs::metadata(&self.path) {
                fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
                mode = old.mode() & 0o777;
            }
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            self.folder.sync_all()
        };
        replace().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The text without a key, and without the comments right above its table. `None`: the text has no such key.
pub(super) fn without(text: &str, name: &str) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let removed = document.get_mut("keys")?.as_table_like_mut()?.remove(name)?;
    if let Some(table) = removed.as_table() {
        let above: Vec<_> = text_above(table).lines().collect();
        let own = above.iter().rev().take_while(|line| line.trim_start().starts_with('#')).count();
        let about_others = above[..above.len() - own].join("\n");
        keep_comments(&mut document, about_others.trim_end(), table.position());
    }
    Some(document.to_string())
}

/// The comments and blank lines between a table and the one before it.
fn text_above(table: &Table) -> &str {
    table.decor().prefix().and_then(RawString::as_str).unwrap_or_default()
}

/// Puts comments above the table that follows a position, or at the end.
fn keep_comments(document: &mut DocumentMut, comments: &str, removed_at: Option<isize>) {
    if comments.is_empty() {
        return;
    }
    let tables = document.iter_mut().filter_map(|(_, item)| item.as_table_mut());
    let tables = tables.flat_map(Table::iter_mut).filter_map(|(_, item)| item.as_table_mut());
    let later = tables.filter(|table| table.position() > removed_at);
    if let Some(next) = later.min_by_key(|table| table.position()) {
        let prefix = format!("{comments}\n{}", text_above(next));
        next.decor_mut().set_prefix(prefix);
    } else {
        let end = format!("{comments}\n{}", document.trailing().as_str().unwrap_or_default());
        document.set_trailing(end);
    }
}

/// The text with one more key.
fn with(text: &str, name: &str, hash: KeyHash, scopes: &[Scope]) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let created: Datetime = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true).parse()?;
    let scopes: Array = scopes.iter().map(ToString::to_string).collect();
    let mut key = Table::new();
    key["sha256"] = value(hash.to_string());
    key["scopes"] = value(scopes);
    key["created"] = value(created);
    // At the end of the file, after all comments.
    key.set_position(Some(isize::MAX));
    key.decor_mut().set_prefix(format!("{}\n", document.trailing().as_str().unwrap_or_default()));
    document.set_trailing("");
    let mut keys = Table::new();
    keys.set_implicit(true); // no header [keys] before [keys.NAME]
    let keys = document.entry("keys").or_insert(Item::Table(keys));
    let keys = keys.as_table_like_mut().context("`keys` is not a table")?;
    keys.insert(name, Item::Table(key));
    Ok(document.to_string())
}
