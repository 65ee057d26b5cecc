//! Tests of several replicas on one database.

pub mod cache_model;
pub mod histories;
pub mod replicas;
pub mod rolling_restart;
