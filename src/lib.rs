//! An entitlements service for Clerk Billing: it decides whether a Clerk user or organization may use a feature.
//!
//! Clerk Billing reports subscription changes by signed webhooks. The service writes them to Postgres, the source of
//! truth, and every replica then invalidates the accounts that changed. Checks are answered from memory.
//!
//! Start at [`domain::decide`], the core of the service. Then follow a delivery: [`api`] receives it, and [`ingest`]
//! passes it to [`clerk`], which parses it, and to [`storage`], which writes it; [`replica`] follows the change log.
//! Then follow a check: [`api`] receives it, and [`check`] answers it from the accounts that [`replica`] caches.
//! [`app`] wires the parts together; `ARCHITECTURE.md` gives the reasons.

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
