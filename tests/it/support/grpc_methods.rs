//! The gRPC methods of the service, from its descriptors.

use entitlements::api::{envoy, flagd, pb};
use prost::Message;
use prost_types::FileDescriptorSet;

/// A method from a descriptor.
pub struct Method {
    pub path: String,
    pub is_admin: bool,
    pub is_stream: bool,
}

/// All methods of all services.
pub fn methods() -> Vec<Method> {
    let others = [envoy::DESCRIPTOR, flagd::pb::EVALUATION, flagd::pb::SYNC];
    let files = [pb::DESCRIPTOR].into_iter().chain(others);
    let files = files.map(|descriptor| FileDescriptorSet::decode(descriptor).unwrap().file);
    let mut found = Vec::new();
    for file in files.flatten() {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let is_admin = service.name() == "Admin";
                found.push(Method { path, is_admin, is_stream: method.server_streaming() });
            }
        }
    }
    assert!(found.len() >= 24, "{}", found.len());
    found
}
