//! Deliveries, replays and reconciliation: parsed, applied, parked and rejected bodies.

pub mod backfill;
pub mod deletions;
pub mod fuzz_corpus;
pub mod generated_stories;
pub mod instances;
pub mod invalid_requests;
pub mod large_and_slow_bodies;
pub mod ledger;
pub mod malformed_webhooks;
pub mod missing_dates;
pub mod mutations;
pub mod observations;
pub mod order;
pub mod reconcile;
pub mod reconcile_failures;
pub mod untidy_backend_answers;
pub mod untidy_captured_bodies;
pub mod untidy_dates;
pub mod untidy_parts;
pub mod untidy_reported_bugs;
pub mod untidy_values;
