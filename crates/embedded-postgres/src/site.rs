//! The folders and files of a server.
//!
//! What we write as root never lies in a folder that the server's account owns: that account could have made links
//! there. Our own files stand beside the server's folder; what is in it is written by the account itself.

use super::os_account::{Account, is_open_to_all};
use crate::private::{Folder, check_shared};
use anyhow::{Context, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::geteuid;
use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// What is escaped in the parts of a URL: all but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The longest folder for sockets: the path of one must fit in 104 bytes on macOS, in 108 on Linux.
const LONGEST: usize = 80;

/// The folders and files of a server, and the account that it runs as.
#[derive(Debug)]
pub(super) struct Site {
    home: PathBuf,
    sockets: PathBuf,
    pub(super) account: Account,
    log: File,
    log_path: PathBuf,
    /// While it is held, no other process starts a server here.
    lock: Option<File>,
    pub(super) throwaway: Option<TempDir>,
}

impl Site {
    /// A place below `dir` that is kept, locked. Each major version has its own: they cannot read each other's data.
    pub(super) async fn kept(dir: &Path, major: u32) -> anyhow::Result<Self> {
        let account = Account::of_server()?;
        let folder = reachable(dir)?;
        let name = format!("postgres-{major}");
        let lock = folder.file(&format!("{name}.lock"))?;
        let lock = spawn_blocking(|| lock.lock().map(|()| lock)).await??;
        let log = format!("{name}.log");
        let home = folder.path().join(&name);
        Folder::private(&home, account.uid, account.gid)?;
        let sockets = match home.as_os_str().len() {
            ..=LONGEST => home.clone(),
            _ => short(folder.file(&format!("{name}.sockets"))?, &account)?,
        };
        let (log, log_path) = (folder.file(&log)?, folder.path().join(log));
        Ok(Self { home, sockets, account, log, log_path, lock: Some(lock), throwaway: None })
    }

    /// A place that goes with this process.
    pub(super) fn throwaway() -> anyhow::Result<Self> {
        let account = Account::of_server()?;
        let parent = env::temp_dir();
        let is_short = parent.as_os_str().len() + "/entitlements-123456".len() <= LONGEST;
        let parent = if is_short { parent } else { "/tmp".into() };
        let (throwaway, folder) = Folder::fresh(&parent)?;
        let log = folder.file("postgres.log")?;
        folder.give_to(account.uid, account.gid)?;
        let home = throwaway.path().to_owned();
        Ok(Self {
            sockets: home.clone(),
            log_path: home.join("postgres.log"),
            home,
            account,
            log,
            lock: None,
            throwaway: Some(throwaway),
        })
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub(super) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Lets other processes in, which find the server running.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    /// The URL of a database here. Port and TLS are spelled out, because they would else be taken from `PGPORT`
    /// and `PGSSLMODE`.
    pub(super) fn url(&self, database: &str) -> String {
        let path = self.sockets.to_string_lossy();
        let host = utf8_percent_encode(&path, ESCAPED);
        format!("postgres://entitlements@localhost:5432/{database}?host={host}&sslmode=disable")
    }

    /// Makes the data folder, if there is none. It gets its name when it is complete, so that an interrupted
    /// start leaves nothing half made.
    pub(super) async fn initialize(&self, bin: &Path) -> anyhow::Result<()> {
        let (data, staged) = (self.data(), self.home.join("data.new"));
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&staged); // there is none, unless a start was interrupted
        let mut initdb = self.account.command(bin.join("initdb"));
        initdb.args(["-U", "entitlements", "--auth-local=peer", "--auth-host=reject"]);
        initdb.args(["-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&staged);
        let done =
            tokio::process::Command::from(initdb).output().await.context("cannot run initdb")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "initdb failed: {}", said.trim());
        Ok(fs::rename(&staged, &data)?)
    }

    /// An empty log to write in.
    pub(super) fn new_log(&self) -> anyhow::Result<File> {
        self.log.set_len(0)?;
        Ok(self.log.try_clone()?)
    }

    pub(super) fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// The last lines of the server's log.
    pub(super) fn last_words(&self) -> String {
        let (mut log, mut bytes) = (&self.log, Vec::new());
        let _ = log.rewind().and_then(|()| log.read_to_end(&mut bytes)); // tells what it can
        let log = String::from_utf8_lossy(&bytes);
        let from = log.lines().count().saturating_sub(10);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

/// The folder itself, or in its stead one that the server's account can reach: it cannot reach one below /root.
fn reachable(dir: &Path) -> anyhow::Result<Folder> {
    Folder::ours(dir)?;
    let path = dir.canonicalize()?;
    if !geteuid().is_root() || is_open_to_all(&path) {
        return Folder::ours(&path);
    }
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    let shared = Path::new("/var/tmp");
    check_shared(shared)?;
    Folder::ours(&shared.join(format!("entitlements-{:016x}", hasher.finish())))
}

/// A folder for sockets with a short path: the one that is remembered in this file, if it is still there, else a new
/// one of a random name.
fn short(mut remembered: File, account: &Account) -> anyhow::Result<PathBuf> {
    let mut path = String::new();
    remembered.read_to_string(&mut path)?;
    if Folder::is_private(Path::new(&path), account.uid) {
        return Ok(path.into());
    }
    let (made, folder) = Folder::fresh(Path::new("/tmp"))?;
    folder.give_to(account.uid, account.gid)?;
    let path = made.keep();
    remembered.set_len(0)?;
    remembered.write_all(path.as_os_str().as_encoded_bytes())?;
    Ok(path)
}
