//! Logs, metrics and traces. They never contain a secret, a payload, a personal name or an e-mail address; metrics
//! contain no ids either.

mod gauges;
mod logging;
mod metrics;
mod panics;
mod process;
mod sampling;
mod traces;

pub use gauges::Gauges;
pub use logging::{LogFormat, error_chain, log_chain, log_filter, start_logging};
pub use metrics::{CallLabels, Labels, Metrics};
pub use panics::log_panics;
pub use sampling::{InvalidSampleRate, SampleRate, Sampler};
pub use traces::{SpanContext, Trace, Traces, check_endpoint, trace_id, traceparent};

use std::sync::Arc;

/// The metrics and traces of one service, for parts that need both. They are not global, so that several services can
/// run in one process.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Creates spans, if a trace collector is configured.
    pub traces: Traces,
}
