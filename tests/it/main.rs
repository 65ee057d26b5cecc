//! Tests of the service through its public protocols: real sockets, a real Postgres, one database for each test.

mod decisions;
mod ingest;
mod operations;
mod outages;
mod protocols;
mod replication;
mod security;
mod support;
