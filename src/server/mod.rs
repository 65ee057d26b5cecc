//! Sockets, TLS, limits, authentication, and the gRPC and HTTP server loops. No module here knows an API.

pub mod api_listener;
pub mod auth;
pub mod connect;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod reload;
pub mod tls;
