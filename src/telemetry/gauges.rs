//! What is looked at when it is asked for, or now and then, and not counted as it happens.

use super::{Labels, process::Process};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;

/// A gauge of a fraction.
pub type Fraction = Gauge<f64, AtomicU64>;

/// The state of this process, and what only Postgres can tell it.
#[derive(Debug, Default)]
pub struct Gauges {
    /// How far the clock of Postgres is ahead of this machine's.
    pub clock_skew: Fraction,
    /// How full Postgres's queue of notifications is.
    pub notification_queue: Fraction,
    /// Deliveries that wait until they are understood.
    pub parked: Gauge,
    /// 1 while the doorbell is heard, 0 while the change log is polled.
    pub listening: Gauge,
    /// Accounts in the cache.
    pub cache_entries: Gauge,
    /// About how many bytes they take.
    pub cache_bytes: Gauge,
    /// Connections to Postgres, by lane.
    pub pool_size: Family<Labels<1>, Gauge>,
    /// Those of them that nobody uses now.
    pub pool_idle: Family<Labels<1>, Gauge>,
    /// The most that there may be.
    pub pool_limit: Family<Labels<1>, Gauge>,
    /// gRPC calls that were not answered yet.
    pub calls_in_progress: Gauge,
    /// Unix time until which the first certificate to expire of this replica's listeners is valid; 0: there is none.
    pub certificate_expires_at: Gauge,
    /// The fingerprint of the file of callers in force; 0: there is none.
    pub callers_in_force: Gauge,
    /// 1 while the file of callers changed and cannot be used.
    pub callers_broken: Gauge,
    /// What the operating system knows of this process.
    pub process: Process,
}

impl Gauges {
    pub(super) fn register(&self, all: &mut Registry) {
        let build = Info::new(Labels([("version", env!("CARGO_PKG_VERSION"))]));
        all.register("build", "The version that runs here", build);
        let help = "How far the clock of Postgres is ahead of this machine's";
        all.register_with_unit("clock_skew", help, Unit::Seconds, self.clock_skew.clone());
        let help = "How full Postgres's queue of notifications is, from 0 to 1";
        all.register("notification_queue_ratio", help, self.notification_queue.clone());
        let help = "Deliveries that wait until they are understood, at most 10000";
        all.register("deliveries_parked", help, self.parked.clone());
        let help = "1 while notifications are heard, 0 while the change log is polled";
        all.register("listening", help, self.listening.clone());
        all.register("cache_entries", "Accounts in the cache", self.cache_entries.clone());
        let help = "About how much memory the cached accounts take";
        all.register_with_unit("cache", help, Unit::Bytes, self.cache_bytes.clone());
        let help = "Connections to Postgres, by what they are for";
        all.register("pool_size", help, self.pool_size.clone());
        let help = "Connections to Postgres that are not in use now";
        all.register("pool_idle", help, self.pool_idle.clone());
        let help = "The most connections to Postgres that there may be";
        all.register("pool_limit", help, self.pool_limit.clone());
        let help = "gRPC calls that were not answered yet";
        all.register("calls_in_progress", help, self.calls_in_progress.clone());
        let (help, gauge) = (
            "Unix time at which the first of the listeners' certificates expires; 0: there is none",
            self.certificate_expires_at.clone(),
        );
        all.register_with_unit("certificate_expires_at", help, Unit::Seconds, gauge);
        self.register_callers(all);
    }

    fn register_callers(&self, all: &mut Registry) {
        let help = "First 48 bits of the SHA-256 of the file of callers in force; 0: there is none";
        all.register("callers_in_force", help, self.callers_in_force.clone());
        let help =
            "1 while the file of callers changed and cannot be used: an older content is in force";
        all.register("callers_broken", help, self.callers_broken.clone());
    }
}
