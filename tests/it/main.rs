//! The service as its callers meet it: real sockets, a real Postgres, a database for each test.

mod bad_calls;
mod bad_requests;
mod clerk;
mod command_line;
mod db;
mod dice;
mod durability;
mod faces;
mod fold;
mod generated;
mod guard;
mod healing;
mod ledger;
mod odd_bodies;
mod order;
mod outages;
mod parity;
mod proxy;
mod raw;
mod replicas;
mod rig;
mod service;
mod stories;
