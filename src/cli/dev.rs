//! `entitlements dev`: the service for a first try, with its own Postgres, reachable from this machine only.

use super::{
    banner::Banner,
    init::EXAMPLE_CATALOG,
    send::{DEV_FOLDER, SECRET_FILE},
    serve::{start_log, stop_signal},
};
use crate::{
    app::Service,
    clerk::SigningSecret,
    config::{CatalogUse, Protocol, Settings},
    storage::NotMigrated,
    telemetry::LogFormat,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use embedded_postgres::{
    Binaries, Embedded,
    private::{Folder, check_not_open},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    env, fs,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

/// The `dev` command.
#[derive(Debug, Args)]
pub(super) struct DevCommand {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    binaries: Binaries,
}

impl DevCommand {
    pub(super) async fn run(mut self) -> anyhow::Result<ExitCode> {
        start_log(&self.settings, LogFormat::Text)?;
        let stop = stop_signal()?;
        let folder = folder()?;
        self.enable_all();
        self.fill_secret(&folder)?;
        self.fill_catalog(folder.path())?;
        let embedded = self.fill_database(folder.path()).await?;

        let mut config = self.settings.check()?;
        if let (CatalogUse::Compare(path), true) = (config.catalog_use.clone(), embedded.is_some())
        {
            config.catalog_use = CatalogUse::Apply(path);
        }
        let banner = Banner::new(&config, embedded.as_ref());
        let service = Service::start(config).await?;
        let welcome_when_ready = banner.print_when(service.ready(), service.bound());
        let postgres_exited = async {
            match &embedded {
                Some(embedded) => embedded.exited().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = service.run(stop) => done.map_err(|error| explain(error, embedded.as_ref()))?,
            never = welcome_when_ready => match never {},
            how = postgres_exited => bail!("the embedded Postgres ended unexpectedly ({how}): run `dev` again"),
        }
        if let Some(embedded) = embedded {
            embedded.stop().await?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Serves all that can work.
    fn enable_all(&mut self) {
        self.settings.migrate = true;
        self.settings.admin = true;
        if self.settings.chosen_protocols.is_none() {
            let can_work = |protocol: &Protocol| self.settings.sessions.suffice_for(*protocol);
            self.settings.chosen_protocols = Some(Protocol::all().filter(can_work).collect());
        }
    }

    async fn fill_database(&mut self, folder: &Path) -> anyhow::Result<Option<Embedded>> {
        let url = &mut self.settings.database.database_url;
        if url.as_ref().is_some_and(|url| !url.expose_secret().is_empty()) {
            tracing::info!(
                "DATABASE_URL is set, so `dev` starts no Postgres: unset it for one of its own"
            );
            return Ok(None);
        }
        let embedded = Embedded::persistent(folder, &self.binaries).await?;
        let database = embedded.url("entitlements");
        tracing::info!("{}", embedded.describe());
        *url = Some(database.into());
        Ok(Some(embedded))
    }

    fn fill_secret(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let secrets = &mut self.settings.secrets.clerk_webhook_signing_secret;
        if secrets.iter().all(|secret| secret.expose_secret().trim().is_empty()) {
            *secrets = vec![kept_secret(folder)?];
        }
        Ok(())
    }

    fn fill_catalog(&mut self, folder: &Path) -> anyhow::Result<()> {
        if self.settings.catalog.is_none() {
            let path = folder.join("catalog.toml");
            if !path.exists() {
                fs::write(&path, EXAMPLE_CATALOG).with_context(|| path.display().to_string())?;
            }
            self.settings.catalog = Some(path);
        }
        Ok(())
    }
}

/// Says how to replace the database of an earlier development version.
fn explain(error: anyhow::Error, embedded: Option<&Embedded>) -> anyhow::Error {
    match (error.downcast_ref(), embedded) {
        (Some(NotMigrated::OldLayout { .. }), Some(embedded)) => {
            let folder = embedded.folder().display();
            anyhow!(
                "{folder} has the database of an earlier development version, which this version cannot use: delete the \
                 folder (`rm -r {folder}`), and run `dev` again, which starts with an empty database. {DEV_FOLDER} keeps \
                 the signing secret and the catalog file"
            )
        }
        _ => error,
    }
}

fn folder() -> anyhow::Result<Folder> {
    let here = env::current_dir()?;
    check_not_open(&here)?;
    let folder = Folder::ours(&here.join(DEV_FOLDER))?;
    let ignore = folder.path().join(".gitignore");
    if !ignore.exists() {
        fs::write(&ignore, "*\n")?;
    }
    Ok(folder)
}

/// Reads the signing secret from its file, or generates it. Locks the file, because another `dev` may be writing it.
fn kept_secret(folder: &Folder) -> anyhow::Result<SecretString> {
    let mut file = folder.file(SECRET_FILE)?;
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text).context(SECRET_FILE)?;
    if text.is_empty() {
        text = format!("{}\n", SigningSecret::generate()?.expose_secret());
        file.write_all(text.as_bytes())?;
    }
    Ok(text.trim().to_owned().into())
}
