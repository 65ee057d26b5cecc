//! Panics, as events of the log and as a metric.
//!
//! A panic costs one call, connection or task, and what it belongs to answers with an error. Its cause is only in the
//! message of the panic, which the standard hook prints as text between the JSON lines of the log.

use prometheus_client::metrics::counter::Counter;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    sync::{LazyLock, Once},
};

/// Panics of this process. It is a static because the hook is one for the whole process.
static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

/// How many panics there were in this process.
pub(super) fn counter() -> Counter {
    PANICS.clone()
}

/// Counts and logs each panic from now on. Where nothing is logged, it is printed as before.
pub fn log_panics() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.inc();
            if tracing::event_enabled!(tracing::Level::ERROR) {
                log(panic);
            } else {
                before(panic);
            }
        }));
    });
}

fn log(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture(); // only if RUST_BACKTRACE asks for it
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        place,
        cause = panic.payload_as_str().unwrap_or("a value that is not text"),
        thread = std::thread::current().name(),
        backtrace,
        "a part of the service panicked"
    );
}
