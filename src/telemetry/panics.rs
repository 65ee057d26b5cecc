//! Reports panics as log events and as a metric.
//!
//! A panic ends one call, connection or task, and its caller gets an error without the cause. The cause is only in the
//! panic message, which the default hook would print as plain text between the JSON lines of the log.

use prometheus_client::metrics::counter::Counter;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    sync::{LazyLock, Once},
};

/// Panics of this process. A static, because the panic hook is global to the process.
static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The counter of panics in this process.
pub(super) fn counter() -> Counter {
    PANICS.clone()
}

/// Installs a panic hook that counts and logs each panic. If logging is off, the previous hook prints it.
pub fn log_panics() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.inc();
            if tracing::event_enabled!(tracing::Level::ERROR) {
                log(panic);
            } else {
                previous(panic);
            }
        }));
    });
}

fn log(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture(); // empty unless RUST_BACKTRACE is set
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        location,
        cause = panic.payload_as_str().unwrap_or("a value that is not text"),
        thread = std::thread::current().name(),
        backtrace,
        "a part of the service panicked"
    );
}
