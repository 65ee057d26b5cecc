//! Code generated from `proto/`, and the descriptors for reflection.

/// Our own contract, `entitlements.v1`.
#[expect(clippy::pedantic, reason = "generated")]
pub mod pb {
    tonic::include_proto!("entitlements.v1");

    /// The descriptor of `entitlements.v1`, for reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/entitlements.bin"));
}

/// Code generated from Envoy's part of `proto/`.
#[expect(clippy::pedantic, missing_docs, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy.rs"));
}

/// Envoy's external authorization.
pub mod envoy {
    pub use super::generated::{envoy::*, google};

    /// The descriptor of `proto/envoy/`, for reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));
}
