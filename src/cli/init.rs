//! `entitlements init`: the files of a first installation.

use super::output::{Format, GOOD, paint, say_json};
use crate::{
    clerk::SigningSecret,
    server::auth::{KeyFile, Scope},
};
use anyhow::Context;
use clap::{Args, ValueEnum};
use secrecy::ExposeSecret;
use serde_json::json;
use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The catalog of `dev`, and of a first installation.
pub(super) const EXAMPLE_CATALOG: &str = include_str!("../../catalog.example.toml");
/// The name of the API key that is created.
const CALLER: &str = "operator";

/// Creates the files of a first installation in a folder. A file that exists is never changed, so the command may run at
/// each start.
///
/// The files: `catalog.toml`, an example; `callers.toml`, with the hash of an API key for all scopes; `api-key`, the key
/// itself; `webhook-signing-secret`, until you have the secret of your endpoint in Clerk's dashboard. If `callers.toml`
/// exists, no key is made: `entitlements keys create` makes more.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  entitlements init config")]
pub(super) struct InitCommand {
    /// Folder of the files; it is created if it does not exist
    folder: PathBuf,
}

impl InitCommand {
    pub(super) fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let folder = &self.folder;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let secret = SigningSecret::generate()?;
        let secret = format!("{}\n", secret.expose_secret());
        for (name, mode, text) in
            [("catalog.toml", 0o644, EXAMPLE_CATALOG), ("webhook-signing-secret", 0o600, &*secret)]
        {
            let path = folder.join(name);
            report(&path, create(&path, mode, text)?, format);
        }
        let is_new = create_key(folder)?;
        report(&folder.join("callers.toml"), is_new, format);
        if is_new {
            report(&folder.join("api-key"), true, format);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(path: &Path, is_new: bool, format: Format) {
    let path = path.display();
    match (format, is_new) {
        (Format::Json, _) => say_json(&json!({ "file": path.to_string(), "created": is_new })),
        (Format::Text, true) => say!("{}  {path}", paint(GOOD, "created")),
        (Format::Text, false) => say!("exists   {path}"),
    }
}

/// Creates an API key, unless there is a file of callers; returns whether it did. The file of callers comes last: if the run
/// is interrupted before, the next one makes another key.
fn create_key(folder: &Path) -> anyhow::Result<bool> {
    let (callers, api_key) = (folder.join("callers.toml"), folder.join("api-key"));
    if callers.exists() {
        return Ok(false);
    }
    let unfinished = tempfile::tempdir_in(folder)?;
    let new = unfinished.path().join("callers.toml");
    let key = KeyFile::open(&new)?.create(CALLER, Scope::value_variants())?;
    let _ = fs::remove_file(&api_key); // without a file of callers, no service accepts it
    create(&api_key, 0o600, &format!("{key}\n"))?;
    let name = || callers.display().to_string();
    fs::hard_link(&new, &callers).with_context(name)?;
    Ok(true)
}

/// Creates a file that is complete as soon as it has its name; returns whether it did, or the file existed.
pub(super) fn create(path: &Path, mode: u32, text: &str) -> anyhow::Result<bool> {
    let create = || -> io::Result<bool> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(failed) => Err(failed.error),
        }
    };
    create().with_context(|| format!("cannot create {}", path.display()))
}
