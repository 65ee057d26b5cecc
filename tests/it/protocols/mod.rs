//! Tests of every protocol.

pub mod authzen;
pub mod flagd;
pub mod flagd_sync;
pub mod gateways;
pub mod host_header;
pub mod invalid_calls;
pub mod ofrep;
