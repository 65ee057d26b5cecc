//! The registry of counters, gauges and histograms, and their labels.

use super::{Gauges, panics};
use prometheus_client::{
    encoding::{
        EncodeLabelSet, LabelSetEncoder,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::AtomicU64};

/// The metrics of one service. They are not global, so that several services can run in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Deliveries accepted, by result.
    pub deliveries: Family<Labels<1>, Counter>,
    /// Subjects compared with Clerk, by result.
    pub reconciled: Family<Labels<1>, Counter>,
    /// Failed tasks that use Clerk's Backend API.
    pub clerk_errors: Counter,
    /// Items received with a plan that is not in the catalog.
    pub unknown_plans: Counter,
    /// Deliveries of another Clerk instance than the one served.
    pub foreign_deliveries: Counter,
    /// Deliveries of another Clerk instance than the first one, where no instance is configured.
    pub mixed_instances: Counter,
    /// Items received for two subjects.
    pub shared_items: Counter,
    /// Webhook requests that were refused, by HTTP status.
    pub refused: Family<Labels<1>, Counter>,
    /// Calls that failed authentication or authorization, by cause.
    pub calls_refused: Family<Labels<1>, Counter>,
    /// Checks answered, by reason.
    pub checks: Family<Labels<1>, Counter>,
    /// Requests over the protocols of `ENTITLEMENTS_PROTOCOLS`, by protocol and result.
    pub protocol_requests: Family<Labels<2>, Counter>,
    /// Account lookups answered from the cache.
    pub cache_hits: Counter,
    /// Accounts loaded from Postgres, by result.
    pub cache_loads: Family<Labels<1>, Counter>,
    /// Time from the write of a change until this replica applied it.
    pub change_lag: Histogram,
    /// Unix time at which this replica last read all changes.
    pub changes_read_at: Gauge<f64, AtomicU64>,
    /// Freshness of this replica: 1 for its state, 0 for the other states.
    pub freshness: Family<Labels<1>, Gauge>,
    /// Tasks running in this process.
    pub tasks: Gauge,
    /// Version of the catalog in use.
    pub catalog: Gauge,
    /// Duration of webhook requests, by class of the HTTP status.
    pub webhook_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// gRPC calls answered, by method and code.
    pub calls: Family<CallLabels, Counter>,
    /// Gauges that are measured on a scrape or periodically.
    pub gauges: Gauges,
    /// Metrics without the prefix `entitlements_`.
    common: Registry,
}

/// Upper bounds of the histogram buckets of lags and durations, in seconds.
const LAG_BUCKETS_S: [f64; 13] =
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
            change_lag: Histogram::new(LAG_BUCKETS_S),
            changes_read_at: Gauge::default(),
            freshness: Family::default(),
            tasks: Gauge::default(),
            catalog: Gauge::default(),
            webhook_duration: Family::new_with_constructor(|| Histogram::new(LAG_BUCKETS_S)),
            calls: Family::default(),
            gauges: Gauges::default(),
            common: Registry::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// Registers all metrics. Their names are stable, because operators rely on them.
    fn register(&mut self) {
        self.register_anomalies();
        let all = &mut self.registry;
        all.register("deliveries", "Deliveries accepted, by result", self.deliveries.clone());
        let help = "Subjects compared with Clerk, by result";
        all.register("reconciled", help, self.reconciled.clone());
        let help = "Webhook requests that were refused, by HTTP status";
        all.register("webhooks_refused", help, self.refused.clone());
        let help = "Calls that failed authentication or authorization, by cause";
        all.register("calls_refused", help, self.calls_refused.clone());
        all.register("checks", "Checks answered, by reason", self.checks.clone());
        let help = "Requests over the protocols of ENTITLEMENTS_PROTOCOLS, by protocol and result";
        all.register("protocol_requests", help, self.protocol_requests.clone());
        all.register(
            "cache_hits",
            "Account lookups answered from the cache",
            self.cache_hits.clone(),
        );
        let help = "Accounts loaded from Postgres, by result";
        all.register("cache_loads", help, self.cache_loads.clone());
        let help = "Time from the write of a change until this replica applied it";
        all.register_with_unit("change_lag", help, Unit::Seconds, self.change_lag.clone());
        let help = "Unix time at which this replica last read all changes";
        let read_at = self.changes_read_at.clone();
        all.register_with_unit("changes_heard_at", help, Unit::Seconds, read_at);
        let help = "1 for the freshness state of this replica, 0 for the other states";
        all.register("freshness", help, self.freshness.clone());
        all.register("tasks", "Tasks running in this process", self.tasks.clone());
        all.register("catalog_version", "Catalog version in use", self.catalog.clone());
        let help = "Duration of webhook requests, by class of the HTTP status";
        let took = self.webhook_duration.clone();
        all.register_with_unit("webhook_duration", help, Unit::Seconds, took);
        all.register("calls", "gRPC calls answered, by method and code", self.calls.clone());
        let help = "Panics in this process; each one is a bug";
        all.register("panics", help, panics::counter());
        self.gauges.register(all);
        self.gauges.process.register(&mut self.common);
        self.initialize_labels();
    }

    /// Registers the counters of anomalies, which an operator should investigate.
    fn register_anomalies(&mut self) {
        let all = &mut self.registry;
        let help = "Failed tasks that use Clerk's Backend API";
        all.register("clerk_errors", help, self.clerk_errors.clone());
        let help = "Items received with a plan that is not in the catalog";
        all.register("unknown_plans", help, self.unknown_plans.clone());
        let help = "Deliveries of another Clerk instance than the one served; they are parked";
        all.register("foreign_deliveries", help, self.foreign_deliveries.clone());
        let help =
            "Deliveries of another Clerk instance than the first one, where none is configured";
        all.register("mixed_instances", help, self.mixed_instances.clone());
        let help = "Items received for two subjects";
        all.register("shared_items", help, self.shared_items.clone());
    }

    /// Counts a call that was rejected before it reached a service, by its cause.
    pub fn count_refused_call(&self, cause: &'static str) {
        self.calls_refused.get_or_create(&Labels([("cause", cause)])).inc();
    }

    /// Initializes counters with known label values to 0, so that an alert detects the first increase.
    fn initialize_labels(&self) {
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
        let decisions = ["allowed", "denied", "unavailable"];
        for (protocol, results) in [
            ("flagd", decisions),
            ("flagd-sync", ["stream", "fetched", "unavailable"]),
            ("ofrep", decisions),
            ("authzen", decisions),
            ("forward-auth", decisions),
            ("ext-authz", decisions),
            ("connect", ["ok", "invalid_argument", "unavailable"]),
            ("grpc-web", ["ok", "invalid_argument", "unavailable"]),
        ] {
            for result in results {
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
        self.gauges.process.refresh();
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.common))
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to a String cannot fail");
        text
    }
}

/// Labels of an answered gRPC call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// The method, without the name of the service.
    pub method: String,
    /// The gRPC name of the status code.
    pub code: &'static str,
}

/// Pairs of a label name and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels<const N: usize>(pub [(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}
