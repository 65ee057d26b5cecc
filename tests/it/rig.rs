//! Processes that can be killed: a Postgres of the test's own, and services.

use crate::service::{SECRET, eventually, said};
use entitlements::embedded::{Binaries, Embedded};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A Postgres that only this test uses.
pub struct Postgres {
    folder: TempDir,
    server: Embedded,
}

impl Postgres {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self::launch(&folder).await;
        Self { folder, server }
    }

    async fn launch(folder: &TempDir) -> Embedded {
        Embedded::persistent(folder.path(), &Binaries::from_env().unwrap()).await.unwrap()
    }

    pub fn url(&self) -> String {
        self.server.url("entitlements")
    }

    /// A connection, as soon as there is one.
    pub async fn db(&self) -> PgConnection {
        let mut db = None;
        eventually("Postgres answers", async || {
            db = PgConnection::connect(&self.url()).await.ok();
            db.is_some()
        })
        .await;
        db.unwrap()
    }

    /// Ends the server by a signal, and starts it again.
    pub async fn restart(&mut self, by: Signal) {
        signal(self.postmaster(), by);
        self.server.exited().await;
        self.server = Self::launch(&self.folder).await;
    }

    /// Every process of the server, the postmaster first.
    pub async fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.postmaster()];
        let others = "select pid from pg_stat_activity where pid <> pg_backend_pid()";
        let others = sqlx::query_scalar::<_, i32>(others);
        all.extend(others.fetch_all(&mut self.db().await).await.unwrap());
        all
    }

    fn postmaster(&self) -> i32 {
        let homes = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let pid: PathBuf =
            homes.map(|home| home.join("data/postmaster.pid")).find(|p| p.exists()).unwrap();
        fs::read_to_string(pid).unwrap().lines().next().unwrap().parse().unwrap()
    }

    pub async fn stop(self) {
        self.server.stop().await.unwrap();
    }
}

/// A running `entitlements serve`.
pub struct Process {
    child: Child,
    /// Where its HTTP and its gRPC are, as URLs.
    pub http: String,
    pub grpc: String,
    pub internal: String,
    _logs: TempDir,
}

impl Process {
    /// Starts it on a database, with these variables beside the usual ones, and waits until it is ready.
    pub async fn start(database: &str, variables: &[(&str, &str)]) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let log = logs.path().join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_entitlements"))
            .arg("serve")
            .env("DATABASE_URL", database)
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env("CATALOG", concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"))
            .env("MIGRATE", "true")
            .envs(["GRPC_LISTEN", "HTTP_LISTEN", "INTERNAL_LISTEN"].map(|v| (v, "127.0.0.1:0")))
            .envs(variables.iter().copied())
            .stderr(fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let http = format!("http://{}", said(&log, "http").await);
        let grpc = format!("http://{}", said(&log, "grpc").await);
        let internal = format!("http://{}", said(&log, "internal").await);
        let ready = format!("{http}/readyz");
        eventually("the service is ready", async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self { child, http, grpc, internal, _logs: logs }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().unwrap().try_into().unwrap()
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops it as an orchestrator would; tells whether it ended in order.
    pub async fn terminate(mut self) -> bool {
        signal(self.pid(), Signal::TERM);
        self.child.wait().await.unwrap().success()
    }
}

pub fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal); // it may be gone already
}
