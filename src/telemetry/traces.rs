//! Traces over OTLP, where a collector is named. They stand apart from the log: a check of a cached account makes a
//! span only if its caller traces it, and without a collector none is ever made. Like the log, a span carries no
//! secret, no body, no name and no e-mail address.

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

/// How long the last spans may take to be sent.
const LAST: Duration = Duration::from_secs(2);

/// Makes spans, if anybody collects them.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Collected>);

#[derive(Debug, Clone)]
struct Collected {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span, if one was made. It ends when this is dropped.
#[derive(Debug)]
pub struct Trace(Option<Context>);

/// Where a span may go on in another task.
#[derive(Debug)]
pub struct Place(Option<Context>);

/// Why a collector cannot be sent to, if so.
pub fn check_endpoint(endpoint: &str) -> anyhow::Result<()> {
    ensure!(
        endpoint.starts_with("http://"),
        "OTEL_EXPORTER_OTLP_ENDPOINT must be as http://host:4317 (OTLP over gRPC): for a collector behind TLS, \
         run one beside the service that passes on"
    );
    Ok(())
}

impl Traces {
    /// Sends to the collector at this address, if there is one. `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_EXPORTER_OTLP_HEADERS` count as well.
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
        Ok(Self(Some(Collected { provider, tracer })))
    }

    /// A request that is worth a span in any case, below that of its sender.
    #[must_use]
    pub fn request(&self, name: &'static str, headers: &HeaderMap) -> Trace {
        self.0.as_ref().map_or(Trace(None), |on| {
            Trace(Some(on.span(name.into(), SpanKind::Server, &sender(headers))))
        })
    }

    /// A call, if its caller's span is sampled.
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

    /// Work within what is going on here.
    #[must_use]
    pub fn work(&self, name: &'static str) -> Trace {
        self.work_at(name, self.here())
    }

    /// Work within what was going on at another place.
    #[must_use]
    pub fn work_at(&self, name: &'static str, place: Place) -> Trace {
        let on = self.0.as_ref().zip(place.0);
        Trace(on.map(|(on, place)| on.span(name.into(), SpanKind::Internal, &place)))
    }

    /// A question to somebody else, within what is going on here.
    #[must_use]
    pub fn question(&self, name: &'static str) -> Trace {
        let on = self.0.as_ref();
        Trace(on.map(|on| on.span(name.into(), SpanKind::Client, &Context::current())))
    }

    /// What is going on here, for work in another task.
    #[must_use]
    pub fn here(&self) -> Place {
        Place(self.0.as_ref().map(|_| Context::current()))
    }

    /// Sends what was not sent yet.
    pub async fn end(&self) {
        let Some(Collected { provider, .. }) = self.0.clone() else { return };
        let ended = spawn_blocking(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

impl Collected {
    fn span(&self, name: String, kind: SpanKind, parent: &Context) -> Context {
        let span = self.tracer.span_builder(name).with_kind(kind);
        parent.with_span(span.start_with_context(&self.tracer, parent))
    }
}

impl Trace {
    /// Whether there is no span.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Does work within the span.
    pub fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let (work, span) = (Box::pin(work), self.0.clone());
        async move {
            match span {
                None => work.await,
                Some(span) => work.with_context(span).await,
            }
        }
    }

    /// Adds to the span what was seen.
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

/// The id of the trace that is going on here, for the log.
#[must_use]
pub fn trace_id() -> Option<String> {
    let here = Context::current();
    let span = here.span();
    let id = span.span_context();
    id.is_valid().then(|| id.trace_id().to_string())
}

/// The headers that let whoever gets a request go on with the trace.
#[must_use]
pub fn traceparent() -> HeaderMap {
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new().inject_context(&Context::current(), &mut Sent(&mut headers));
    headers
}

/// The span of whoever sent these headers.
fn sender(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers))
}

struct Received<'h>(&'h HeaderMap);

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Sent<'h>(&'h mut HeaderMap);

impl Injector for Sent<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return; // a `tracestate` that says nothing
        }
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            self.0.insert(name, value);
        }
    }
}
