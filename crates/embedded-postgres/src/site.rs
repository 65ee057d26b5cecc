//! The folders and files of a server.
//!
//! As root, this process never writes in a folder that the server's account owns, because that account could have
//! created links there. Files of this process are beside the server's folder; only the account itself writes in it.

use super::os_account::{OsAccount, is_open_to_all};
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

/// The characters to escape in the parts of a URL: all but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The longest path of a folder for sockets, in bytes: a socket's path is limited to 104 bytes on macOS, 108 on Linux.
const MAX_SOCKET_FOLDER_LEN: usize = 80;

/// The folders and files of a server, and the account that it runs as.
#[derive(Debug)]
pub(super) struct Site {
    home: PathBuf,
    sockets: PathBuf,
    pub(super) account: OsAccount,
    log: File,
    log_path: PathBuf,
    /// While this process holds the lock, no other process starts a server in the folder.
    lock: Option<File>,
    pub(super) throwaway: Option<TempDir>,
}

impl Site {
    /// Locks a folder below `dir` that is kept. Each major version has its own, because the data formats differ.
    pub(super) async fn kept(dir: &Path, major: u32) -> anyhow::Result<Self> {
        let account = OsAccount::of_server()?;
        let folder = reachable(dir)?;
        let name = format!("postgres-{major}");
        let lock = folder.file(&format!("{name}.lock"))?;
        let lock = spawn_blocking(|| lock.lock().map(|()| lock)).await??;
        let log = format!("{name}.log");
        let home = folder.path().join(&name);
        Folder::private(&home, account.uid, account.gid)?;
        let sockets = match home.as_os_str().len() {
            ..=MAX_SOCKET_FOLDER_LEN => home.clone(),
            _ => short_folder(folder.file(&format!("{name}.sockets"))?, &account)?,
        };
        let (log, log_path) = (folder.file(&log)?, folder.path().join(log));
        Ok(Self { home, sockets, account, log, log_path, lock: Some(lock), throwaway: None })
    }

    /// Creates a folder that is removed with this process.
    pub(super) fn throwaway() -> anyhow::Result<Self> {
        let account = OsAccount::of_server()?;
        #[expect(clippy::disallowed_methods, reason = "a private folder is made in it")]
        let parent = env::temp_dir();
        let is_short =
            parent.as_os_str().len() + "/entitlements-123456".len() <= MAX_SOCKET_FOLDER_LEN;
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

    /// Releases the lock. Other processes then find the server running.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    /// The URL of a database of the server. Port and TLS mode are explicit, because `PGPORT` and `PGSSLMODE` would
    /// otherwise determine them.
    pub(super) fn url(&self, database: &str) -> String {
        let path = self.sockets.to_string_lossy();
        let host = utf8_percent_encode(&path, ESCAPED);
        format!("postgres://entitlements@localhost:5432/{database}?host={host}&sslmode=disable")
    }

    /// Creates the data folder if it is missing. It is renamed when it is complete, so that an interrupted start leaves
    /// no incomplete data folder.
    pub(super) async fn initialize(&self, bin: &Path) -> anyhow::Result<()> {
        let (data, staged) = (self.data(), self.home.join("data.new"));
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&staged); // left over from an interrupted start
        let mut initdb = self.account.command(bin.join("initdb"));
        initdb.args(["-U", "entitlements", "--auth-local=peer", "--auth-host=reject"]);
        initdb.args(["-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&staged);
        let done =
            tokio::process::Command::from(initdb).output().await.context("cannot run initdb")?;
        let stderr = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "initdb failed: {}", stderr.trim());
        Ok(fs::rename(&staged, &data)?)
    }

    /// Truncates the log, and returns a handle for the server to write it.
    pub(super) fn new_log(&self) -> anyhow::Result<File> {
        self.log.set_len(0)?;
        Ok(self.log.try_clone()?)
    }

    pub(super) fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// The last 10 lines of the server's log.
    pub(super) fn log_tail(&self) -> String {
        let (mut log, mut bytes) = (&self.log, Vec::new());
        let _ = log.rewind().and_then(|()| log.read_to_end(&mut bytes)); // best effort
        let log = String::from_utf8_lossy(&bytes);
        let from = log.lines().count().saturating_sub(10);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

/// The folder itself, or a folder in `/var/tmp` if the server's account cannot reach it, as below `/root`.
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

/// A folder for sockets with a short path: the one whose path is in this file if it still exists, else a new one with a
/// random name, whose path is written to the file.
fn short_folder(mut path_file: File, account: &OsAccount) -> anyhow::Result<PathBuf> {
    let mut path = String::new();
    path_file.read_to_string(&mut path)?;
    if Folder::is_private(Path::new(&path), account.uid) {
        return Ok(path.into());
    }
    let (created, folder) = Folder::fresh(Path::new("/tmp"))?;
    folder.give_to(account.uid, account.gid)?;
    let path = created.keep();
    path_file.set_len(0)?;
    path_file.write_all(path.as_os_str().as_encoded_bytes())?;
    Ok(path)
}
