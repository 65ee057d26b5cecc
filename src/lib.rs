//! Answers over gRPC whether a Clerk user or organization may use a feature.
//!
//! Clerk Billing reports subscription changes by signed webhooks. The service writes them to Postgres, the source of
//! truth, and every replica then stops using what it had cached. Checks are answered from memory.
//!
//! Start reading at [`domain::decide`], the heart. Then follow a delivery: [`api`] receives it, [`ingest`] takes it,
//! [`clerk`] parses it, [`storage`] writes it, and [`replica`] follows the change log. Then a check: [`api`] takes it,
//! [`check`] answers it from what [`replica`] knows. [`app`] wires it all; `ARCHITECTURE.md` gives the reasons.

#![warn(clippy::unwrap_used)]

pub mod api;
pub mod app;
pub mod check;
pub mod clerk;
pub mod cli;
pub mod config;
pub mod domain;
pub mod ingest;
pub mod replica;
pub mod server;
pub mod storage;
pub mod telemetry;
