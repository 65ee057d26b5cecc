//! Starting, watching and stopping a server.

use super::{
    account::{Account, command, is_open_to_all, private_folder},
    ping,
};
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStdin},
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// How long a server may take to accept connections: after a crash it recovers first.
const START_WITHIN: Duration = Duration::from_mins(1);

/// Runs the server given as arguments, whose pid is then ours to wait for, and beside it a watcher that reads
/// from the other end of a pipe to this process. The pipe closes however this process ends; the watcher then
/// asks the server to stop, and removes what was to be thrown away. It is forked twice, because the server
/// would take a child of its own that dies for a crashed session.
const WATCHED: &str = r#"throwaway=$1; shift; exec 3<&0
( ( read _ <&3; kill -INT $$
    if [ -n "$throwaway" ]; then i=0
      while [ -e "$throwaway/data/postmaster.pid" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
      rm -rf "$throwaway"
    fi ) >/dev/null 2>&1 & )
exec "$@" 3<&- </dev/null"#;

/// The folders of a server, and the account that owns them.
#[derive(Debug)]
pub(super) struct Site {
    home: PathBuf,
    sockets: PathBuf,
    account: Option<Account>,
    throwaway: Option<TempDir>,
}

impl Site {
    /// A place below `dir` that is kept. Each major version has its own: they cannot read each other's data.
    pub(super) fn kept(dir: &Path, major: u32) -> anyhow::Result<Self> {
        let account = Account::to_run_as();
        fs::create_dir_all(dir)?;
        let mut dir = dir.canonicalize()?;
        if account.is_some() && !is_open_to_all(&dir) {
            dir = format!("/var/tmp/entitlements-{:016x}", hash(&dir)).into(); // such as a checkout in /root
            fs::create_dir_all(&dir)?;
        }
        Self::new(dir.join(format!("postgres-{major}")), account, None)
    }

    /// A place that goes with this process.
    pub(super) fn throwaway() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entitlements-").tempdir()?;
        Self::new(folder.path().to_owned(), Account::to_run_as(), Some(folder))
    }

    fn new(
        home: PathBuf,
        account: Option<Account>,
        throwaway: Option<TempDir>,
    ) -> anyhow::Result<Self> {
        private_folder(&home, account).with_context(|| {
            let owner = fs::metadata(&home).map(|m| format!("uid {}", m.uid()));
            let owner = owner.unwrap_or_else(|_| "another user".into());
            format!(
                "cannot use {}, which belongs to {owner}: run as that user, or remove it",
                home.display()
            )
        })?;
        // The path of a socket must fit in 104 bytes on macOS, 108 on Linux.
        let sockets = match home.as_os_str().len() {
            ..=80 => home.clone(),
            _ => PathBuf::from(format!("/tmp/entitlements-{:016x}", hash(&home))),
        };
        private_folder(&sockets, account)?;
        Ok(Self { home, sockets, account, throwaway })
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The URL of a database here. Port and TLS are spelled out, because they would else be taken from `PGPORT`
    /// and `PGSSLMODE`.
    pub(super) fn url(&self, database: &str) -> String {
        let mut host = String::new();
        for byte in self.sockets.to_string_lossy().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                host.push(byte.into());
            } else {
                let _ = write!(host, "%{byte:02X}"); // a String takes everything
            }
        }
        format!("postgres://entitlements@localhost:5432/{database}?host={host}&sslmode=disable")
    }

    /// Lets one process at a time start a server here.
    pub(super) async fn lock(&self) -> anyhow::Result<fs::File> {
        let file = fs::File::create(self.home.join("start.lock"))?;
        Ok(spawn_blocking(|| file.lock().map(|()| file)).await??)
    }

    /// Makes the data folder, if there is none. It gets its name when it is complete, so that an interrupted
    /// start leaves nothing half made.
    pub(super) async fn initialize(&self, bin: &Path) -> anyhow::Result<()> {
        let (data, staged) = (self.home.join("data"), self.home.join("data.new"));
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&staged); // there is none, unless a start was interrupted
        let mut initdb = command(bin.join("initdb"), self.account);
        initdb.args([
            "-U",
            "entitlements",
            "--auth=trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ]);
        initdb.arg(&staged);
        let done =
            tokio::process::Command::from(initdb).output().await.context("cannot run initdb")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "initdb failed: {}", said.trim());
        Ok(fs::rename(&staged, &data)?)
    }

    fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    /// The last lines of the server's log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let from = log.lines().count().saturating_sub(10);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

/// A server that this process started.
#[derive(Debug)]
pub(super) struct Running {
    pid: Option<Pid>,
    /// Closing it tells the watcher to stop the server.
    lifeline: Option<ChildStdin>,
    exit: watch::Receiver<Option<String>>,
}

/// Starts a server and waits until it accepts connections.
pub(super) async fn start(bin: &Path, site: &Site, settings: &[&str]) -> anyhow::Result<Running> {
    let mut child = launch(bin, site, settings)?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let log = site.log();
            bail!(
                "postgres stopped at once ({status}); {} ends with:\n{}",
                log.display(),
                site.last_words()
            );
        }
        match ping(site).await {
            Ok(()) => break,
            Err(error) if started.elapsed() > START_WITHIN => {
                return Err(error.context(format!(
                    "postgres accepts no connections; see {}",
                    site.log().display()
                )));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let lifeline = child.stdin.take();
    let (ended, exit) = watch::channel(None);
    // Waits for the server however it ends: one that nobody waits for would look alive to the next start.
    tokio::spawn(async move {
        let status = child.wait().await.map_or_else(|e| e.to_string(), |s| s.to_string());
        let _ = ended.send(Some(status));
    });
    Ok(Running { pid, lifeline, exit })
}

fn launch(bin: &Path, site: &Site, settings: &[&str]) -> anyhow::Result<Child> {
    let mut command = command("/bin/sh", site.account);
    let throwaway = site.throwaway.as_ref().map_or(Path::new(""), TempDir::path);
    command.args(["-c", WATCHED, "sh"]).arg(throwaway);
    command
        .arg(bin.join("postgres"))
        .arg("-D")
        .arg(site.home.join("data"))
        .arg("-k")
        .arg(&site.sockets);
    command.args(["-p", "5432", "-c", "listen_addresses="]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(fs::File::create(site.log())?);
    tokio::process::Command::from(command).spawn().context("cannot start postgres")
}

impl Running {
    /// Resolves with how the server ended.
    pub(super) async fn exited(&self) -> String {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| status.clone());
        status.unwrap_or_else(|| "nobody waited for it".into())
    }

    /// Asks it to stop, with more and more emphasis.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.lifeline.take());
        for (signal, patience) in [(None, 5), (Some(Signal::INT), 10), (Some(Signal::QUIT), 5)] {
            if let (Some(signal), Some(pid)) = (signal, self.pid) {
                let _ = kill_process(pid, signal); // the watcher was gone
            }
            let stopped = self.exit.wait_for(Option::is_some);
            if timeout(Duration::from_secs(patience), stopped).await.is_ok() {
                return Ok(());
            }
        }
        bail!("the embedded Postgres ({:?}) does not stop", self.pid)
    }
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
