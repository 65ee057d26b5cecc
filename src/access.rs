//! Who may use what, until when: pure functions over facts, a catalog and an instant.
//!
//! Nothing here knows SQL, proto, JSON, the clock or async. Read [`decide`] first: it is the heart of
//! the service, and everything else exists to hand it the right facts.

mod account;
mod catalog;
mod decide;
mod item;
mod items;
mod news;
mod question;
mod reason;
mod revision;
mod subject;
#[cfg(test)]
mod tests;
mod told;

pub use account::{Account, Effect, Override, Standing};
pub use catalog::{Catalog, InvalidCatalog, Plan, PlanNames, Shelf};
pub use decide::{Decision, Entitlement, PreparedAccounts, Verdict, decide, entitlements};
pub use item::{Access, Grace, Item, Seats, Status, Until};
pub use items::{Items, TooLong};
pub use news::{Message, News, Observation, Payment, PlanName, Reading, Snapshot, summary};
pub use question::{InvalidSlug, Question, Scope, Slug, Wanted};
pub use reason::{Denial, Grant};
pub use revision::{InvalidRevision, Revision};
pub use subject::{Id, InvalidSubject, Kind, Subject};
pub use told::Told;
