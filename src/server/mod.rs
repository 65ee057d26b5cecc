//! Sockets, TLS, limits, authentication, and how gRPC and HTTP are served. Nothing here knows an API.

pub mod auth;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod reload;
pub mod tls;
