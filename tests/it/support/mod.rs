//! Helpers: processes, clients, proxies, fakes and generators.

pub mod callers_file;
pub mod certificates;
pub mod checkout;
pub mod database;
pub mod fake_clerk;
pub mod flagd;
pub mod gateway_replica;
pub mod gateway_requests;
pub mod grpc_methods;
pub mod http2_frames;
pub mod http_client;
pub mod manifests;
pub mod metrics;
pub mod ofrep;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod raw_socket;
pub mod rng;
pub mod service;
pub mod session_signer;
pub mod shell;
pub mod skip;
pub mod stories;
pub mod webhook_attacks;
pub mod webhook_cases;
