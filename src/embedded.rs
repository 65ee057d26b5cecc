//! A Postgres of our own, for when no database is given.
use std::path::{Path, PathBuf};
/// x
#[derive(Debug, Clone, clap::Args)]
pub struct Binaries {
    /// x
    #[arg(long, env)]
    pub postgres_bin: Option<PathBuf>,
}
/// x
pub struct Embedded;
impl Embedded {
    /// x
    pub async fn persistent(_: &Path, _: &Binaries) -> anyhow::Result<Self> {
        anyhow::bail!("this build has no embedded Postgres: set DATABASE_URL")
    }
    /// x
    pub fn url(&self, _d: &str) -> String {
        String::new()
    }
    /// x
    pub fn describe(&self) -> String {
        String::new()
    }
    /// x
    pub async fn exited(&self) -> String {
        std::future::pending().await
    }
    /// x
    pub async fn stop(self) -> anyhow::Result<()> {
        Ok(())
    }
}
