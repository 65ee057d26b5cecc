//! `entitlements dev`: the service for a first try, with its own Postgres, reachable from this machine only.

use super::{
    send::{DEV_FOLDER, SECRET_FILE},
    serve::{start_log, stop_signal},
};
use crate::{
    app::{Bound, Service},
    config::{Protocol, Settings},
    storage::NotMigrated,
    telemetry::LogFormat,
};
use anyhow::{Context, anyhow, bail};
use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use embedded_postgres::{
    Binaries, Embedded,
    private::{Folder, check_not_open},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    convert::Infallible,
    env, fs,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

/// The catalog that `dev` uses if none is configured.
const EXAMPLE_CATALOG: &str = include_str!("../../catalog.example.toml");

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
        self.settings.migrate = true;
        self.settings.admin = true;
        if self.settings.protocols.is_empty() {
            let can_work = |protocol: &Protocol| self.settings.sessions.suffice_for(*protocol);
            let all = Protocol::value_variants().iter().copied();
            self.settings.protocols = all.filter(can_work).collect();
        }
        self.fill_secret(&folder)?;
        self.fill_catalog(folder.path())?;
        let embedded = self.fill_database(folder.path()).await?;

        let config = self.settings.check()?;
        let service = Service::start(config).await?;
        let (bound, ready) = (service.bound(), service.ready());
        let welcome_when_ready = async {
            ready.await;
            welcome(bound);
            std::future::pending::<Infallible>().await
        };
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

    async fn fill_database(&mut self, folder: &Path) -> anyhow::Result<Option<Embedded>> {
        let url = &mut self.settings.database.database_url;
        if url.as_ref().is_some_and(|url| !url.expose_secret().is_empty()) {
            return Ok(None);
        }
        let embedded = Embedded::persistent(folder, &self.binaries).await?;
        let database = embedded.url("entitlements");
        tracing::info!(database, "{}", embedded.describe());
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
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_| anyhow!("cannot read random bytes from the system"))?;
        text = format!("whsec_{}\n", STANDARD.encode(random));
        file.write_all(text.as_bytes())?;
    }
    Ok(text.trim().to_owned().into())
}

/// Prints commands to try.
fn welcome(bound: Bound) {
    let Bound { api: grpc, webhook: http, .. } = bound;
    say!(
        "
Everything runs. Try, in another terminal:

  cargo run -- send tests/payloads/subscriptionItem.active.json --url http://{http}/webhooks/clerk
  cargo run -- check export --user user_3jKRaOPcHB95IyjLKz2dmcVGvBR --addr http://{grpc}
  grpcurl -plaintext -emit-defaults -d '{{\"user_id\":\"user_3jKRaOPcHB95IyjLKz2dmcVGvBR\",\"feature\":\"export\"}}' \\
    {grpc} entitlements.v1.Entitlements/CheckFeature
"
    );
}
