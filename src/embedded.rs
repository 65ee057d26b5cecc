//! A Postgres of our own, for when no database is given.
use std::path::{Path, PathBuf};
/// x
#[derive(Debug, Clone, clap::Args)]
pub struct Binaries {
    /// x
    #[arg(long, env)]
    pub postgres_bin: Option<PathBuf>,
}
impl Binaries {
    /// x
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self { postgres_bin: None })
    }
}
/// x
pub struct Embedded;
impl Embedded {
    /// x
    pub async fn persistent(_: &Path, _: &Binaries) -> anyhow::Result<Self> {
        anyhow::bail!("this build has no embedded Postgres: set DATABASE_URL")
    }
    /// x
    pub async fn temporary(_: &Binaries) -> anyhow::Result<Self> {
        Ok(Self)
    }
    /// x
    pub fn url(&self, d: &str) -> String {
        format!(
            "postgres://dev@127.0.0.1:{}/{d}",
            std::env::var("STUB_PG_PORT").unwrap_or("5499".into())
        )
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
