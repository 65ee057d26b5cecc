//! A Postgres of our own, for when no database is given: `dev` keeps one in its folder, the tests throw one
//! away. `serve` never starts one.
//!
//! It is the real server, run from the binaries found on this machine or from a pinned build that is
//! downloaded once. It listens on a Unix socket that only its user can reach, and ends with us, also when we
//! are killed.

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
use server::Running;
use site::Site;
use sqlx::{Connection, PgConnection};
use std::{path::Path, time::Duration};
use tokio::time::timeout;

/// The database that is made ready in it.
const DATABASE: &str = "entitlements";

/// Settings of a server whose data nobody needs after the process: nothing is flushed to disk.
const THROWAWAY: [&str; 4] =
    ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200"];

/// A private Postgres server.
#[derive(Debug)]
pub struct Embedded {
    site: Site,
    major: u32,
    /// `None`: another process of ours runs it, and we share it.
    running: Option<Running>,
}

impl Embedded {
    /// Keeps its data in `dir` between runs, as durable as Postgres is by default. A second process shares the
    /// server of the first.
    pub async fn persistent(dir: &Path, binaries: &Binaries) -> anyhow::Result<Self> {
        let (bin, major) = binaries.locate().await?;
        Self::start(&bin, major, Site::kept(dir, major).await?, &[]).await
    }

    /// Begins empty, and leaves nothing behind when this process ends.
    pub async fn temporary(binaries: &Binaries) -> anyhow::Result<Self> {
        let (bin, major) = binaries.locate().await?;
        Self::start(&bin, major, Site::throwaway()?, &THROWAWAY).await
    }

    /// The URL of one of its databases; it holds no secret.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.site.url(database)
    }

    /// What it is and where, for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let by = if self.running.is_some() {
            "started by this process"
        } else {
            "already running, shared"
        };
        format!("PostgreSQL {} in {} ({by})", self.major, self.site.home().display())
    }

    /// Resolves with how it ended, if a server that this process started ends by itself.
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
        make_database(&site).await?;
        site.unlock();
        Ok(Self { site, major, running })
    }
}

/// Whether the server answers.
async fn ping(site: &Site) -> anyhow::Result<()> {
    let probe = async { PgConnection::connect(&site.url("postgres")).await?.close().await };
    match timeout(Duration::from_secs(2), probe).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("no answer within 2 s"),
    }
}

async fn make_database(site: &Site) -> anyhow::Result<()> {
    let mut db = PgConnection::connect(&site.url("postgres")).await?;
    let known = sqlx::query("select from pg_database where datname = $1").bind(DATABASE);
    if known.fetch_optional(&mut db).await?.is_none() {
        let created = sqlx::raw_sql("create database entitlements").execute(&mut db).await;
        created.context("cannot create the database in the embedded Postgres")?;
    }
    Ok(db.close().await?)
}
