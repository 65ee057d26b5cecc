//! Code generated from `proto/flagd/`.
#![expect(clippy::pedantic, missing_docs, reason = "generated")]

pub mod v1 {
    tonic::include_proto!("flagd.evaluation.v1");
}

pub mod v2 {
    tonic::include_proto!("flagd.evaluation.v2");
}

pub mod sync {
    tonic::include_proto!("flagd.sync.v1");
}

/// The descriptor of `flagd.evaluation`, for reflection.
pub const EVALUATION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flagd_evaluation.bin"));
/// The descriptor of `flagd.sync`, for reflection.
pub const SYNC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flagd_sync.bin"));
