//! Wiring: builds each part of the service once, runs all parts as tasks, and stops them.

mod catalog_file;
mod database_gauges;
mod listener_security;
mod opened;
mod protocols;
mod retention;
mod startup;
mod startup_warnings;

pub use database_gauges::MAX_CLOCK_SKEW_S;
pub use opened::{backend_api, faults};
pub use startup::WrongSchema;

use crate::{
    api::{self, AuthLayer, Hosts, ProbeState, Webhooks},
    check::Evaluator,
    clerk::{BackendApi, Verifier},
    config::{Config, Retention},
    ingest::{Deliveries, ServedInstance, reconcile::Reconciler},
    replica::{Accounts, change_follower::ChangeFollower},
    server::{grpc::CallMetrics, listener::Listener, tls::Tls},
    storage::Store,
    telemetry::{Metrics, SampleRate, Telemetry, Traces},
};
use anyhow::{Context, anyhow};
use catalog_file::CatalogFile;
use futures_util::FutureExt;
use listener_security::ListenerSecurity;
use opened::Opened;
use startup::Startup;
use std::{
    convert::Infallible, net::SocketAddr, panic::AssertUnwindSafe, pin::Pin, sync::Arc,
    time::Duration,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The addresses of the listeners, with the real ports where the settings have port 0.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The API listener: gRPC, Connect and the other protocols.
    pub api: SocketAddr,
    /// The webhook listener: webhooks and probes.
    pub webhook: SocketAddr,
    /// The operator listener: metrics and probes.
    pub operator: SocketAddr,
}

/// The running tasks, each with its name.
type Tasks = JoinSet<Ended>;

/// The name of a task that ended, and its result.
type Ended = (&'static str, anyhow::Result<()>);

/// The whole service: bound listeners and running tasks.
pub struct Service {
    bound: Bound,
    shared: SharedState,
    tasks: Tasks,
    stop_within: Duration,
    stop_delay: Duration,
}

/// State that several parts share.
struct SharedState {
    store: Arc<Store>,
    accounts: Arc<Accounts>,
    telemetry: Telemetry,
    security: ListenerSecurity,
    /// Cancelled when checks can be answered.
    ready: CancellationToken,
    /// Cancelled when the service is asked to stop: clients should send new requests to another replica.
    draining: CancellationToken,
    /// Cancelled when the listeners stop accepting connections.
    stop: CancellationToken,
}

impl Service {
    /// Opens what the settings name, builds all parts and binds all listeners. The database may still be unreachable;
    /// until it answers, the service reports that it is not ready.
    ///
    /// # Errors
    /// If a file, key or URL of the settings cannot be used, a listener cannot be bound, or the trace exporter or gRPC
    /// reflection cannot be set up.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let Opened { security, backend_api, sessions, catalog } = Opened::new(&config)?;
        let (listeners, bound) = BoundListeners::bind(&config, &security).await?;
        let Config { connection_age: age, stop_within, stop_delay, .. } = config;
        let traces = Traces::start(config.otlp_endpoint.as_deref())?;
        let shared = SharedState::new(&config, security, traces);
        let (health, health_server) = api::health().await;
        let deliveries = Arc::new(shared.deliveries(config.instance.take()));
        let checks = shared.checks(config.log_denials);
        let (protocols, optional) =
            shared.protocols(&config, bound.api, sessions, &checks, &deliveries);
        let services =
            api::Services::new(api::EntitlementsApi::new(checks), optional, health_server)
                .map_err(|e| anyhow!("gRPC reflection: {e}"))?;
        let verifier = Verifier::new(config.signing_secrets);
        let telemetry = shared.telemetry.clone();
        let webhooks = Webhooks::new(verifier, deliveries.clone(), telemetry.clone());
        let call_metrics = Arc::new(CallMetrics::new(telemetry, api::pb::DESCRIPTOR));
        let probe_state = Arc::new(shared.probe_state(call_metrics.clone(), catalog.clone()));
        let reconciler = backend_api.map(|api| shared.reconciler(api, deliveries.clone()));
        let auth_layer = AuthLayer::new(shared.security.callers.clone(), shared.metrics());
        let (mut tasks, stop) = (Tasks::new(), || shared.stop.clone());
        let api = api::Api { services, auth_layer, calls: call_metrics, protocols, age };
        spawn(&mut tasks, "API listener", api.serve(listeners.api, stop()));
        let webhook = api::serve_webhooks(listeners.webhook, webhooks, probe_state.clone(), stop());
        spawn(&mut tasks, "webhook listener", webhook);
        let hosts = Hosts::of(bound.operator, None);
        let operator = api::serve_operators(listeners.operator, probe_state, hosts, stop());
        spawn(&mut tasks, "operator listener", operator);
        let (accounts, ready) = (shared.accounts.clone(), shared.ready.clone());
        let health = api::watch_health(health, accounts, ready, shared.draining.clone(), stop());
        spawn(&mut tasks, "health", health);
        spawn(&mut tasks, "keys and certificates", shared.security.clone().watch(stop()));
        let migrate = config.migrate.then_some(config.database);
        let startup = Startup { store: shared.store.clone(), migrate, catalog };
        shared.spawn_after(&mut tasks, startup, config.retention, reconciler);
        Ok(Self { bound, shared, tasks, stop_within, stop_delay })
    }

    /// The addresses of the listeners.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Resolves when checks can be answered.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        self.shared.ready.clone().cancelled_owned()
    }

    /// Runs until `asked_to_stop` resolves, then drains open calls.
    ///
    /// # Errors
    /// If a task ends unexpectedly, or if calls are still open after `stop_within`.
    pub async fn run(mut self, asked_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Bound { api, webhook, operator } = self.bound;
        tracing::info!(%api, %webhook, %operator, "serving");
        let served = tokio::select! {
            () = asked_to_stop => Ok(()),
            ended = self.tasks.join_next() => Err(ended_early(ended)),
        };
        tracing::info!("stopping");
        self.shared.draining.cancel();
        if served.is_ok() {
            sleep(self.stop_delay).await;
        }
        self.shared.stop.cancel();
        let drained = timeout(self.stop_within, drain(&mut self.tasks)).await;
        self.shared.store.close().await;
        self.shared.telemetry.traces.end().await;
        served?;
        drained
            .context("stopped, but calls were still in flight after ENTITLEMENTS_STOP_WITHIN")??;
        tracing::info!("stopped");
        Ok(())
    }
}

