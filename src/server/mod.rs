//! Sockets, TLS, limits, authentication, and the gRPC and HTTP server loops. No module here knows an API.

pub mod auth;
pub mod connect_protocol;
pub mod grpc;
pub mod http;
pub mod http_versions;
pub mod listener;
pub mod reload;
pub mod tls;
