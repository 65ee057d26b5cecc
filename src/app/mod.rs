//! The wiring: builds each part once, runs them all, stops them all.

mod database_gauges;
mod protocols;
mod retention;

use crate::{
    api::{self, Door, Face, Probed, Webhooks},
    check::Checks,
    clerk::Api,
    config::Config,
    domain::{Catalog, Grace},
    ingest::{Deliveries, ServedInstance, reconcile::Reconciler},
    replica::{Accounts, change_follower::Changes},
    server::{auth::Callers, grpc::Calls, listener::Listener, tls::Tls},
    storage::{Applied, Author, Schema, Store, StoreError, migrate},
    telemetry::{Metrics, Share, Traces, chain},
};
use anyhow::{Context, anyhow};
use sqlx::postgres::PgConnectOptions;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
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
    shared: Shared,
    parts: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop_within: Duration,
    stop_delay: Duration,
}

/// What several parts use.
struct Shared {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    certificates: Vec<Arc<Tls>>,
    /// Fires when the service is asked to stop: nothing new should be sent here.
    draining: CancellationToken,
    /// Fires when nothing new is accepted any more.
    stop: CancellationToken,
}

impl Service {
    /// Builds all parts and binds all listeners. The database need not be there yet: until it is, the
    /// service says that it is not ready.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let (listeners, bound) = Listeners::bind(&config).await?;
        let shared = Shared::new(&config, Traces::start(config.otlp_endpoint.as_deref())?);
        let (health, health_server) = api::health().await;
        let deliveries = Arc::new(shared.deliveries(config.instance.take()));
        let checks = shared.checks(config.grace, config.log_denials);
        let (protocols, beside) =
            shared.protocols(&mut config, bound.internal, &checks, &deliveries);
        let services = api::Services::new(api::Api::new(checks), beside, health_server);
        let services = services.map_err(|e| anyhow!("gRPC reflection: {e}"))?;
        let webhooks = Webhooks::new(config.verifier, deliveries.clone(), shared.metrics.clone());
        let calls = Arc::new(Calls::new(shared.metrics.clone(), api::pb::DESCRIPTOR));
        let probed = Arc::new(shared.probed(calls.clone(), config.locks.callers.clone()));
        let (accounts, draining) = (shared.accounts.clone(), shared.draining.clone());
        let follower = Follower {
            migrate: config.migrate.then_some(config.database),
            catalog: config.catalog,
            store: shared.store.clone(),
            changes: shared.changes(),
            metrics: shared.metrics.clone(),
            body_retention: config.body_retention,
            reconciler: config.api.map(|api| shared.reconciler(api, deliveries.clone())),
        };
        let mut parts = JoinSet::new();
        let stop = || shared.stop.clone();
        let public = Face::Public(Arc::new(webhooks), probed.clone());
        let internal = Face::Internal(probed, protocols);
        let door = Door::new(config.locks.callers.clone(), shared.metrics.clone());
        let age = config.connection_age;
        let grpc = api::serve_grpc(listeners.grpc, door, services, calls, age, stop());
        spawn(&mut parts, "gRPC", grpc);
        spawn(&mut parts, "HTTP", api::serve_http(listeners.http, public, stop()));
        spawn(&mut parts, "internal HTTP", api::serve_http(listeners.internal, internal, stop()));
        spawn(&mut parts, "health", api::watch_health(health, accounts, draining, stop()));
        spawn(&mut parts, "keys and certificates", config.locks.follow(stop()));
        parts.spawn(follower.run_until(stop()));
        let (stop_within, stop_delay) = (config.stop_within, config.stop_delay);
        Ok(Self { bound, shared, parts, stop_within, stop_delay })
    }

    /// Where the listeners are.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Resolves when questions can be answered.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let accounts = self.shared.accounts.clone();
        async move {
            while !accounts.freshness().can_answer() {
                sleep(Duration::from_millis(10)).await;
            }
        }
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
        self.shared.draining.cancel();
        if served.is_ok() {
            sleep(self.stop_delay).await;
        }
        self.shared.stop.cancel();
        let drained = timeout(self.stop_within, drain(&mut self.parts)).await;
        self.shared.store.close().await;
        self.shared.metrics.traces.end().await;
        served?;
        drained.context("stopped, but calls were still in flight")?;
        tracing::info!("stopped");
        Ok(())
    }
}

impl Shared {
    fn new(config: &Config, traces: Traces) -> Self {
        let metrics = Arc::new(Metrics::default().traced(traces));
        let store = Store::new(config.database.clone());
        let accounts = Accounts::new(
            store.clone(),
            config.cache_bytes,
            config.max_staleness,
            config.check_timeout,
            metrics.clone(),
        );
        let (accounts, certificates) = (Arc::new(accounts), config.locks.certificates());
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        Self { store, accounts, metrics, certificates, draining, stop }
    }

    fn checks(&self, grace: Grace, log_denials: Option<Share>) -> Arc<Checks> {
        Arc::new(Checks::new(self.accounts.clone(), grace, &self.metrics, log_denials))
    }