impl SharedState {
    fn new(config: &Config, security: ListenerSecurity, traces: Traces) -> Self {
        let telemetry = Telemetry { traces, ..Telemetry::default() };
        let store = Store::new(config.database.clone());
        let accounts = Accounts::new(
            store.clone(),
            config.cache_bytes,
            config.max_staleness,
            config.check_timeout,
            telemetry.clone(),
        );
        let accounts = Arc::new(accounts);
        let [ready, draining, stop] = std::array::from_fn(|_| CancellationToken::new());
        Self { store, accounts, telemetry, security, ready, draining, stop }
    }

    fn metrics(&self) -> Arc<Metrics> {
        self.telemetry.metrics.clone()
    }

    fn checks(&self, log_denials: Option<SampleRate>) -> Arc<Evaluator> {
        Arc::new(Evaluator::new(self.accounts.clone(), &self.telemetry.metrics, log_denials))
    }

    fn deliveries(&self, served: Option<String>) -> Deliveries {
        let (store, accounts) = (self.store.clone(), self.accounts.clone());
        Deliveries::new(store, accounts, ServedInstance::new(served), self.telemetry.clone())
    }

    fn reconciler(&self, api: BackendApi, deliveries: Arc<Deliveries>) -> Reconciler {
        let (store, accounts) = (self.store.clone(), self.accounts.clone());
        Reconciler::new(api, store, accounts, deliveries, self.telemetry.clone())
    }

    fn change_follower(&self) -> ChangeFollower {
        ChangeFollower::new(self.store.clone(), self.accounts.clone(), self.metrics())
    }

