//! Processes that a test can kill: its own Postgres, and services.

use crate::support::service::{
    Answer, SECRET, deliver, eventually, logged_field, new_id, plain_http,
};
use embedded_postgres::{Binaries, Embedded};
use entitlements::api::pb::entitlements_client::EntitlementsClient;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

/// A Postgres server of one test.
pub struct Postgres {
    folder: TempDir,
    server: Option<Embedded>,
}

impl Postgres {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Some(Self::launch(&folder).await);
        Self { folder, server }
    }

    async fn launch(folder: &TempDir) -> Embedded {
        Embedded::persistent(folder.path(), &Binaries::from_env().unwrap()).await.unwrap()
    }

    pub fn url(&self) -> String {
        self.server.as_ref().unwrap().url("entitlements")
    }

    /// Connects, and retries until the server accepts connections.
    pub async fn db(&self) -> PgConnection {
        let mut db = None;
        eventually("Postgres answers", async || {
            db = PgConnection::connect(&self.url()).await.ok();
            db.is_some()
        })
        .await;
        db.unwrap()
    }

    /// Stops the server with a signal, and starts it again.
    pub async fn restart(&mut self, by: Signal) {
        signal(self.postmaster(), by);
        self.server.take().unwrap().exited().await;
        let (folder, binaries) = (self.folder.path(), Binaries::from_env().unwrap());
        eventually("the processes of the former server are gone", async || {
            match Embedded::persistent(folder, &binaries).await {
                Ok(server) => self.server = Some(server),
                Err(error) => assert!(format!("{error:#}").contains("shared memory"), "{error:#}"),
            }
            self.server.is_some()
        })
        .await;
    }

    /// Stops the server, copies its data, and starts it again.
    pub async fn back_up(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
        copy(&self.data(), &self.folder.path().join("backup"));
        self.server = Some(Self::launch(&self.folder).await);
    }

    /// Restarts from the copy as a new primary, which lacks everything written after the copy.
    pub async fn fail_over(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
        let (data, backup) = (self.data(), self.folder.path().join("backup"));
        fs::remove_dir_all(&data).unwrap();
        fs::rename(backup, &data).unwrap();
        fs::write(data.join("recovery.signal"), "").unwrap();
        fs::write(data.join("postgresql.auto.conf"), "restore_command = 'false'\n").unwrap();
        own(&data.join("recovery.signal"), &data);
        self.server = Some(Self::launch(&self.folder).await);
    }

    /// Restarts as a standby, until it is promoted.
    pub async fn stand_by(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "").unwrap();
        own(&signal, &self.data());
        self.server = Some(Self::launch(&self.folder).await);
    }

    fn data(&self) -> PathBuf {
        let homes = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        homes.map(|home| home.join("data")).find(|data| data.is_dir()).unwrap()
    }

    /// The ids of all server processes, the postmaster first.
    pub async fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.postmaster()];
        let others = "select pid from pg_stat_activity where pid <> pg_backend_pid()";
        let others = sqlx::query_scalar::<_, i32>(others);
        all.extend(others.fetch_all(&mut self.db().await).await.unwrap());
        all
    }

    fn postmaster(&self) -> i32 {
        fs::read_to_string(self.data().join("postmaster.pid"))
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub async fn stop(self) {
        self.server.unwrap().stop().await.unwrap();
    }
}

/// Copies a folder recursively with its owners, because Postgres does not run as root.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else if from.is_file() {
            fs::copy(&from, &to).unwrap();
            own(&to, &from);
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    own(to, from);
}

fn own(path: &Path, like: &Path) {
    let owner = fs::metadata(like).unwrap();
    chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// A running `entitlements serve`.
pub struct Process {
    child: Child,
    /// The URLs of its listeners.
    pub http: String,
    pub grpc: String,
    pub internal: String,
    logs: TempDir,
}

impl Process {
    /// Starts the service on a database, with these variables besides the usual ones, and waits until it is ready.
    pub async fn start(database: &str, variables: &[(&str, &str)]) -> Self {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_entitlements"));
        serve.arg("serve");
        Self::run(serve, database, variables).await
    }

    /// Starts the service with a limit on file descriptors.
    pub async fn start_with_descriptors(most: u32, database: &str) -> Self {
        let mut shell = Command::new("sh");
        let binary = env!("CARGO_BIN_EXE_entitlements");
        shell.args(["-c", &format!("ulimit -n {most} && exec '{binary}' serve")]);
        Self::run(shell, database, &[]).await
    }

    async fn run(serve: Command, database: &str, variables: &[(&str, &str)]) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let log = logs.path().join("log");
        let child = Self::spawn(serve, database, variables, &log);
        let http = format!("http://{}", logged_field(&log, "webhook").await);
        let grpc = format!("http://{}", logged_field(&log, "api").await);
        let internal = format!("http://{}", logged_field(&log, "operator").await);
        let (probe, ready) = (plain_http(), format!("{http}/readyz"));
        eventually("the service is ready", async || {
            probe.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self { child, http, grpc, internal, logs }
    }

    fn spawn(mut serve: Command, database: &str, variables: &[(&str, &str)], log: &Path) -> Child {
        serve
            .env("DATABASE_URL", database)
            .env("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
            .env(
                "ENTITLEMENTS_CATALOG",
                concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"),
            )
            .envs([("ENTITLEMENTS_MIGRATE", "true"), ("ENTITLEMENTS_LOG", "info,sqlx=off")])
            .envs(
                [
                    "ENTITLEMENTS_API_LISTEN",
                    "ENTITLEMENTS_WEBHOOK_LISTEN",
                    "ENTITLEMENTS_OPERATOR_LISTEN",
                ]
                .map(|v| (v, "127.0.0.1:0")),
            )
            .envs(variables.iter().copied())
            .stderr(fs::File::create(log).unwrap())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// The log until the service listens, on a database that need not exist.
    pub async fn log_of_start(database: &str) -> String {
        let logs = tempfile::tempdir().unwrap();
        let log = logs.path().join("log");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_entitlements"));
        serve.arg("serve");
        let _child = Self::spawn(serve, database, &[], &log);
        logged_field(&log, "api").await;
        fs::read_to_string(&log).unwrap()
    }

    /// Delivers a signed body under a new id.
    pub async fn send(&self, body: &str) -> Answer {
        deliver(&plain_http(), &self.http, &new_id(), body).await.unwrap()
    }

    /// The metrics page.
    pub async fn metrics(&self) -> String {
        let page = plain_http().get(format!("{}/metrics", self.internal)).send().await.unwrap();
        page.text().await.unwrap()
    }

    /// A client that connects at its first call.
    pub fn client(&self) -> EntitlementsClient<Channel> {
        EntitlementsClient::new(Endpoint::from_shared(self.grpc.clone()).unwrap().connect_lazy())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.logs.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.child.id().unwrap().try_into().unwrap()
    }

    /// The complete lines of the log.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.logs.path().join("log")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops the service as an orchestrator does, and returns whether it exited with success.
    pub async fn terminate(mut self) -> bool {
        signal(self.pid(), Signal::TERM);
        self.child.wait().await.unwrap().success()
    }
}

pub fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal); // the process may have ended already
}
