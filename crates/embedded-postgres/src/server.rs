//! Starts, watches and stops a server process.

use super::{os_account::MAP, ping, site::Site};
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStdin},
    sync::watch,
    time::{sleep, timeout},
};

/// How long a server may take to accept connections; after a crash it recovers first.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The role that owns the server.
const SUPERUSER: &str = "entitlements";

/// Writes the access rules, starts a watcher, and executes the server given as arguments, so that this process can wait
/// for the server's pid. The watcher reads from a pipe that this process holds open and that closes however this
/// process ends; then the watcher stops the server and removes the temporary data. The watcher is forked twice, because
/// the server would treat the end of a direct child as a crashed session.
const WATCHED: &str = r#"data=$1 throwaway=$4
printf %s "$2" >"$data/pg_hba.conf" && printf %s "$3" >"$data/pg_ident.conf" || exit
shift 4; exec 3<&0
( ( read _ <&3; kill -INT $$
    if [ -n "$throwaway" ]; then i=0
      while [ -e "$throwaway/data/postmaster.pid" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
      rm -rf "$throwaway"
    fi ) >/dev/null 2>&1 & )
exec "$@" 3<&- </dev/null"#;

/// A server that this process started.
#[derive(Debug)]
pub(super) struct RunningServer {
    pid: Option<Pid>,
    /// The pipe to the watcher, which stops the server when the pipe closes.
    lifeline: Option<ChildStdin>,
    exit: watch::Receiver<Option<String>>,
}

/// Starts a server and waits until it accepts connections.
pub(super) async fn start(
    bin: &Path,
    site: &Site,
    settings: &[&str],
) -> anyhow::Result<RunningServer> {
    let mut child = launch(bin, site, settings)?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!(
                "postgres ended during its start ({status}); {} ends with:\n{}",
                site.log_path().display(),
                site.log_tail()
            );
        }
        match ping(site).await {
            Ok(()) => break,
            Err(error) if started.elapsed() > START_TIMEOUT => {
                return Err(error.context(format!(
                    "postgres did not accept connections within {} s; see {}",
                    START_TIMEOUT.as_secs(),
                    site.log_path().display()
                )));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let lifeline = child.stdin.take();
    let (ended, exit) = watch::channel(None);
    // Reaps the server however it ends: the next start would take a zombie process for a running server.
    tokio::spawn(async move {
        let status = child.wait().await.map_or_else(|e| e.to_string(), |s| s.to_string());
        let _ = ended.send(Some(status));
    });
    Ok(RunningServer { pid, lifeline, exit })
}

fn launch(bin: &Path, site: &Site, settings: &[&str]) -> anyhow::Result<Child> {
    let mut command = site.account.command("/bin/sh");
    let throwaway = site.throwaway.as_ref().map_or(Path::new(""), TempDir::path);
    command.args(["-c", WATCHED, "sh"]).arg(site.data());
    command.arg(access_rules()).arg(site.account.user_map(SUPERUSER)?).arg(throwaway);
    command.arg(bin.join("postgres")).arg("-D").arg(site.data()).arg("-k").arg(site.sockets());
    command.args(["-p", "5432", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(site.new_log()?);
    tokio::process::Command::from(command).spawn().context("cannot start postgres")
}

/// The content of `pg_hba.conf`: the superuser authenticates by the operating-system user of the connecting process,
/// other roles by password. It is written at each start, because older versions of this crate let every user connect.
fn access_rules() -> String {
    format!("local all {SUPERUSER} peer map={MAP}\nlocal all all scram-sha-256\n")
}

impl RunningServer {
    /// Waits until the server ends, and returns its exit status.
    pub(super) async fn exited(&self) -> String {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| status.clone());
        status.unwrap_or_else(|| "unknown exit status".into())
    }

    /// Stops the server: first through the watcher, then with SIGINT, then with SIGQUIT.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.lifeline.take());
        for (signal, seconds) in [(None, 5), (Some(Signal::INT), 10), (Some(Signal::QUIT), 5)] {
            if let (Some(signal), Some(pid)) = (signal, self.pid) {
                let _ = kill_process(pid, signal); // the watcher did not stop it in time
            }
            let stopped = self.exit.wait_for(Option::is_some);
            if timeout(Duration::from_secs(seconds), stopped).await.is_ok() {
                return Ok(());
            }
        }
        bail!("the embedded Postgres ({:?}) did not stop within 20 s", self.pid)
    }
}
