//! Gauges: values that are measured on a scrape or periodically, not counted as they happen.

use super::{Labels, process::Process};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;

/// A gauge with a floating-point value.
pub type Fraction = Gauge<f64, AtomicU64>;

/// Gauges of this process, and of Postgres.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Seconds by which the clock of Postgres is ahead of the clock of this machine.
    pub clock_skew: Fraction,
    /// Fill level of the notification queue of Postgres, from 0 to 1.
    pub notification_queue: Fraction,
    /// Deliveries that could not be parsed and are kept for replay.
    pub parked: Gauge,
    /// Overrides in force, by effect.
    pub overrides: Family<Labels<1>, Gauge>,
    /// Overrides in force that expire within seven days.
    pub overrides_expiring_soon: Gauge,
    /// 1 while another catalog is in force than the catalog file of this replica.
    pub catalog_file_differs: Gauge,
    /// 1 while notifications are received, 0 while the change log is polled.
    pub listening: Gauge,
    /// Accounts in the cache.
    pub cache_entries: Gauge,
    /// Approximate memory of the cached accounts, in bytes.
    pub cache_bytes: Gauge,
    /// Open connections to Postgres, by pool.
    pub pool_size: Family<Labels<1>, Gauge>,
    /// Open connections to Postgres that are not in use, by pool.
    pub pool_idle: Family<Labels<1>, Gauge>,
    /// Maximum number of connections to Postgres, by pool.
    pub pool_limit: Family<Labels<1>, Gauge>,
    /// gRPC calls that are not answered yet.
    pub calls_in_progress: Gauge,
    /// Unix time at which the first of the listeners' certificates expires; 0 without TLS.
    pub certificate_expires_at: Gauge,
    /// Fingerprint of the callers file in force; 0 without a file.
    pub callers_in_force: Gauge,
    /// 1 while the callers file has changed and cannot be used.
    pub callers_broken: Gauge,
    /// Process metrics from the operating system.
    pub process: Process,
}

impl Gauges {
    pub(super) fn register(&self, all: &mut Registry) {
        let build = Info::new(Labels([("version", env!("CARGO_PKG_VERSION"))]));
        all.register("build", "Version of the running service", build);
        let help = "Seconds by which the clock of Postgres is ahead of the clock of this machine";
        all.register_with_unit("clock_skew", help, Unit::Seconds, self.clock_skew.clone());
        let help = "Fill level of the notification queue of Postgres, from 0 to 1";
        all.register("notification_queue_ratio", help, self.notification_queue.clone());
        let help =
            "Deliveries that could not be parsed and are kept for replay, counted up to 10000";
        all.register("deliveries_parked", help, self.parked.clone());
        let help = "Overrides in force, by effect, counted up to 100000";
        all.register("overrides", help, self.overrides.clone());
        let help = "Overrides in force that expire within seven days, counted up to 100000";
        all.register("overrides_expiring_soon", help, self.overrides_expiring_soon.clone());
        let help = "1 while another catalog is in force than the catalog file of this replica";
        all.register("catalog_file_differs", help, self.catalog_file_differs.clone());
        let help = "1 while notifications are received, 0 while the change log is polled";
        all.register("listening", help, self.listening.clone());
        all.register("cache_entries", "Accounts in the cache", self.cache_entries.clone());
        let help = "Approximate memory of the cached accounts";
        all.register_with_unit("cache", help, Unit::Bytes, self.cache_bytes.clone());
        let help = "Open connections to Postgres, by connection pool";
        all.register("pool_size", help, self.pool_size.clone());
        let help = "Open connections to Postgres that are not in use, by connection pool";
        all.register("pool_idle", help, self.pool_idle.clone());
        let help = "Maximum number of connections to Postgres, by connection pool";
        all.register("pool_limit", help, self.pool_limit.clone());
        let help = "gRPC calls that are not answered yet";
        all.register("calls_in_progress", help, self.calls_in_progress.clone());
        let (help, gauge) = (
            "Unix time at which the first of the listeners' certificates expires; 0 without TLS",
            self.certificate_expires_at.clone(),
        );
        all.register_with_unit("certificate_expires_at", help, Unit::Seconds, gauge);
        self.register_callers(all);
    }

    fn register_callers(&self, all: &mut Registry) {
        let help = "First 48 bits of the SHA-256 of the callers file in force; 0 without a file";
        all.register("callers_in_force", help, self.callers_in_force.clone());
        let help = "1 while the callers file has changed and cannot be used: the previous content is in force";
        all.register("callers_broken", help, self.callers_broken.clone());
    }
}
