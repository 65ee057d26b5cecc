//! Answers over gRPC whether a Clerk user or organization may use a feature.
//!
//! Clerk Billing tells by signed webhooks who has subscribed to what. That is written to Postgres, the source
//! of truth, and every replica then stops using what it had cached. Questions are answered from memory.
//!
//! Start reading at [`access::decide`], the heart. Then follow a delivery: [`http`] receives it, [`deliveries`] takes
//! it, [`clerk`] reads it, [`store`] writes it, [`changes`] tells all replicas. Then a question: [`grpc`] takes it, [`checks`]
//! answers it, [`accounts`] knows the facts. [`service`] wires it all; `ARCHITECTURE.md` says why it is so.

#![warn(clippy::unwrap_used)]

pub mod access;
pub mod accounts;
pub mod callers;
pub mod changes;
pub mod checks;
pub mod clerk;
pub mod cli;
pub mod config;
pub mod deliveries;
pub mod doctor;
pub mod embedded;
pub mod files;
pub mod gateways;
pub mod grpc;
pub mod http;
pub mod loopback;
pub mod net;
pub mod private;
pub mod probe;
pub mod pulse;
pub mod reconcile;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upkeep;
