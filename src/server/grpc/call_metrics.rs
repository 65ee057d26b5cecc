//! Counts calls by method and code, cheaply: each method keeps its counters, so that a call needs no lookup by label.

use crate::telemetry::{CallLabels, Telemetry, Trace};
use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};
use tonic::{Code, body::Body};

/// The names of gRPC's status codes, indexed by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The metrics of gRPC calls.
#[derive(Debug)]
pub struct CallMetrics {
    telemetry: Telemetry,
    /// The methods of the contract. All others, such as health and reflection, are counted together in `others`.
    methods: Vec<Method>,
    others: Method,
    in_progress: AtomicUsize,
}

/// A call in progress.
pub(super) struct InFlight(Arc<CallMetrics>);

impl InFlight {
    /// Counts the answer of this call.
    pub(super) fn ended(&self, method: Option<usize>, response: &Response<Body>) {
        self.0.ended(method, response);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Method {
    path: String,
    ended: [OnceLock<Counter>; CODES.len()],
}

impl CallMetrics {
    /// Creates the metrics of the methods in `contract`, an encoded `FileDescriptorSet`.
    #[must_use]
    pub fn new(telemetry: Telemetry, contract: &[u8]) -> Self {
        let methods = paths(contract).into_iter().map(Method::new).collect();
        let others = Method::new("other".into());
        Self { telemetry, methods, others, in_progress: AtomicUsize::new(0) }
    }

    /// The number of calls in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// Counts a call as in progress until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// The index of the method with this path; `None` if it is not in the contract.
    pub(super) fn method(&self, path: &str) -> Option<usize> {
        self.methods.iter().position(|method| method.path == path)
    }

    /// The span of a call, which is recorded if the caller's is sampled.
    pub(super) fn trace<T>(&self, request: &Request<T>) -> Trace {
        self.telemetry.traces.call(request.uri().path(), request.headers())
    }

    fn ended(&self, method: Option<usize>, response: &Response<Body>) {
        let method = method.map_or(&self.others, |at| &self.methods[at]);
        let code = code(response) as usize;
        let counter = method.ended[code].get_or_init(|| {
            let name = method.path.rsplit('/').next().unwrap_or_default();
            let call = CallLabels { method: name.into(), code: CODES[code] };
            self.telemetry.metrics.calls.get_or_create(&call).clone()
        });
        counter.inc();
    }
}

/// The status code of an answer. An answer without a code in its headers counts as OK: its code is in the trailers, and
/// only a successful call starts to send a message.
pub(super) fn code(response: &Response<Body>) -> Code {
    let code = response.headers().get("grpc-status");
    code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

impl Method {
    fn new(path: String) -> Self {
        Self { path, ended: [const { OnceLock::new() }; CODES.len()] }
    }
}

/// The paths of all methods in the contract.
fn paths(contract: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(contract).expect("the build compiled the descriptors");
    let of_service = |package: &str, service: &ServiceDescriptorProto| {
        let service_path = format!("/{package}.{}", service.name());
        let paths = service.method.iter().map(|method| format!("{service_path}/{}", method.name()));
        paths.collect::<Vec<_>>()
    };
    let files = files.file.iter();
    files.flat_map(|f| f.service.iter().flat_map(|s| of_service(f.package(), s))).collect()
}