    fn deliveries(&self, served: Option<String>) -> Deliveries {
        let (store, accounts) = (self.store.clone(), self.accounts.clone());
        Deliveries::new(store, accounts, ServedInstance::new(served), self.metrics.clone())
    }

    fn reconciler(&self, api: Api, deliveries: Arc<Deliveries>) -> Reconciler {
        let (store, accounts) = (self.store.clone(), self.accounts.clone());
        Reconciler::new(api, store, accounts, deliveries, self.metrics.clone())
    }

    fn changes(&self) -> Changes {
        Changes::new(self.store.clone(), self.accounts.clone(), self.metrics.clone())
    }

    fn probed(&self, calls: Arc<Calls>, callers: Option<Arc<Callers>>) -> Probed {
        let certificates = self.certificates.clone();
        let expires_at = move || certificates.iter().filter_map(|tls| tls.expires_at()).min();
        Probed {
            accounts: self.accounts.clone(),
            metrics: self.metrics.clone(),
            store: self.store.clone(),
            calls_in_progress: Box::new(move || calls.in_progress()),
            certificate_expires_at: Box::new(expires_at),
            callers,
            draining: self.draining.clone(),
        }
    }
}

/// The sockets of all faces.
struct Listeners {
    grpc: Listener,
    http: Listener,
    internal: Listener,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<(Self, Bound)> {
        let grpc = bind("GRPC_LISTEN", config.grpc, config.locks.grpc.clone()).await?;
        let http = bind("HTTP_LISTEN", config.http, config.locks.http.clone()).await?;
        let internal =
            bind("INTERNAL_LISTEN", config.internal, config.locks.internal.clone()).await?;
        let bound = Bound {
            grpc: grpc.local_addr()?,
            http: http.local_addr()?,
            internal: internal.local_addr()?,
        };
        Ok((Self { grpc, http, internal }, bound))
    }
}

async fn bind(name: &str, address: SocketAddr, tls: Option<Arc<Tls>>) -> anyhow::Result<Listener> {
    let bound = Listener::bind(address, tls).await;
    bound.with_context(|| format!("{name}: cannot listen on {address}"))
}

/// Adds a part that cannot fail.
fn spawn(
    parts: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        part.await;
        (name, Ok(()))
    });
}

/// The part that follows the change log, once the database is there and fits.
struct Follower {
    /// The database to migrate first, if it is to be migrated.
    migrate: Option<PgConnectOptions>,
    catalog: Option<(Catalog, String)>,
    store: Arc<Store>,
    changes: Changes,
    metrics: Arc<Metrics>,
    body_retention: chrono::Duration,
    reconciler: Option<Reconciler>,
}

impl Follower {
    async fn run_until(self, stop: CancellationToken) -> (&'static str, anyhow::Result<()>) {
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            failed = self.run() => failed,
        };
        ("change log", ended)
    }

    async fn run(self) -> anyhow::Result<()> {
        match (patiently(&self.store, || self.store.schema()).await?, self.migrate) {
            (Schema::Fits, _) => {}
            (Schema::Behind, Some(database)) => {
                let newest = migrate(&database).await.context("cannot migrate the database")?;
                tracing::info!(newest, "migrated the database");
            }
            (Schema::Behind, None) => return Err(WrongSchema::Behind.into()),
            (Schema::Ahead, _) => return Err(WrongSchema::Ahead.into()),
        }
        match &self.catalog {
            Some((catalog, source)) => apply_catalog(&self.store, catalog, source).await?,
            None => tell_if_there_is_no_catalog(&self.store).await?,
        }
        let upkeep = retention::run(self.store.clone(), self.body_retention);
        let pulse = database_gauges::run(self.store.clone(), self.metrics.clone());
        let reconcile = async {
            match &self.reconciler {
                Some(reconciler) => Box::pin(reconciler.run()).await,
                None => std::future::pending().await,
            }
        };
        let never: Infallible = Box::pin(async {
            tokio::select! {
                never = self.changes.run() => never,
                never = upkeep => never,
                never = pulse => never,
                never = reconcile => never,
            }
        })
        .await;
        match never {}
    }
}

/// Asks the database until it answers; says once why it does not. A database that is there and refuses ends the
/// start.
async fn patiently<T, F>(store: &Store, ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut told = false;
    loop {
        match ask().await {
            Err(error @ StoreError::NotLetIn(_)) => return Err(error),
            Err(error) if error.is_transient() => {
                if !told {
                    tracing::error!(
                        database = store.place(),
                        error = chain(&error),
                        "waiting for the database of DATABASE_URL: `entitlements doctor` tells what to do"
                    );
                }
                told = true;
                sleep(RETRY).await;
            }
            answer => return answer,
        }
    }
}

async fn apply_catalog(store: &Store, catalog: &Catalog, source: &str) -> Result<(), StoreError> {
    match patiently(store, || store.apply_catalog(Author::File, catalog, source)).await? {
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

async fn tell_if_there_is_no_catalog(store: &Store) -> Result<(), StoreError> {
    if patiently(store, || store.catalog()).await?.is_none() {
        tracing::warn!(
            "there is no catalog: every feature is unknown; set CATALOG to a catalog file"
        );
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
