//! Tests of every protocol.

pub mod authzen;
pub mod connect;
pub mod connect_refusals;
pub mod flagd;
pub mod flagd_sync;
pub mod gateway_tokens;
pub mod gateways;
pub mod host_header;
pub mod invalid_calls;
pub mod ofrep;
pub mod ofrep_events;
pub mod one_port;
pub mod overrides;
