//! Who may use what, until when: pure functions over facts, a catalog and an instant.
//!
//! Nothing here knows SQL, proto, JSON, the clock or async. Read [`decide`] first: it is the heart of
//! the service, and everything else exists to hand it the right facts.

mod account;
mod catalog;
mod decide;
mod explanation;
mod item;
pub mod loopback;
mod packed_items;
mod question;
mod reason;
mod revision;
mod subject;
#[cfg(test)]
mod tests;
mod update;

pub use account::{Account, Effect, Override, Standing};
pub use catalog::{Catalog, InvalidCatalog, Plan, PlanNames, Shelf};
pub use decide::{Decision, Entitlement, PreparedAccounts, Verdict, decide, entitlements};
pub use explanation::Told;
pub use item::{Access, Grace, Item, Seats, Status, Until};
pub use packed_items::{Items, TooLong};
pub use question::{InvalidSlug, Question, Scope, Slug, Wanted};
pub use reason::{Denial, Grant};
pub use revision::{InvalidRevision, Revision};
pub use subject::{Id, InvalidSubject, Kind, Subject};
pub use update::{Message, News, Observation, Payment, PlanName, Reading, Snapshot, summary};
