//! The service as its callers meet it: real sockets, a real Postgres, a database for each test.

mod db;
mod order;
mod replicas;
mod service;
mod stories;