    /// Spawns the start-up, and the tasks that need the database and begin after it.
    fn spawn_after(
        &self,
        tasks: &mut Tasks,
        startup: Startup,
        retention: Retention,
        reconciler: Option<Reconciler>,
    ) {
        let (prepared, stop) = (CancellationToken::new(), self.stop.clone());
        let after = |task| run_after(prepared.clone(), stop.clone(), task);
        let (store, metrics) = (self.store.clone(), self.metrics());
        spawn(tasks, "change log", after(Box::pin(self.change_follower().run())));
        spawn(tasks, "retention", after(Box::pin(retention::run(store.clone(), retention))));
        spawn(tasks, "database gauges", after(Box::pin(database_gauges::run(store, metrics))));
        if let Some(reconciler) = reconciler {
            spawn(tasks, "reconciliation", after(Box::pin(reconciler.run())));
        }
        spawn_fallible(tasks, "start-up", startup.run(prepared, stop));
    }

    fn probe_state(
        &self,
        call_metrics: Arc<CallMetrics>,
        catalog: Option<Arc<CatalogFile>>,
    ) -> ProbeState {
        let certificates = self.security.certificates();
        let expires_at = move || certificates.iter().filter_map(|tls| tls.expires_at()).min();
        ProbeState {
            accounts: self.accounts.clone(),
            metrics: self.metrics(),
            store: self.store.clone(),
            calls_in_progress: Box::new(move || call_metrics.in_progress()),
            certificate_expires_at: Box::new(expires_at),
            catalog_file: Box::new(move || catalog.as_ref().map(|file| file.current())),
            callers: self.security.callers.clone(),
            draining: self.draining.clone(),
        }
    }
}

/// The sockets of all listeners.
struct BoundListeners {
    api: Listener,
    webhook: Listener,
    operator: Listener,
}

impl BoundListeners {
    async fn bind(config: &Config, security: &ListenerSecurity) -> anyhow::Result<(Self, Bound)> {
        let api = bind("ENTITLEMENTS_API_LISTEN", config.api, security.api.clone()).await?;
        let webhook =
            bind("ENTITLEMENTS_WEBHOOK_LISTEN", config.webhook, security.webhook.clone()).await?;
        let operator =
            bind("ENTITLEMENTS_OPERATOR_LISTEN", config.operator, security.operator.clone())
                .await?;
        let bound = Bound {
            api: api.local_addr()?,
            webhook: webhook.local_addr()?,
            operator: operator.local_addr()?,
        };
        Ok((Self { api, webhook, operator }, bound))
    }
}

async fn bind(name: &str, address: SocketAddr, tls: Option<Arc<Tls>>) -> anyhow::Result<Listener> {
    let bound = Listener::bind(address, tls).await;
    bound.with_context(|| format!("{name}: cannot listen on {address}; choose another port, or end the process that has it"))
}

/// Spawns a task that returns no error.
fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    spawn_fallible(tasks, name, async {
        task.await;
        Ok(())
    });
}

/// Spawns a task. A panic counts as an error of this task; the panic hook prints its message.
fn spawn_fallible(
    tasks: &mut Tasks,
    name: &'static str,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    tasks.spawn(async move {
        let ended = AssertUnwindSafe(task).catch_unwind().await;
        (name, ended.unwrap_or_else(|_| Err(anyhow!("the task `{name}` panicked"))))
    });
}

fn ended_early(ended: Option<Result<Ended, JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((_, Err(error)))) => error,
        Some(Ok((task, Ok(())))) => anyhow!("the task `{task}` ended unexpectedly"),
        Some(Err(aborted)) => anyhow!("a task of the service failed: {aborted}"),
        None => anyhow!("no task is running"),
    }
}

/// Runs a task that never ends by itself, from the end of the start-up until `stop`.
async fn run_after(
    prepared: CancellationToken,
    stop: CancellationToken,
    task: Pin<Box<dyn Future<Output = Infallible> + Send>>,
) {
    let task = async {
        prepared.cancelled().await;
        match task.await {}
    };
    stop.run_until_cancelled(task).await;
}

/// Waits for the end of all tasks, also if one fails; returns the first error.
async fn drain(tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let result = ended.map_or_else(|aborted| Err(aborted.into()), |(_, result)| result);
        first = first.and(result);
    }
    first
}
