//! This replica's knowledge: accounts behind a cache, the catalog, and how far behind the database both may be.

mod accounts;
mod change_feed;
pub mod change_follower;
mod epochs;
mod freshness;
mod shares;

pub use accounts::{Accounts, Known, Need, Unavailable};
pub use change_feed::Watch;
pub use freshness::{Freshness, State};
pub use shares::Shares;
