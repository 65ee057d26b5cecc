//! Traces over OTLP, if a collector is configured. They are independent of the log: a check of a cached account creates
//! a span only if its caller's span is sampled, and without a collector no span is created. Like the log, a span
//! contains no secret, no body, no personal name and no e-mail address.

use anyhow::{Context as _, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{FutureExt, SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// Timeout for sending the last spans during shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Creates spans, if a collector is configured.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporter>);

#[derive(Debug, Clone)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span, or nothing if none was created. Dropping it ends the span.
#[derive(Debug)]
pub struct Trace(Option<Context>);

/// The current span, for use as the parent of a span in another task.
#[derive(Debug)]
pub struct SpanContext(Option<Context>);

/// Validates the URL of a collector.
///
/// # Errors
/// If it does not begin with `http://`: the exporter has no TLS.
pub fn check_endpoint(endpoint: &str) -> anyhow::Result<()> {
    ensure!(
        endpoint.starts_with("http://"),
        "OTEL_EXPORTER_OTLP_ENDPOINT must be as http://host:4317 (OTLP over gRPC): if the collector requires TLS, \
         run a collector beside the service that forwards to it"
    );
    Ok(())
}

impl Traces {
    /// Starts the exporter to the collector at `endpoint`, if one is given. The variables `OTEL_SERVICE_NAME`,
    /// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and `OTEL_EXPORTER_OTLP_HEADERS` are also used.
    ///
    /// # Errors
    /// If the exporter cannot be built.
    pub fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
        let Some(endpoint) = endpoint else { return Ok(Self(None)) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
            resource = resource.with_service_name("entitlements");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.with_attribute(version).build())
            .build();
        let tracer = provider.tracer("entitlements");
        Ok(Self(Some(Exporter { provider, tracer })))
    }

    /// Creates a span for a request, as a child of the sender's span if the headers have one.
    #[must_use]
    pub fn request(&self, name: &'static str, headers: &HeaderMap) -> Trace {
        self.0.as_ref().map_or(Trace(None), |on| {
            Trace(Some(on.span(name.into(), SpanKind::Server, &sender(headers))))
        })
    }

    /// Creates a span for a call, but only if the caller's span is sampled.
    #[must_use]
    pub fn call(&self, path: &str, headers: &HeaderMap) -> Trace {
        let Some(on) = &self.0 else { return Trace(None) };
        if !headers.contains_key("traceparent") {
            return Trace(None);
        }
        let caller = sender(headers);
        if !caller.span().span_context().is_sampled() {
            return Trace(None);
        }
        let name = path.trim_start_matches('/').to_owned();
        Trace(Some(on.span(name, SpanKind::Server, &caller)))
    }

    /// Creates a span for internal work, as a child of the current span.
    #[must_use]
    pub fn work(&self, name: &'static str) -> Trace {
        self.work_at(name, self.here())
    }

    /// Creates a span for internal work, as a child of a span of another task.
    #[must_use]
    pub fn work_at(&self, name: &'static str, parent: SpanContext) -> Trace {
        let on = self.0.as_ref().zip(parent.0);
        Trace(on.map(|(on, parent)| on.span(name.into(), SpanKind::Internal, &parent)))
    }

    /// Creates a client span for a request to another service, as a child of the current span.
    #[must_use]
    pub fn question(&self, name: &'static str) -> Trace {
        let on = self.0.as_ref();
        Trace(on.map(|on| on.span(name.into(), SpanKind::Client, &Context::current())))
    }

    /// The current span, for [`Traces::work_at`] in another task.
    #[must_use]
    pub fn here(&self) -> SpanContext {
        SpanContext(self.0.as_ref().map(|_| Context::current()))
    }

    /// Sends the remaining spans and stops the exporter.
    pub async fn end(&self) {
        let Some(Exporter { provider, .. }) = self.0.clone() else { return };
        let ended = spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

impl Exporter {
    fn span(&self, name: String, kind: SpanKind, parent: &Context) -> Context {
        let span = self.tracer.span_builder(name).with_kind(kind);
        parent.with_span(span.start_with_context(&self.tracer, parent))
    }
}

impl Trace {
    /// Whether no span was created.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Runs a future with the span as the current span.
    pub fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let (work, span) = (Box::pin(work), self.0.clone());
        async move {
            match span {
                None => work.await,
                Some(span) => work.with_context(span).await,
            }
        }
    }

    /// Sets an attribute of the span.
    pub fn note(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &self.0 {
            span.span().set_attribute(KeyValue::new(key, value));
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(span) = &self.0 {
            span.span().end();
        }
    }
}

/// The id of the current trace, for the log.
#[must_use]
pub fn trace_id() -> Option<String> {
    let here = Context::current();
    let span = here.span();
    let id = span.span_context();
    id.is_valid().then(|| id.trace_id().to_string())
}

/// The headers that propagate the current span to the receiver of a request.
#[must_use]
pub fn traceparent() -> HeaderMap {
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new()
        .inject_context(&Context::current(), &mut HeaderInjector(&mut headers));
    headers
}

/// The span of the sender, from the headers of a request.
fn sender(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

struct HeaderExtractor<'h>(&'h HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeaderInjector<'h>(&'h mut HeaderMap);

impl Injector for HeaderInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return; // an empty `tracestate`
        }
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            self.0.insert(name, value);
        }
    }
}
