//! The state of this replica: cached accounts, the catalog, and how far both may be behind the database.

mod accounts;
mod catalog_in_use;
mod change_feed;
pub mod change_follower;
mod consistency;
mod epochs;
mod error;
mod freshness;
mod load_limits;

pub use accounts::{Accounts, CachedAccount};
pub use change_feed::ChangeSubscription;
pub use consistency::Consistency;
pub use error::Unavailable;
pub use freshness::{Freshness, FreshnessState};
pub use load_limits::LoadLimits;
