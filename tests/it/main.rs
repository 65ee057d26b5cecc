//! The service as its callers meet it: real sockets, a real Postgres, a database for each test.

mod bad_requests;
mod db;
mod order;
mod raw;
mod replicas;
mod service;
mod stories;
