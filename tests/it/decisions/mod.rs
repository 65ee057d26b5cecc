//! Decisions: plans, periods, grace, parity with Clerk.

pub mod explain;
pub mod holders;
pub mod incidents;
pub mod lifecycle_stories;
pub mod many_items;
pub mod override_requests;
pub mod override_times;
pub mod overrides;
pub mod parity;
pub mod past_due;
pub mod plan_ids;
pub mod receipts;
pub mod removed_history;
pub mod sql_concurrency;
pub mod sql_parity;
