//! The Connect protocol: requests become gRPC calls, and gRPC answers become Connect's. Generic over the
//! methods of a descriptor pool; it knows no message.
//!
//! Source: <https://connectrpc.com/docs/protocol>

mod answer;
mod compression;
mod error;
mod head;
mod json_keys;
mod message;
mod stream;

pub(crate) use answer::answer;
pub(crate) use error::ConnectError;
pub(crate) use head::Head;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header, request::Parts};
use message::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tonic::body::Body;

/// The methods that Connect serves, by path.
pub struct Methods {
    methods: HashMap<Box<str>, ConnectMethod>,
    services: HashSet<Box<str>>,
}

/// A method, and whether it has no side effects, so that GET may call it.
#[derive(Clone)]
pub(crate) struct ConnectMethod {
    descriptor: MethodDescriptor,
    is_safe: bool,
}

/// What is at a path.
pub(crate) enum Destination<'a> {
    /// A method.
    Method(&'a ConnectMethod),
    /// A service, without such a method.
    Service,
    /// Nothing of Connect.
    Nothing,
}

impl Methods {
    /// The methods of these encoded `FileDescriptorSet`s.
    ///
    /// # Panics
    ///
    /// If a set is not valid.
    #[must_use]
    pub fn new(descriptor_sets: &[&[u8]]) -> Self {
        let mut pool = DescriptorPool::new();
        for set in descriptor_sets {
            let added = pool.decode_file_descriptor_set(*set);
            added.expect("the build writes valid descriptors");
        }
        let path = |method: &MethodDescriptor| {
            format!("/{}/{}", method.parent_service().full_name(), method.name()).into_boxed_str()
        };
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        Self {
            services: pool.services().map(|service| service.full_name().into()).collect(),
            methods: methods.map(|method| (path(&method), ConnectMethod::new(method))).collect(),
        }
    }

    /// Looks up a path.
    pub(crate) fn find(&self, path: &str) -> Destination<'_> {
        let service = || path.strip_prefix('/')?.split_once('/').map(|(service, _)| service);
        match self.methods.get(path) {
            Some(method) => Destination::Method(method),
            None if service().is_some_and(|name| self.services.contains(name)) => {
                Destination::Service
            }
            None => Destination::Nothing,
        }
    }
}

impl ConnectMethod {
    fn new(descriptor: MethodDescriptor) -> Self {
        use prost_types::method_options::IdempotencyLevel::NoSideEffects;
        let proto = descriptor.method_descriptor_proto();
        let is_safe =
            proto.options.as_ref().is_some_and(|o| o.idempotency_level() == NoSideEffects);
        Self { descriptor, is_safe }
    }

    /// The methods of HTTP that may call it.
    pub(crate) fn allowed(&self) -> HeaderValue {
        HeaderValue::from_static(if self.is_safe { "GET, POST" } else { "POST" })
    }
}

/// The headers of a request that describe its own body and connection, and not the call.
const OF_THE_TRANSPORT: [HeaderName; 8] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::TRANSFER_ENCODING,
];

/// The gRPC call of a request, whose body has this content. It may take as long as `left`.
///
/// # Errors
///
/// If the content is not a valid message.
pub(crate) fn call(
    head: &Head,
    mut parts: Parts,
    content: Bytes,
    left: Duration,
) -> Result<Request<Body>, ConnectError> {
    let message = Message::input(head, content)?;
    let is_grpcs = |name: &&HeaderName| name.as_str().starts_with("grpc-");
    let of_grpc: Vec<_> = parts.headers.keys().filter(is_grpcs).cloned().collect();
    for name in of_grpc.iter().chain(&OF_THE_TRANSPORT) {
        parts.headers.remove(name);
    }
    let grpc = HeaderValue::from_static("application/grpc");
    parts.headers.insert(header::CONTENT_TYPE, grpc);
    parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Ok(timeout) = HeaderValue::from_str(&format!("{}m", left.as_millis())) {
        parts.headers.insert("grpc-timeout", timeout);
    }
    parts.method = http::Method::POST;
    parts.version = http::Version::HTTP_2;
    Ok(Request::from_parts(parts, message.framed()))
}
