//! Process metrics from the operating system, under the names that Prometheus's own client libraries use. Linux only:
//! on other systems nothing is registered.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;

/// Memory, open files, start time and CPU time of this process.
#[derive(Debug, Default)]
pub struct Process {
    resident: Gauge,
    open_files: Gauge,
    most_files: Gauge,
    started_at: Gauge<f64, AtomicU64>,
    cpu: Counter<f64, AtomicU64>,
}

impl Process {
    /// Registers the metrics in a registry without a prefix.
    pub(super) fn register(&self, all: &mut Registry) {
        if !cfg!(target_os = "linux") {
            return;
        }
        let help = "Resident memory";
        all.register_with_unit("process_resident_memory", help, Unit::Bytes, self.resident.clone());
        all.register("process_open_fds", "Open file descriptors", self.open_files.clone());
        let help = "Maximum number of open file descriptors";
        all.register("process_max_fds", help, self.most_files.clone());
        let help = "Unix time at which the process started";
        let started_at = self.started_at.clone();
        all.register_with_unit("process_start_time", help, Unit::Seconds, started_at);
        let help = "CPU time used, user and system";
        all.register_with_unit("process_cpu", help, Unit::Seconds, self.cpu.clone());
    }

    /// Reads the values again. A value that cannot be read keeps its last state.
    #[cfg(target_os = "linux")]
    pub(super) fn refresh(&self) {
        use std::fs::{read_dir, read_to_string};

        let status = read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(kib) = number_after(&status, "VmRSS:") {
            self.resident.set(kib.saturating_mul(1024));
        }
        if let Ok(open) = read_dir("/proc/self/fd") {
            let open = open.count().saturating_sub(1); // the descriptor of this directory
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        let limits = read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(most) = number_after(&limits, "Max open files") {
            self.most_files.set(most);
        }
        let stat = read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = read_to_string("/proc/stat").unwrap_or_default();
        if let (Some(times), Some(boot)) = (Times::of(&stat), number_after(&boot, "btime")) {
            self.started_at
                .set(seconds(times.started) + f64::from(u32::try_from(boot).unwrap_or(0)));
            let more = seconds(times.spent) - self.cpu.get();
            if more > 0.0 {
                self.cpu.inc_by(more);
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn refresh(&self) {}
}

/// Times of a process, in clock ticks.
#[cfg(target_os = "linux")]
struct Times {
    spent: u64,
    /// Start of the process, since the boot of the machine.
    started: u64,
}

#[cfg(target_os = "linux")]
impl Times {
    /// Parses `/proc/self/stat`, after the name in parentheses, which can contain any character.
    fn of(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
        Some(Self { spent: field(14)? + field(15)?, started: field(22)? })
    }
}

#[cfg(target_os = "linux")]
#[expect(clippy::cast_precision_loss, reason = "a hundredth of a second is precise enough")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The first number in the line that begins with `word`.
#[cfg(target_os = "linux")]
fn number_after(text: &str, word: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}
