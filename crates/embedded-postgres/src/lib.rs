//! A private Postgres server, run as a child process. The command `dev` keeps its data in a folder; tests and
//! benchmarks remove the data at their end. `serve` never starts one.
//!
//! The binaries are those of this machine, or a pinned build that is downloaded once. The server listens on a Unix
//! socket that only its user can reach, and ends with this process, even if this process is killed.

mod binaries;
mod download;
mod os_account;
pub mod private;
mod server;
mod site;
#[cfg(test)]
mod tests;

pub use binaries::{Binaries, Fetch};

use anyhow::{Context, bail};
use server::RunningServer;
use site::Site;
use sqlx::{Connection, PgConnection};
use std::{path::Path, time::Duration};
use tokio::time::timeout;

/// The database that is created in the server.
const DATABASE: &str = "entitlements";

/// Settings of a temporary server: its data is not flushed to disk.
const THROWAWAY: [&str; 4] =
    ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200"];

/// A private Postgres server.
#[derive(Debug)]
pub struct Embedded {
    site: Site,
    major: u32,
    /// `None`: another process runs the server, and this one shares it.
    running: Option<RunningServer>,
}

impl Embedded {
    /// Starts a server that keeps its data in `dir` between runs, with Postgres' default durability. A second process
    /// shares the server of the first.
    pub async fn persistent(dir: &Path, binaries: &Binaries) -> anyhow::Result<Self> {
        let (bin, major) = binaries.locate().await?;
        Self::start(&bin, major, Site::kept(dir, major).await?, &[]).await
    }

    /// Starts a server with empty data, which is removed when this process ends.
    pub async fn temporary(binaries: &Binaries) -> anyhow::Result<Self> {
        let (bin, major) = binaries.locate().await?;
        Self::start(&bin, major, Site::throwaway()?, &THROWAWAY).await
    }

    /// The URL of a database of this server. It contains no secret.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.site.url(database)
    }

    /// Describes the server for the log: version, folder, and whether it is shared.
    #[must_use]
    pub fn describe(&self) -> String {
        let by = if self.running.is_some() {
            "started by this process"
        } else {
            "already running, shared"
        };
        format!("PostgreSQL {} in {} ({by})", self.major, self.site.home().display())
    }

    /// The folder of the server's data and socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.site.home()
    }

    /// Waits until the server ends, and returns its exit status. Never resolves if another process started the server.
    pub async fn exited(&self) -> String {
        match &self.running {
            Some(running) => running.exited().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the server, if this process started it. Close all connections first.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.running {
            Some(running) => running.stop().await,
            None => Ok(()),
        }
    }

    async fn start(
        bin: &Path,
        major: u32,
        mut site: Site,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        site.initialize(bin).await?;
        let running = match ping(&site).await {
            Ok(()) => None,
            Err(_) => Some(server::start(bin, &site, settings).await?),
        };
        create_database(&site).await?;
        site.unlock();
        Ok(Self { site, major, running })
    }
}

/// Connects to the server once.
async fn ping(site: &Site) -> anyhow::Result<()> {
    let probe = async { PgConnection::connect(&site.url("postgres")).await?.close().await };
    match timeout(Duration::from_secs(2), probe).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("no answer within 2 s"),
    }
}

async fn create_database(site: &Site) -> anyhow::Result<()> {
    let mut db = PgConnection::connect(&site.url("postgres")).await?;
    let existing = sqlx::query("select from pg_database where datname = $1").bind(DATABASE);
    if existing.fetch_optional(&mut db).await?.is_none() {
        let created = sqlx::raw_sql("create database entitlements").execute(&mut db).await;
        created.context("cannot create the database `entitlements` in the embedded Postgres")?;
    }
    Ok(db.close().await?)
}
