//! The gRPC methods of the service, from its descriptors.

use entitlements::{
    api::{envoy, flagd, pb},
    server::auth::Scope,
};
use prost::Message;
use prost_types::FileDescriptorSet;

/// A method from a descriptor.
pub struct Method {
    pub path: String,
    pub scope: Scope,
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
                let scope = match service.name() {
                    "Admin" => Scope::Admin,
                    "Support" => Scope::Support,
                    "Overrides" => Scope::Overrides,
                    _ => Scope::Check,
                };
                found.push(Method { path, scope, is_stream: method.server_streaming() });
            }
        }
    }
    assert!(found.len() >= 29, "{}", found.len());
    found
}
