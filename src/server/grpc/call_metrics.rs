//! Counts calls by method and code, for next to nothing: the method is compared and not looked up, and each counter
//! is kept once it was made.

use crate::telemetry::{Call, Metrics, Trace};
use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};
use tonic::{Code, body::Body};

/// gRPC's codes, by number.
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

/// What is called here, and how it ends.
#[derive(Debug)]
pub struct Calls {
    metrics: Arc<Metrics>,
    /// The methods of the contract. What is beside it, as health and reflection, is counted as one.
    methods: Vec<Method>,
    others: Method,
    in_progress: AtomicUsize,
}

/// A call in progress.
pub(super) struct Begun(Arc<Calls>);

impl Begun {
    /// Counts its answer.
    pub(super) fn ended(&self, method: Option<usize>, response: &Response<Body>) {
        self.0.ended(method, response);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Method {
    path: String,
    ended: [OnceLock<Counter>; CODES.len()],
}

impl Calls {
    /// Counts into these metrics the calls of the methods that this set of file descriptors has.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, contract: &[u8]) -> Self {
        let methods = paths(contract).into_iter().map(Method::new).collect();
        let others = Method::new("other".into());
        Self { metrics, methods, others, in_progress: AtomicUsize::new(0) }
    }

    /// How many calls were not answered yet.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// One more call, in progress until this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        Begun(self.clone())
    }

    /// The place in the contract that a path calls.
    pub(super) fn method(&self, path: &str) -> Option<usize> {
        self.methods.iter().position(|method| method.path == path)
    }

    /// A span, if the caller's is sampled.
    pub(super) fn trace<T>(&self, request: &Request<T>) -> Trace {
        self.metrics.traces.call(request.uri().path(), request.headers())
    }

    /// Counts an answer.
    fn ended(&self, method: Option<usize>, response: &Response<Body>) {
        let method = method.map_or(&self.others, |at| &self.methods[at]);
        let code = code(response) as usize;
        let counter = method.ended[code].get_or_init(|| {
            let name = method.path.rsplit('/').next().unwrap_or_default();
            let call = Call { method: name.into(), code: CODES[code] };
            self.metrics.calls.get_or_create(&call).clone()
        });
        counter.inc();
    }
}

/// How a call ended. An answer whose head tells no code has it in its trailers: only a call that went well begins to
/// send a message.
pub(super) fn code(response: &Response<Body>) -> Code {
    let code = response.headers().get("grpc-status");
    code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

impl Method {
    fn new(path: String) -> Self {
        Self { path, ended: [const { OnceLock::new() }; CODES.len()] }
    }
}

/// The paths of all methods of the contract.
fn paths(contract: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(contract).expect("it was compiled in");
    let of_service = |package: &str, service: &ServiceDescriptorProto| {
        let service_path = format!("/{package}.{}", service.name());
        let paths = service.method.iter().map(|method| format!("{service_path}/{}", method.name()));
        paths.collect::<Vec<_>>()
    };
    let files = files.file.iter();
    files.flat_map(|f| f.service.iter().flat_map(|s| of_service(f.package(), s))).collect()
}
