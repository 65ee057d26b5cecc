//! Logs, metrics and traces. None ever carries a secret, a payload, a name or an e-mail address; metrics carry no
//! ids either.

mod gauges;
mod panics;
mod process;
mod sampling;
mod traces;

pub use gauges::Gauges;
pub use panics::log_panics;
pub use sampling::{InvalidShare, Sampler, Share};
pub use traces::{Place, Trace, Traces, check_endpoint, trace_id, traceparent};

use clap::ValueEnum;
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    error::Error,
    io::{self, IsTerminal},
    iter::successors,
};
use tracing::{Value, field::display};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging to standard error; `filter` as `tracing-subscriber`'s `EnvFilter` has it, but a level alone is
/// about this service's own lines.
pub fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = log_filter(filter)?;
    let colours = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => logs.with_target(false).with_ansi(colours).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))?;
    log_panics();
    Ok(())
}

/// What is to be logged, as `LOG` says it.
pub fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    let directives: Vec<_> = text.split(',').map(ours).collect();
    let filter = directives.join(",").parse();
    filter.map_err(|e| anyhow::anyhow!("LOG is no log filter, such as `info`: {e}"))
}

/// Libraries log what passes through them, such as the headers of requests: of them, a level alone brings warnings,
/// and more only where they are named.
fn ours(directive: &str) -> String {
    match directive.trim().parse::<LevelFilter>() {
        Ok(level) => format!("{},entitlements={level}", level.min(LevelFilter::WARN)),
        Err(_) => directive.into(),
    }
}

/// An error and all that caused it, for the log.
pub fn chain(error: &(dyn Error + 'static)) -> impl Value + use<> {
    display(told(error))
}

/// An error and all that caused it, in words; a cause that is told with its effect is not told again.
#[must_use]
pub fn told(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes
        .reduce(|told, cause| if told.ends_with(&cause) { told } else { told + ": " + &cause })
        .unwrap_or_default()
}

/// What is counted. Each service has its own, so that many can run in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Deliveries, by what became of them.
    pub deliveries: Family<Labels<1>, Counter>,
    /// Subjects compared with Clerk, by what that showed.
    pub reconciled: Family<Labels<1>, Counter>,
    /// Questions to Clerk's Backend API that failed.
    pub clerk_errors: Counter,
    /// Items that were told of with a plan that is not in the catalog.
    pub unknown_plans: Counter,
    /// Deliveries of another Clerk instance than the one served.
    pub foreign_deliveries: Counter,
    /// Deliveries of another instance than the first one, where none is set.
    pub mixed_instances: Counter,
    /// Items that were observed under two subjects.
    pub shared_items: Counter,
    /// Webhook requests that were no deliveries, by HTTP status.
    pub refused: Family<Labels<1>, Counter>,
    /// Calls that were not let in, by cause.
    pub calls_refused: Family<Labels<1>, Counter>,
    /// Answers to questions, by reason.
    pub checks: Family<Labels<1>, Counter>,
    /// Requests through other protocols than our own, by what became of them.
    pub protocol_requests: Family<Labels<2>, Counter>,
    /// Accounts found in the cache.
    pub cache_hits: Counter,
    /// Accounts read from the database, by whether that worked.
    pub cache_loads: Family<Labels<1>, Counter>,
    /// How old changes were when this replica heard of them.
    pub change_lag: Histogram,
    /// When this replica last heard all changes, as Unix time.
    pub changes_heard_at: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// The freshness this replica is in: 1 for that state, 0 for the others.
    pub freshness: Family<Labels<1>, Gauge>,
    /// Tasks that run in this process.
    pub tasks: Gauge,
    /// The version of the catalog in use.
    pub catalog: Gauge,
    /// How long webhook requests took, by the kind of answer.
    pub webhook_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// gRPC calls that were answered, by method and code.
    pub calls: Family<Call, Counter>,
    /// What is looked at, not counted.
    pub gauges: Gauges,
    /// Makes spans, if anybody collects them.
    pub traces: Traces,
    /// Names without our prefix.
    common: Registry,
}

/// A gRPC call that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// Its method, without the service.
    pub method: String,
    /// gRPC's name of its code.
    pub code: &'static str,
}

/// Label names with their values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels<const N: usize>(pub [(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> std::fmt::Result {
        self.0.encode(encoder)
    }
}

