//! The wiring: builds each part once, runs them all, stops them all.

use crate::{
    accounts::Accounts,
    changes::Changes,
    config::Config,
    grpc,
    http::{self, Face, Probed, Webhooks},
    store::{Applied, Schema, Store, StoreError, migrate},
    telemetry::Metrics,
};
use anyhow::{Context, anyhow};
use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long to wait for a database that does not answer before it is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the listeners really are: a port may have been given as 0.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// gRPC.
    pub grpc: SocketAddr,
    /// Webhooks and probes.
    pub http: SocketAddr,
    /// Metrics and probes.
    pub internal: SocketAddr,
}

/// The database's schema is not the one this build was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongSchema {
    /// Migrations are missing.
    #[error("the database is not migrated: run `entitlements migrate`, or start with --migrate")]
    Behind,
    /// A later release has migrated it too far.
    #[error(
        "the database was migrated by a later release than this build can follow: deploy that release"
    )]
    Ahead,
}

/// The whole service.
pub struct Service {
    bound: Bound,
    parts: JoinSet<(&'static str, anyhow::Result<()>)>,
    store: Arc<Store>,
    draining: CancellationToken,
    stop: CancellationToken,
    stop_within: Duration,
    stop_delay: Duration,
}

impl Service {
    /// Builds all parts and binds all listeners. The database need not be there yet: until it is, the
    /// service says that it is not ready.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let (grpc_listener, http_listener, internal_listener) = (
            bind("GRPC_LISTEN", config.grpc).await?,
            bind("HTTP_LISTEN", config.http).await?,
            bind("INTERNAL_LISTEN", config.internal).await?,
        );
        let bound = Bound {
            grpc: grpc_listener.local_addr()?,
            http: http_listener.local_addr()?,
            internal: internal_listener.local_addr()?,
        };

        let metrics = Arc::new(Metrics::default());
        let store = Store::new(config.database.clone());
        let accounts = Arc::new(Accounts::new(
            store.clone(),
            config.cache_bytes,
            config.max_staleness,
            metrics.clone(),
        ));
        let changes = Changes::new(store.clone(), accounts.clone(), metrics.clone());
        let webhooks =
            Webhooks::new(config.verifier, store.clone(), accounts.clone(), metrics.clone());
        let probed = Arc::new(Probed {
            accounts: accounts.clone(),
            metrics: metrics.clone(),
            draining: draining.clone(),
        });
        let (health, health_server) = tonic_health::server::health_reporter();
        grpc::set_health(&health, false).await;
        let api = grpc::Api::new(accounts.clone(), config.grace, metrics);
        let routes =
            grpc::routes(api, health_server).map_err(|e| anyhow!("gRPC reflection: {e}"))?;

        let mut parts = JoinSet::new();
        let mut spawn = |name, part: Part| parts.spawn(async move { (name, part.await) });
        spawn("gRPC", endless(grpc::serve(grpc_listener, routes, stop.clone())));
        let public = Face::Public(Arc::new(webhooks), probed.clone());
        spawn("HTTP", endless(http::serve(http_listener, public, stop.clone())));
        let internal = Face::Internal(probed);
        spawn("internal HTTP", endless(http::serve(internal_listener, internal, stop.clone())));
        let watch = grpc::watch_health(health, accounts, draining.clone(), stop.clone());
        spawn("health", endless(watch));
        let (following, until) = (store.clone(), stop.clone());
        spawn(
            "change log",
            Box::pin(async move {
                tokio::select! {
                    () = until.cancelled() => Ok(()),
                    failed = follow(config.migrate, config.database, config.catalog, following, changes) => failed,
                }
            }),
        );
        let (stop_within, stop_delay) = (config.stop_within, config.stop_delay);
        Ok(Self { bound, parts, store, draining, stop, stop_within, stop_delay })
    }

    /// Where the listeners are.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Runs until it is asked to stop, then drains. A part that ends unasked ends the service with an error.
    pub async fn run(mut self, asked_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Bound { grpc, http, internal } = self.bound;
        tracing::info!(
            %grpc, %http, %internal,
            "serving gRPC on {grpc}, webhooks on {http}, metrics on {internal}"
        );
        let served = tokio::select! {
            () = asked_to_stop => Ok(()),
            ended = self.parts.join_next() => Err(ended_early(ended)),
        };
        tracing::info!("stopping");
        self.draining.cancel();
        if served.is_ok() {
            sleep(self.stop_delay).await;
        }
        self.stop.cancel();
        let drained = timeout(self.stop_within, drain(&mut self.parts)).await;
        self.store.close().await;
        served?;
        drained.context("stopped, but calls were still in flight")?;
        tracing::info!("stopped");
        Ok(())
    }
}

type Part = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A part that cannot fail.
fn endless(part: impl Future<Output = ()> + Send + 'static) -> Part {
    Box::pin(async move {
        part.await;
        Ok(())
    })
}

async fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{name}: cannot listen on {address} (is the port in use?)"))
}

/// Waits for a database that fits, puts the catalog file in force, and follows the change log.
async fn follow(
    migrate_first: bool,
    database: sqlx::postgres::PgConnectOptions,
    catalog: Option<(crate::access::Catalog, String)>,
    store: Arc<Store>,
    changes: Changes,
) -> anyhow::Result<()> {
    match schema(&store).await {
        Schema::Behind if migrate_first => {
            let newest = migrate(&database).await.context("cannot migrate the database")?;
            tracing::info!(newest, "migrated the database");
        }
        Schema::Behind => return Err(WrongSchema::Behind.into()),
        Schema::Ahead => return Err(WrongSchema::Ahead.into()),
        Schema::Fits => {}
    }
    apply_catalog(&store, catalog).await?;
    match Box::pin(changes.run()).await {}
}

/// Asks until the database answers; says once why it does not.
async fn schema(store: &Store) -> Schema {
    let mut told = false;
    loop {
        match store.schema().await {
            Ok(schema) => return schema,
            Err(error) if !told => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "waiting for the database of DATABASE_URL"
                );
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

async fn apply_catalog(
    store: &Store,
    catalog: Option<(crate::access::Catalog, String)>,
) -> Result<(), StoreError> {
    let Some((catalog, source)) = catalog else {
        if store.catalog().await?.is_none() {
            tracing::warn!(
                "there is no catalog: every feature is unknown; set CATALOG to a catalog file"
            );
        }
        return Ok(());
    };
    match store.apply_catalog(&catalog, &source).await? {
        Applied::New(number) => {
            tracing::info!(
                number,
                plans = catalog.plans(),
                "catalog {number} of {source} is in force now"
            );
        }
        Applied::InForce(number) => tracing::info!(number, "catalog {number} is in force"),
        Applied::Replaced { then, now } => tracing::warn!(
            then,
            now,
            "{source} is not put in force: it was catalog {then}, which catalog {now} has replaced since"
        ),
    }
    Ok(())
}

fn ended_early(
    ended: Option<Result<(&'static str, anyhow::Result<()>), JoinError>>,
) -> anyhow::Error {
    match ended {
        Some(Ok((_, Err(error)))) => error,
        Some(Ok((part, Ok(())))) => anyhow!("{part} ended by itself"),
        Some(Err(panic)) => anyhow!("a part failed: {panic}"),
        None => anyhow!("no part is running"),
    }
}

async fn drain<T: 'static>(parts: &mut JoinSet<T>) {
    while parts.join_next().await.is_some() {}
}
