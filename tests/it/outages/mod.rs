//! Outages of Postgres and of processes, and recovery.

pub mod database_errors;
pub mod kills;
pub mod lifecycle;
pub mod pooler;
pub mod postgres_outages;
