//! The file of callers: read as TOML, and edited so that what people wrote into it stays.

use super::{
    Scope,
    api_key::{Hash, Name, make},
};
use crate::server::tls::Name as CertificateName;
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

/// The mode of a new file. It holds only hashes of keys, so everybody may read it: the service often runs as another user.
const NEW_FILE: u32 = 0o644;

/// What a new file begins with.
const HEAD: &str = "\
# Who may call, read again by `entitlements serve` when it changes. `entitlements keys` edits the keys.
#
# Client certificates that GRPC_CLIENT_CA trusts may check. Other scopes for one of them, by a name in it: a URI, a DNS
# name in lower case, or a common name as `cn:NAME`. With `scopes = []` the certificate is shut out.
#
#   [certificates.\"spiffe://example.org/billing\"]
#   scopes = [\"check\", \"admin\"]
";

/// The file's content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) keys: BTreeMap<Name, Key>,
    #[serde(default)]
    pub(super) certificates: BTreeMap<CertificateName, Certificate>,
}

/// A key in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) sha256: Hash,
    pub(super) scopes: Vec<Scope>,
    created: Option<toml::value::Datetime>,
}

/// A client certificate in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) scopes: Vec<Scope>,
}

/// Reads the file's text.
pub(super) fn document(text: &str) -> anyhow::Result<Document> {
    let document: Document = toml::from_str(text)?;
    let mut hashes: Vec<_> = document.keys.iter().collect();
    hashes.sort_by_key(|(_, key)| key.sha256.0);
    if let Some([(a, _), (b, _)]) = hashes.array_windows().find(|[a, b]| a.1.sha256 == b.1.sha256) {
        bail!("the keys {} and {} have the same sha256", a.as_str(), b.as_str());
    }
    Ok(document)
}

/// One key, as `keys list` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created: Option<String>,
}

/// The file of callers, to be edited.
pub struct KeyFile {
    path: PathBuf,
    /// Held while the file is edited, so that of two edits at once none is lost.
    folder: fs::File,
    text: String,
}

impl KeyFile {
    /// Opens the file; one that is absent is as an empty one.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        // A link stays a link, and what it leads to is replaced.
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

    /// All keys.
    pub fn list(&self) -> anyhow::Result<Vec<Entry>> {
        let keys = document(&self.text)?.keys.into_iter();
        Ok(keys
            .map(|(name, key)| Entry {
                name: name.as_str().into(),
                scopes: key.scopes,
                created: key.created.map(|created| created.to_string()),
            })
            .collect())
    }

    /// Makes a key, keeps its hash, and tells the key: nobody can tell it again.
    pub fn create(self, name: &str, scopes: &[Scope]) -> anyhow::Result<String> {
        let name: Name = name.parse()?;
        let key = make(&name)?;
        let known = document(&self.text)?;
        let name = name.as_str();
        if known.keys.contains_key(name) {
            bail!(
                "there is a key `{name}` already: revoke it first, or choose another name, such as {name}-2"
            );
        }
        let hash = Hash::of(key.as_bytes());
        let scopes: Vec<_> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
        let (scopes, now) =
            (scopes.join(", "), Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true));
        self.write(&format!(
            "{}\n[keys.{name}]\nsha256 = \"{hash}\"\nscopes = [{scopes}]\ncreated = {now}\n",
            self.text
        ))?;
        Ok(key)
    }

    /// Takes a key out.
    pub fn revoke(self, name: &str) -> anyhow::Result<()> {
        let keys = document(&self.text)?.keys;
        if !keys.contains_key(name) {
            let others: Vec<_> = keys.keys().map(Name::as_str).collect();
            bail!("there is no key `{name}`; there are: {}", others.join(", "));
        }
        let left = without(&self.text, name).filter(|left| {
            document(left).is_ok_and(|left| {
                left.keys.len() + 1 == keys.len() && !left.keys.contains_key(name)
            })
        });
        let file = self.path.display();
        let left = left.with_context(|| {
            format!("`{name}` is not written as [keys.{name}] in {file}: take it out by hand")
        })?;
        self.write(&left)
    }

    /// Replaces the file as a whole, so a reader sees the old content or the new one. It keeps the file's owner and mode:
    /// a service that could read the old content can read the new one.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        document(text).context("the edited file would be broken: it was left as it is")?;
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

/// The text without a key's table, and without the comments right above it.
pub(super) fn without(text: &str, name: &str) -> Option<String> {
    let lines: Vec<_> = text.lines().collect();
    let is_header = |line: &&str| line.trim_start().starts_with('[');
    let is_its_header = |line: &&str| {
        let table = toml::from_str::<toml::Table>(line).ok();
        is_header(line)
            && table.is_some_and(|t| t.get("keys").is_some_and(|k| k.get(name).is_some()))
    };
    let is_comment = |line: &&&str| line.trim_start().starts_with('#');
    let header = lines.iter().position(is_its_header)?;
    let above = lines[..header].iter().rev().take_while(is_comment).count();
    let rest = &lines[header + 1..];
    let body = rest.iter().position(is_header).unwrap_or(rest.len());
    // What stands right above the next table is about that one.
    let about_next = |line: &&&str| is_comment(line) || line.trim().is_empty();
    let body = body - rest[..body].iter().rev().take_while(about_next).count();
    let left = lines[..header - above].iter().chain(&rest[body..]);
    Some(left.flat_map(|line| [*line, "\n"]).collect())
}