/// The upper bounds of the buckets of lags and durations, in seconds.
const LAGS: [f64; 13] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("entitlements"),
            deliveries: Family::default(),
            reconciled: Family::default(),
            clerk_errors: Counter::default(),
            unknown_plans: Counter::default(),
            foreign_deliveries: Counter::default(),
            mixed_instances: Counter::default(),
            shared_items: Counter::default(),
            refused: Family::default(),
            calls_refused: Family::default(),
            checks: Family::default(),
            protocol_requests: Family::default(),
            cache_hits: Counter::default(),
            cache_loads: Family::default(),
            change_lag: Histogram::new(LAGS),
            changes_heard_at: Gauge::default(),
            freshness: Family::default(),
            tasks: Gauge::default(),
            catalog: Gauge::default(),
            webhook_duration: Family::new_with_constructor(|| Histogram::new(LAGS)),
            calls: Family::default(),
            gauges: Gauges::default(),
            traces: Traces::default(),
            common: Registry::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// These, with spans going to whoever collects them.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Names everything; the names are part of what operators rely on.
    fn register(&mut self) {
        self.register_oddities();
        let all = &mut self.registry;
        all.register("deliveries", "Deliveries taken, by result", self.deliveries.clone());
        let help = "Subjects compared with Clerk, by result";
        all.register("reconciled", help, self.reconciled.clone());
        let help = "Questions to Clerk's Backend API that failed";
        all.register("clerk_errors", help, self.clerk_errors.clone());
        let help = "Items told of with a plan that is not in the catalog";
        all.register("unknown_plans", help, self.unknown_plans.clone());
        let help = "Webhook requests that were refused, by HTTP status";
        all.register("webhooks_refused", help, self.refused.clone());
        let help = "Calls that were not let in, by cause";
        all.register("calls_refused", help, self.calls_refused.clone());
        all.register("checks", "Questions answered, by reason", self.checks.clone());
        let help = "Requests through other protocols, by protocol and result";
        all.register("protocol_requests", help, self.protocol_requests.clone());
        all.register("cache_hits", "Accounts found in the cache", self.cache_hits.clone());
        let help = "Accounts read from Postgres, by result";
        all.register("cache_loads", help, self.cache_loads.clone());
        let help = "Age of changes when this replica heard of them";
        all.register_with_unit("change_lag", help, Unit::Seconds, self.change_lag.clone());
        let help = "Unix time at which this replica last heard all changes";
        let heard_at = self.changes_heard_at.clone();
        all.register_with_unit("changes_heard_at", help, Unit::Seconds, heard_at);
        let help = "1 for the state of freshness that this replica is in";
        all.register("freshness", help, self.freshness.clone());
        all.register("tasks", "Tasks that run in this process", self.tasks.clone());
        all.register("catalog_version", "Catalog version in use", self.catalog.clone());
        let help = "Time that webhook requests took, by the kind of answer";
        let took = self.webhook_duration.clone();
        all.register_with_unit("webhook_duration", help, Unit::Seconds, took);
        all.register("calls", "gRPC calls answered, by method and code", self.calls.clone());
        let help = "Panics in this process, whatever they ended";
        all.register("panics", help, panics::counter());
        self.gauges.register(all);
        self.gauges.process.register(&mut self.common);
        self.begin();
    }

    /// What an operator should look at, of deliveries that were taken.
    fn register_oddities(&mut self) {
        let all = &mut self.registry;
        let help = "Deliveries of another Clerk instance than the one served, which were parked";
        all.register("foreign_deliveries", help, self.foreign_deliveries.clone());
        let help = "Deliveries of another Clerk instance than the first one, where none is set";
        all.register("mixed_instances", help, self.mixed_instances.clone());
        let help = "Items that were observed under two subjects";
        all.register("shared_items", help, self.shared_items.clone());
    }

    /// Puts at 0 what has few labels: an alert sees a first increase only where there was something before it.
    fn begin(&self) {
        for result in ["applied", "superseded", "duplicate", "ignored", "parked"] {
            drop(self.deliveries.get_or_create(&Labels([("result", result)])));
        }
        for status in ["400", "401", "408", "413", "500", "503"] {
            drop(self.refused.get_or_create(&Labels([("status", status)])));
        }
        for cause in ["no_key", "wrong_key", "several_keys", "no_scope", "too_many"] {
            drop(self.calls_refused.get_or_create(&Labels([("cause", cause)])));
        }
        for result in ["ok", "failed"] {
            drop(self.cache_loads.get_or_create(&Labels([("result", result)])));
        }
        for result in ["same", "healed", "differs", "not_understood", "not_at_clerk", "failed"] {
            drop(self.reconciled.get_or_create(&Labels([("result", result)])));
        }
        for protocol in ["flagd", "ofrep", "authzen", "forward-auth", "ext-authz"] {
            for result in ["allowed", "denied", "unavailable"] {
                let labels = Labels([("protocol", protocol), ("result", result)]);
                drop(self.protocol_requests.get_or_create(&labels));
            }
        }
        for answer in ["2xx", "4xx", "5xx"] {
            drop(self.webhook_duration.get_or_create(&Labels([("answer", answer)])));
        }
    }

    /// All metrics in the `OpenMetrics` text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.gauges.process.look();
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.common))
            .and_then(|()| encode_eof(&mut text))
            .expect("a String takes everything");
        text
    }
}
